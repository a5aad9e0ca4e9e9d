package quant

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Header is what can be said of a stored weight without reading its codes and scales: enough to declare a layer for it.
type Header struct {
	// Config says the scheme, the block size and whether the scales are quantized again. Its scheme may be any.
	Config Config
	Bits   int         // of a code, for Affine and KBit
	ByRow  bool        // blocks are cut from each row alone
	Zeros  bool        // there are zero points
	Type   tensor.Type // of the weight that the codes stand for
}

// ReadHeader reads the description of the weight called name from the tensors that StateDict names, the small ones only. codes is the type
// of the tensor called name itself. 4-bit scales whose second level is not the library's own (another block size or code table) are
// announced as plain: see State.Flatten.
func ReadHeader(name string, codes tensor.Type, get Lookup) (*Header, error) {
	h, err := readHeader(name, codes, get)
	if err != nil {
		return nil, fmt.Errorf("quant: %s: %w", name, err)
	}
	return h, nil
}

func readHeader(name string, codes tensor.Type, get Lookup) (*Header, error) {
	form, err := findForm(name, get)
	if err != nil {
		return nil, err
	}
	switch form {
	case NF4, FP4:
		return header4(name, get)
	case Int8:
		if codes.DType != tensor.I8 || codes.Rank() != 2 {
			return nil, fmt.Errorf("it is %v beside %s: int8 codes of a matrix are expected", codes, sibling(name, "SCB"))
		}
		h := &Header{Config: Config{Scheme: Int8}, ByRow: true, Type: tensor.Type{DType: tensor.F16, Shape: codes.Shape}}
		return h, checkWeightFormat(sibling(name, "weight_format"), get)
	}
	s, j, err := describedOwn(name, get)
	if err != nil {
		return nil, err
	}
	return &Header{Config: Config{Scheme: s.Scheme, Blocksize: s.Blocksize, Double: j.NestedBlocksize > 0}, Bits: s.Bits, ByRow: s.ByRow,
		Zeros: j.Zeros, Type: s.Type()}, nil
}

func header4(name string, get Lookup) (*Header, error) {
	s, nested, err := described4(name, get)
	if err != nil {
		return nil, err
	}
	if nested && s.nestedBlocksize() == StateBlocksize {
		values, err := needFloats(name+suffixNestedMap, get)
		if err != nil {
			return nil, err
		}
		nested = slices.Equal(values, DynamicSigned().values[:])
	} else {
		nested = false
	}
	return &Header{Config: Config{Scheme: s.Scheme, Blocksize: s.Blocksize, Double: nested}, Type: s.Type()}, nil
}

// Name describes the storage in the words of ParseFormat, such as "nf4:double" or "int4:group=128,asym"; tables of values are not told.
func (h *Header) Name() string {
	c := h.Config
	per := Granularity(c.Blocksize)
	switch {
	case !h.ByRow:
		per = PerTensor
	case h.Type.Rank() > 0 && c.Blocksize == h.Type.Dim(-1):
		per = PerChannel
	}
	switch c.Scheme {
	case Affine:
		return AffineFormat{Bits: h.Bits, Per: per, Asymmetric: h.Zeros}.Name()
	case KBit:
		return KBitFormat{Bits: h.Bits, Blocksize: c.Blocksize, Double: c.Double}.Name()
	case Blockwise8:
		return BlockwiseFormat{Blocksize: c.Blocksize, Double: c.Double}.Name()
	case FP8E4M3, FP8E5M2:
		return FP8Format{Scheme: c.Scheme, Per: per}.Name()
	}
	return c.Name()
}

// Flatten restores scales whose second level is not in blocks of StateBlocksize over the signed dynamic table, which is the only one
// that kernels know. The weight keeps its value to the bit; its scales take four bytes instead of one.
func (s *State) Flatten() error {
	if !s.Nested() || s.nestedBlocksize() == StateBlocksize && slices.Equal(s.nestedMap()[:], DynamicSigned().values[:]) {
		return nil
	}
	plain := make([]float32, s.Blocks())
	if err := s.Scales(plain, 0, len(plain)); err != nil {
		return err
	}
	s.Absmax, s.AbsmaxU8, s.NestedAbsmax, s.NestedMap, s.NestedBlocksize, s.NestedOffset = plain, nil, nil, nil, 0, 0
	return nil
}
