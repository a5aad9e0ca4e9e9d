package quant

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Header is what can be said of a stored weight without reading its codes and scales: enough to declare a layer for it.
type Header struct {
	Config Config
	Type   tensor.Type // of the weight that the codes stand for
}

// ReadHeader reads the description of the 4-bit weight called name from the tensors that StateDict names, the small ones only. Scales
// whose second level is not the library's own (another block size or code table) are announced as plain: see State.Flatten.
func ReadHeader(name string, get Lookup) (*Header, error) {
	scheme, text, err := findState(name, get)
	if err != nil {
		return nil, fmt.Errorf("quant: %s: %w", name, err)
	}
	s, nested, err := parseState(text)
	if err != nil {
		return nil, fmt.Errorf("quant: %s%s%v: %w", name, suffixState, scheme, err)
	}
	if nested && s.nestedBlocksize() == StateBlocksize {
		values, err := needFloats(name+suffixNestedMap, get)
		if err != nil {
			return nil, fmt.Errorf("quant: %s: %w", name, err)
		}
		nested = equalBits(values, DynamicSigned().values[:])
	} else {
		nested = false
	}
	return &Header{Config: Config{Scheme: s.Scheme, Blocksize: s.Blocksize, Double: nested}, Type: tensor.Type{DType: s.DType, Shape: s.Shape}}, nil
}

// Flatten restores scales whose second level is not in blocks of StateBlocksize over the signed dynamic table, which is the only one
// that kernels know. The weight keeps its value to the bit; its scales take four bytes instead of one.
func (s *State) Flatten() error {
	if !s.Nested() || s.nestedBlocksize() == StateBlocksize && equalBits(s.nestedMap()[:], DynamicSigned().values[:]) {
		return nil
	}
	plain := make([]float32, s.Blocks())
	if err := s.Scales(plain, 0, len(plain)); err != nil {
		return err
	}
	s.Absmax, s.AbsmaxU8, s.NestedAbsmax, s.NestedMap, s.NestedBlocksize, s.NestedOffset = plain, nil, nil, nil, 0, 0
	return nil
}

func equalBits(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
