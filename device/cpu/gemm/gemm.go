// Package gemm multiplies matrices on the CPU: C = alpha*op(A)*op(B), or that added to C, with float32 sums.
//
// The layout is the one of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (ACM TOMS 34(3), 2008): K is
// cut into blocks that fit the first cache, both operands are packed into strips as wide as the registers allow, and a
// micro-kernel in assembly multiplies strips. Operands in bfloat16 or binary16, and quantized ones behind a [Source], become
// float32 while they are packed. Matrices with very few rows or columns are not packed.
//
// Results depend on the shapes, types and chosen [Kernel] only: threads share out tiles of C, and every element of C is summed
// over K in one fixed order.
package gemm

import (
	"fmt"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Source is an operand that is decoded while it is read, such as a quantized weight.
type Source interface {
	// Block writes elements [r0,r1) x [c0,c1) of the stored (not transposed) matrix as float32: element (r,c) goes to
	// dst[(r-r0)*ld+c-c0]. It is called from several goroutines at once with ranges inside the matrix, which may start anywhere.
	Block(dst []float32, ld, r0, r1, c0, c1 int)
}

// Packer is a Source that can decode itself straight into strips. As operand B it is packed whatever the extents are: then size the
// scratch with PackedScratchBytes.
type Packer interface {
	Source
	// Pack writes lanes [lane, lane+lanes) for k0 <= k < k0+kb as strips of w lanes: element k of lane l goes to
	// dst[s*w*kb+(k-k0)*w+i] with l-lane = s*w+i, and anything beside the lanes of a last strip. laneRows says that lanes are the stored
	// rows, otherwise they are its columns, and lanes is a multiple of w. It reports false where it cannot; Block is called then. It is
	// called from several goroutines at once.
	Pack(dst []float32, w, lane, lanes, k0, kb int, laneRows bool) bool
}

// Mat is an operand. The zero LD means that rows follow each other without gaps.
type Mat struct {
	Data   []byte       // row-major, aligned for its type; unused when Source is set
	DType  tensor.DType // F32, BF16, F16, or F64 (then A, B and C all are); unused when Source is set
	LD     int          // elements from one stored row to the next
	Trans  bool         // multiply by the transpose of the stored matrix
	Source Source       // if not nil, where the elements come from
}

// Out is the result, [M,N] row-major. It must not overlap an operand.
type Out struct {
	Data  []byte
	DType tensor.DType // F32, BF16, F16 or F64
	LD    int          // elements from one row to the next, 0 for N
}

// Args describes one product: op(A) is [M,K], op(B) is [K,N], C is [M,N].
type Args struct {
	M, N, K    int
	A, B       Mat
	C          Out
	Accumulate bool   // add to C instead of replacing it
	Kernel     Kernel // force an implementation; the zero value takes the fastest one
}

// maxDim bounds each extent and stride, so that products of two stay far from overflow.
const maxDim = 1<<31 - 1

// Gemm computes C = alpha*op(A)*op(B), plus C if args.Accumulate. Sums are float32 (float64 if the matrices are F64), and C is
// rounded once, at the end. With K = 0 the product is zero. scratch must have at least ScratchBytes(M, N, K, p.Threads()) bytes,
// or PackedScratchBytes if B is a Packer;
// its content is lost. Nothing is allocated once the process has done a few calls. A nil pool computes on the calling goroutine.
func Gemm(p *pool.Pool, scratch []byte, alpha float64, args Args) error {
	if err := args.check(); err != nil {
		return fmt.Errorf("gemm: %w", err)
	}
	if args.M == 0 || args.N == 0 {
		return nil
	}
	if args.K == 0 {
		if !args.Accumulate {
			args.C.zero(args.M, args.N)
		}
		return nil
	}
	j := newJob()
	defer j.release()
	j.Args, j.alpha, j.alpha64, j.kern = args, float32(alpha), alpha, kernels[args.Kernel.resolve()]
	if args.C.DType == tensor.F64 {
		return j.float64s(p)
	}
	if err := j.layout(scratch, p.Threads()); err != nil {
		return fmt.Errorf("gemm: %w", err)
	}
	if j.small {
		return j.runSmall(p)
	}
	return j.run(p)
}

func (g *Args) check() error {
	for _, d := range [...]int{g.M, g.N, g.K} {
		if d < 0 || d > maxDim {
			return fmt.Errorf("sizes M=%d N=%d K=%d: each must be in [0, %d]", g.M, g.N, g.K, maxDim)
		}
	}
	if !g.Kernel.Available() {
		return fmt.Errorf("kernel %v does not run on this processor or is not in this build; use Auto", g.Kernel)
	}
	if err := g.A.check("A", g.M, g.K, g.C.DType); err != nil {
		return err
	}
	if err := g.B.check("B", g.K, g.N, g.C.DType); err != nil {
		return err
	}
	return checkDense("C", g.C.Data, g.C.DType, g.M, g.N, &g.C.LD)
}

// check takes the extents of op(X) and sets LD if it is zero.
func (x *Mat) check(name string, rows, cols int, out tensor.DType) error {
	if x.Trans {
		rows, cols = cols, rows
	}
	if x.Source != nil {
		if out == tensor.F64 {
			return fmt.Errorf("%s is a Source but C is f64; sources give f32", name)
		}
		x.DType = tensor.Invalid
		return nil
	}
	if (x.DType == tensor.F64) != (out == tensor.F64) {
		return fmt.Errorf("%s is %v but C is %v; f64 does not mix with other types", name, x.DType, out)
	}
	return checkDense(name, x.Data, x.DType, rows, cols, &x.LD)
}

func checkDense(name string, data []byte, dt tensor.DType, rows, cols int, ld *int) error {
	if !dt.IsFloat() {
		return fmt.Errorf("%s has type %v; want f32, bf16, f16 or f64", name, dt)
	}
	if *ld == 0 {
		*ld = max(cols, 1)
	}
	if *ld < cols || *ld > maxDim {
		return fmt.Errorf("%s [%d,%d] has row stride %d; want at least the columns and at most %d", name, rows, cols, *ld, maxDim)
	}
	if rows == 0 || cols == 0 {
		return nil
	}
	if need := (rows-1)**ld + cols; need > len(data)/dt.Size() {
		return fmt.Errorf("%s %v[%d,%d] with row stride %d needs %d elements, the data has %d", name, dt, rows, cols, *ld, need,
			len(data)/dt.Size())
	}
	if uintptr(unsafe.Pointer(&data[0]))%uintptr(dt.Size()) != 0 {
		return fmt.Errorf("%s is not aligned for %v; allocate it with tensor.AlignedBytes", name, dt)
	}
	return nil
}

func (c *Out) zero(m, n int) {
	size := c.DType.Size()
	for i := range m {
		at := i * c.LD * size
		clear(c.Data[at : at+n*size])
	}
}
