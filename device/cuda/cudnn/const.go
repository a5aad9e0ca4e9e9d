package cudnn

import "fmt"

type kind int32 // of a descriptor

const (
	kindPointwise      kind = 0
	kindEngineConfig   kind = 3
	kindHeuristic      kind = 4
	kindPlan           kind = 5
	kindOpPointwise    kind = 13
	kindOperationGraph kind = 15
	kindVariantPack    kind = 16
	kindTensor         kind = 17
	kindMatmul         kind = 18
	kindOpMatmul       kind = 19
	kindReduction      kind = 21
	kindOpReduction    kind = 22
	kindOpReshape      kind = 31
)

var kindNames = map[kind]string{kindPointwise: "pointwise", kindEngineConfig: "engine config", kindHeuristic: "heuristic", kindPlan: "plan",
	kindOpPointwise: "pointwise operation", kindOperationGraph: "operation graph", kindVariantPack: "variant pack", kindTensor: "tensor",
	kindMatmul: "matmul", kindOpMatmul: "matmul operation", kindReduction: "reduction", kindOpReduction: "reduction operation",
	kindOpReshape: "reshape operation"}

// String names a kind of descriptor.
func (k kind) String() string {
	if n, ok := kindNames[k]; ok {
		return n
	}
	return fmt.Sprintf("descriptor %d", int32(k))
}

type attrType int32

const (
	typeHandle        attrType = 0
	typeDataType      attrType = 1
	typeBool          attrType = 2 // one byte
	typeInt64         attrType = 3
	typeDouble        attrType = 5
	typePointer       attrType = 6
	typeHeurMode      attrType = 8
	typePointwiseMode attrType = 14
	typeDescriptor    attrType = 15
	typeReductionOp   attrType = 18
	typeChar          attrType = 24
)

type attr int32

const (
	pointwiseMode attr = 0
	pointwisePrec attr = 1
	pointwiseAxis attr = 9

	heurMode    attr = 200
	heurGraph   attr = 201
	heurResults attr = 202

	planHandle    attr = 400
	planConfig    attr = 401
	planWorkspace attr = 402
	planJSON      attr = 405

	opPointwiseDesc attr = 750
	opPointwiseX    attr = 751
	opPointwiseB    attr = 752
	opPointwiseY    attr = 753
	opPointwiseDX   attr = 756
	opPointwiseDY   attr = 757
	opPointwiseT    attr = 758 // predicate

	graphHandle attr = 800
	graphOps    attr = 801

	tensorAlign   attr = 900
	tensorType    attr = 901
	tensorDims    attr = 902
	tensorStrides attr = 903
	tensorID      attr = 906
	tensorVirtual attr = 907
	tensorByValue attr = 908
	tensorRagged  attr = 913

	packIDs       attr = 1000
	packPointers  attr = 1001
	packWorkspace attr = 1003

	matmulPrec    attr = 1500
	matmulPadding attr = 1503
	opMatmulA     attr = 1520
	opMatmulB     attr = 1521
	opMatmulC     attr = 1522
	opMatmulDesc  attr = 1523
	opMatmulM     attr = 1525
	opMatmulN     attr = 1526
	opMatmulK     attr = 1527

	reductionMode   attr = 1600
	reductionPrec   attr = 1601
	opReductionX    attr = 1610
	opReductionY    attr = 1611
	opReductionDesc attr = 1612

	opReshapeX attr = 2200
	opReshapeY attr = 2201
)

// DType is the element type of a tensor.
type DType int32

// The element types that are used.
const (
	F32  DType = 0
	F16  DType = 2
	I32  DType = 4
	BF16 DType = 9
	I64  DType = 10

	boolean DType = 11
)

type mode int32 // of a pointwise operation

const (
	modeAdd      mode = 0
	modeMul      mode = 1
	modeDiv      mode = 6
	modeSub      mode = 9
	modeExp      mode = 13
	modeLog      mode = 15
	modeIdentity mode = 21
	modeTanh     mode = 101
	modeTanhBack mode = 201
	modeGreater  mode = 302
	modeAtLeast  mode = 303
	modeLess     mode = 304
	modeAnd      mode = 400
	modeIndex    mode = 501
	modeSelect   mode = 601
)

const (
	reduceAdd int32 = 0
	reduceMax int32 = 3

	heuristicA        int32 = 3
	heuristicFallback int32 = 2
)
