package quant

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Join stacks weights in NF4, FP4 or int8 along their first axis: (rows, ...) each, of one scheme, block size and inner axes, in row-major
// order one behind the other, to a weight of the given shape with as many elements. It keeps every value to the bit. Scales of a second level belong
// to one weight each, so the result has scales in float32; Nest quantizes them together. A 4-bit part must end where a block ends.
func Join(shape tensor.Shape, parts ...*State) (*State, error) {
	if len(parts) == 0 {
		return nil, fmt.Errorf("quant: no weights to join")
	}
	first := parts[0]
	out := &State{Scheme: first.Scheme, Blocksize: first.Blocksize, ByRow: first.ByRow, Shape: shape, DType: first.DType, Storage: first.Storage}
	n := 0
	for i, p := range parts {
		if err := p.Validate(); err != nil {
			return nil, fmt.Errorf("quant: part %d: %w", i, err)
		}
		switch {
		case !p.Scheme.FourBit() && p.Scheme != Int8:
			return nil, fmt.Errorf("quant: part %d is stored in %v; nf4, fp4 and int8 can be joined", i, p.Scheme)
		case p.Scheme != first.Scheme || p.Blocksize != first.Blocksize || p.DType != first.DType || p.Storage != first.Storage:
			return nil, fmt.Errorf("quant: part %d is %v of %v in blocks of %d, the first %v of %v in blocks of %d: parts of one weight must be stored alike",
				i, p.Scheme, p.DType, p.Blocksize, first.Scheme, first.DType, first.Blocksize)
		case p.Scheme.FourBit() && p.Size()%p.Blocksize != 0:
			return nil, fmt.Errorf("quant: part %d has %d elements, no multiple of the block size %d, so its last block cannot be joined to the next; "+
				"dequantize the model and quantize it again", i, p.Size(), p.Blocksize)
		}
		scales := make([]float32, p.Blocks())
		if err := p.Scales(scales, 0, len(scales)); err != nil {
			return nil, fmt.Errorf("quant: part %d: %w", i, err)
		}
		out.Codes, out.Absmax = append(out.Codes, p.Codes...), append(out.Absmax, scales...)
		n += p.Size()
	}
	if !shape.Valid() || shape.Size() != n {
		return nil, fmt.Errorf("quant: %d elements do not make a weight of shape %v", n, shape)
	}
	return out, out.Validate()
}

// Nest quantizes the float32 scales of a 4-bit weight once more, as double quantization does.
func (s *State) Nest() error {
	if !s.Scheme.FourBit() || s.Nested() {
		return fmt.Errorf("quant: the scales of a weight in %v cannot be quantized (double quantization %v already)", s.Scheme, s.Nested())
	}
	return s.nest(StateBlocksize)
}
