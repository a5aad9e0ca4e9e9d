package quant

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// weightFormats are the layouts that weight_format numbers. All but the first are tile orders of GPUs that the library gave up in 0.45.
var weightFormats = []string{"row", "col32", "col_turing", "col_ampere"}

func (s *State) dictInt8(name string) (map[string]*tensor.Tensor, error) {
	codes, err := tensor.FromBytes(tensor.Type{DType: tensor.I8, Shape: s.Shape}, s.Codes)
	if err != nil {
		return nil, err
	}
	return map[string]*tensor.Tensor{
		name:                           codes,
		sibling(name, "SCB"):           vector(s.Absmax),
		sibling(name, "weight_format"): tensor.Scalar[uint8](0),
	}, nil
}

// readInt8 reads bitsandbytes' form of Int8. A missing weight_format means rows, as in files of its first versions.
func readInt8(name string, get Lookup) (*State, error) {
	if err := checkWeightFormat(sibling(name, "weight_format"), get); err != nil {
		return nil, err
	}
	codes, err := need(name, get)
	if err != nil {
		return nil, err
	}
	if codes.DType() != tensor.I8 || codes.Shape().Rank() == 0 {
		return nil, fmt.Errorf("it is %v beside %s: int8 codes of a matrix are expected", codes.Type(), sibling(name, "SCB"))
	}
	s := &State{Shape: codes.Shape(), DType: tensor.F16, Codes: codes.Bytes()}
	if err := (Config{Scheme: Int8}).header(s); err != nil {
		return nil, err
	}
	s.Absmax, err = needFloats(sibling(name, "SCB"), get)
	return s, err
}

func checkWeightFormat(name string, get Lookup) error {
	t, ok, err := get(name)
	if err != nil || !ok {
		return err
	}
	if t.DType() != tensor.U8 || t.Shape().Size() != 1 {
		return fmt.Errorf("%s is %v: want one u8", name, t.Type())
	}
	switch f := t.Bytes()[0]; {
	case f == 0:
		return nil
	case int(f) < len(weightFormats):
		return fmt.Errorf("%s is %d (%s), a tile order of bitsandbytes before 0.45: load and save the model with bitsandbytes 0.44 on the "+
			"GPU that wrote it, with format row, or quantize the full-precision model", name, f, weightFormats[f])
	default:
		return fmt.Errorf("%s is %d, which is not known here: a newer library wrote it; 0 (row) is", name, f)
	}
}
