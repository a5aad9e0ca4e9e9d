package quant

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Names that bitsandbytes and, from suffixOwn on, this project append to a weight's name in a state dict.
const (
	suffixAbsmax       = ".absmax"
	suffixMap          = ".quant_map"
	suffixNestedAbsmax = ".nested_absmax"
	suffixNestedMap    = ".nested_quant_map"
	suffixState        = ".quant_state.bitsandbytes__"
	suffixOwn          = ".quant_state.bitsandbyes"
	suffixZeros        = ".zeros"
)

const maxStateJSON = 1 << 12 // the longest legitimate text is below 400 bytes

// Lookup returns the tensor of a checkpoint under an exact name; ok is false when there is none.
type Lookup func(name string) (t *tensor.Tensor, ok bool, err error)

// StateDictNames lists the names that StateDict(name) may use for a tensor, so that readers can tell them from other tensors.
func StateDictNames(name string) []string {
	return []string{
		name, name + suffixAbsmax, name + suffixMap, name + suffixNestedAbsmax, name + suffixNestedMap,
		name + suffixState + NF4.String(), name + suffixState + FP4.String(), name + suffixOwn, name + suffixZeros,
		sibling(name, "SCB"), sibling(name, "weight_format"),
	}
}

// StateDict returns the tensors under which a checkpoint stores a weight called name, such as "q_proj.weight". They share no storage with s but the codes.
//
// NF4 and FP4, as bitsandbytes has them: name itself (the code bytes, [k, 1], viewed as Storage), .absmax, .quant_map, with double
// quantization .nested_absmax and .nested_quant_map, and .quant_state.bitsandbytes__<scheme>, the JSON description as bytes.
//
// Int8, as bitsandbytes has it: name itself (i8 of the weight's shape), and beside the weight, in its module, SCB (f32, one a row) and
// weight_format (a u8 scalar, 0 for rows).
//
// The other schemes, which bitsandbytes has no form for: name itself (u8 bytes of packed codes), .absmax, .zeros, .quant_map, with double
// quantization as above, and .quant_state.bitsandbyes, a JSON description with a version.
func (s *State) StateDict(name string) (map[string]*tensor.Tensor, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var dict map[string]*tensor.Tensor
	var err error
	switch {
	case s.Scheme.FourBit():
		dict, err = s.dict4(name)
	case s.Scheme == Int8:
		dict, err = s.dictInt8(name)
	default:
		dict, err = s.dictOwn(name)
	}
	if err != nil {
		return nil, fmt.Errorf("quant: %s: %w", name, err)
	}
	return dict, nil
}

// FromStateDict reads the tensors that StateDict names, in whichever of its forms they are. Everything is checked before anything is
// trusted: types, sizes against the described shape, code tables, scales. The result shares the storage of the tensors. Int8 does not
// store the type that the weight had; it is given as F16.
func FromStateDict(name string, get Lookup) (*State, error) {
	s, err := fromStateDict(name, get)
	if err != nil {
		return nil, fmt.Errorf("quant: %s: %w", name, err)
	}
	return s, nil
}

func fromStateDict(name string, get Lookup) (*State, error) {
	form, err := findForm(name, get)
	if err != nil {
		return nil, err
	}
	var s *State
	switch form {
	case Int8:
		s, err = readInt8(name, get)
	case NF4, FP4:
		s, err = read4(name, get)
	default:
		s, err = readOwn(name, get)
	}
	if err != nil {
		return nil, err
	}
	return s, s.Check()
}

// findForm tells by the names that are there in which form a weight is stored: NF4 or FP4 for either, Int8, or KBit for the project's own.
func findForm(name string, get Lookup) (form Scheme, err error) {
	var there [4]bool
	for i, n := range []string{name + suffixState + NF4.String(), name + suffixState + FP4.String(), sibling(name, "SCB"), name + suffixOwn} {
		if _, there[i], err = get(n); err != nil {
			return 0, err
		}
	}
	switch {
	case there[0] && there[1]:
		return 0, fmt.Errorf("both an nf4 and an fp4 description: the checkpoint is inconsistent")
	case (there[0] || there[1]) && (there[2] || there[3]) || there[2] && there[3]:
		return 0, fmt.Errorf("descriptions of two kinds: the checkpoint is inconsistent")
	case there[0] || there[1]:
		return NF4, nil
	case there[2]:
		return Int8, nil
	case there[3]:
		return KBit, nil
	}
	for _, kind := range []string{"af4", "int4", "nf3", "nf2", "fp8", "int8"} {
		if _, ok, err := get(name + suffixState + kind); err != nil {
			return 0, err
		} else if ok {
			return 0, fmt.Errorf("it is quantized as %s, which is not known here; nf4, fp4 and int8 are", kind)
		}
	}
	return 0, fmt.Errorf("no %s%snf4 or ...fp4, no %s, no %s%s: the tensor is not quantized", name, suffixState, sibling(name, "SCB"), name, suffixOwn)
}

// Check is Validate and a look at every scale and code: it refuses those that no quantizer writes and that would give wrong numbers
// without a word. Whoever reads a state from a file calls it; FromStateDict does.
func (s *State) Check() error {
	if err := s.Validate(); err != nil {
		return err
	}
	for _, level := range []struct {
		what   string
		scales []float32
	}{{"scale", s.Absmax}, {"second-level scale", s.NestedAbsmax}} {
		for b, a := range level.scales {
			if !(a >= 0) || !finite(a) {
				return fmt.Errorf("quant: %s %d is %v: the checkpoint is damaged, or the weights held NaN or infinity", level.what, b, a)
			}
		}
	}
	if s.Nested() && s.NestedOffset < 0 {
		return fmt.Errorf("quant: the mean of the scales is %v: it is negative, and scales are not", s.NestedOffset)
	}
	switch s.Scheme {
	case Int8:
		if i := bytes.IndexByte(s.Codes, 0x80); i >= 0 {
			return fmt.Errorf("quant: code %d is -128: codes are from -127 to 127", i)
		}
	case FP8E4M3, FP8E5M2:
		for i, c := range s.Codes {
			if !finite(s.levels()[c]) {
				return fmt.Errorf("quant: code %d is %#02x, which is %v: the checkpoint is damaged", i, c, s.levels()[c])
			}
		}
	}
	return nil
}

func need(name string, get Lookup) (*tensor.Tensor, error) {
	t, ok, err := get(name)
	if err != nil {
		return nil, err
	}
	if !ok || t == nil {
		return nil, fmt.Errorf("tensor %s is missing", name)
	}
	return t, nil
}

func needFloats(name string, get Lookup) ([]float32, error) {
	t, err := need(name, get)
	if err != nil {
		return nil, err
	}
	if t.DType() != tensor.F32 {
		return nil, fmt.Errorf("%s is %v: want f32", name, t.Type())
	}
	return tensor.Data[float32](t), nil
}

func storageOK(d tensor.DType) bool {
	return d == tensor.U8 || d == tensor.F16 || d == tensor.BF16 || d == tensor.F32
}

func vector[E tensor.Element](v []E) *tensor.Tensor {
	t := tensor.New(tensor.T(kind[E](), len(v)))
	copy(tensor.Data[E](t), v)
	return t
}

func kind[E tensor.Element]() tensor.DType {
	var e E
	if _, ok := any(e).(float32); ok {
		return tensor.F32
	}
	return tensor.U8
}

func torchName(d tensor.DType) string {
	switch d {
	case tensor.F16:
		return "float16"
	case tensor.BF16:
		return "bfloat16"
	}
	return "float32"
}

func torchDType(name string) (tensor.DType, bool) {
	for _, d := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
		if torchName(d) == name {
			return d, true
		}
	}
	return tensor.Invalid, false
}

// sibling is the name of another tensor of the module that a weight belongs to: "q_proj.SCB" beside "q_proj.weight". A tensor that is
// not called weight keeps its name as the module's.
func sibling(name, other string) string {
	if name == "weight" {
		return other
	}
	return strings.TrimSuffix(name, ".weight") + "." + other
}
