package quant

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func (s *State) dict4(name string) (map[string]*tensor.Tensor, error) {
	storage := s.Storage
	if storage == tensor.Invalid {
		storage = tensor.U8
	}
	size := storage.Size()
	if !storageOK(storage) || len(s.Codes)%size != 0 {
		return nil, fmt.Errorf("%d code bytes cannot be stored as %v: use u8", len(s.Codes), storage)
	}
	codes, err := tensor.FromBytes(tensor.T(storage, len(s.Codes)/size, 1), s.Codes)
	if err != nil {
		return nil, err
	}
	table := s.Scheme.storedTable()
	dict := map[string]*tensor.Tensor{
		name:                                   codes,
		name + suffixMap:                       vector(table[:]),
		name + suffixState + s.Scheme.String(): vector(s.describe()),
	}
	if s.Nested() {
		dict[name+suffixAbsmax] = vector(s.AbsmaxU8)
		dict[name+suffixNestedAbsmax] = vector(s.NestedAbsmax)
		dict[name+suffixNestedMap] = vector(s.nestedMap()[:])
	} else {
		dict[name+suffixAbsmax] = vector(s.Absmax)
	}
	return dict, nil
}

// described4 reads bitsandbytes' description of NF4 and FP4: a state without arrays, and whether its scales are nested.
func described4(name string, get Lookup) (s *State, nested bool, err error) {
	scheme, text, err := findState(name, get)
	if err != nil {
		return nil, false, err
	}
	if s, nested, err = parseState(text); err != nil {
		return nil, false, fmt.Errorf("%s%s%v: %w", name, suffixState, scheme, err)
	}
	if s.Scheme != scheme {
		return nil, false, fmt.Errorf("the description is stored as %v but says quant_type %v", scheme, s.Scheme)
	}
	return s, nested, nil
}

// read4 reads bitsandbytes' form of NF4 and FP4.
func read4(name string, get Lookup) (*State, error) {
	s, nested, err := described4(name, get)
	if err != nil {
		return nil, err
	}
	if err := s.checkTable(name, get); err != nil {
		return nil, err
	}
	codes, err := need(name, get)
	if err != nil {
		return nil, err
	}
	if !storageOK(codes.DType()) {
		return nil, fmt.Errorf("4-bit codes have element type %v: want u8, f16, bf16 or f32", codes.DType())
	}
	s.Codes, s.Storage = codes.Bytes(), codes.DType()
	if err := s.readScales(name, get, nested); err != nil {
		return nil, err
	}
	return s, nil
}

// findState returns the description; there must be exactly one.
func findState(name string, get Lookup) (scheme Scheme, text []byte, err error) {
	found := 0
	for _, sc := range []Scheme{NF4, FP4} {
		t, ok, err := get(name + suffixState + sc.String())
		if err != nil {
			return 0, nil, err
		}
		if !ok {
			continue
		}
		found++
		if t.DType() != tensor.U8 || t.Shape().Rank() != 1 || t.Shape().Size() > maxStateJSON {
			return 0, nil, fmt.Errorf("%s%s%v is %v: want u8 text of at most %d bytes", name, suffixState, sc, t.Type(), maxStateJSON)
		}
		scheme, text = sc, t.Bytes()
	}
	switch found {
	case 0:
		return 0, nil, fmt.Errorf("no %s%snf4 or ...fp4: the tensor is not quantized to 4 bits by bitsandbytes", name, suffixState)
	case 2:
		return 0, nil, fmt.Errorf("both an nf4 and an fp4 description: the checkpoint is inconsistent")
	}
	return scheme, text, nil
}

func (s *State) checkTable(name string, get Lookup) error {
	table, err := needFloats(name+suffixMap, get)
	if err != nil {
		return err
	}
	if want := s.Scheme.Values(); !slices.Equal(table, want[:]) {
		return fmt.Errorf("%s%s is not the table of %v: such codes cannot be read", name, suffixMap, s.Scheme)
	}
	return nil
}

func (s *State) readScales(name string, get Lookup, nested bool) (err error) {
	if !nested {
		s.Absmax, err = needFloats(name+suffixAbsmax, get)
		return err
	}
	t, err := need(name+suffixAbsmax, get)
	if err != nil {
		return err
	}
	if t.DType() != tensor.U8 {
		return fmt.Errorf("%s%s is %v: nested scales are u8", name, suffixAbsmax, t.Type())
	}
	s.AbsmaxU8 = t.Bytes()
	if s.AbsmaxU8 == nil {
		s.AbsmaxU8 = []byte{}
	}
	if s.NestedAbsmax, err = needFloats(name+suffixNestedAbsmax, get); err != nil {
		return err
	}
	values, err := needFloats(name+suffixNestedMap, get)
	if err != nil {
		return err
	}
	if len(values) != 256 {
		return fmt.Errorf("%s%s has %d values, want 256", name, suffixNestedMap, len(values))
	}
	s.NestedMap = (*[256]float32)(values)
	return nil
}

// stateJSON is the description as the library writes it, in its key order.
type stateJSON struct {
	QuantType       string   `json:"quant_type"`
	Blocksize       int      `json:"blocksize"`
	DType           string   `json:"dtype"`
	Shape           []int    `json:"shape"`
	NestedBlocksize *int     `json:"nested_blocksize"`
	NestedDType     *string  `json:"nested_dtype"`
	NestedOffset    *float64 `json:"nested_offset"`
}

// parseState reads the description; nested reports whether it speaks of second-level scales.
func parseState(text []byte) (s *State, nested bool, err error) {
	var j stateJSON
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		if strings.Contains(err.Error(), "unknown field") {
			return nil, false, fmt.Errorf("the description has a key that is not known here (%w): a newer library wrote it", err)
		}
		return nil, false, fmt.Errorf("cannot read the JSON description: %w", err)
	}
	if dec.More() {
		return nil, false, fmt.Errorf("text after the JSON description")
	}
	scheme, ok := ParseScheme(j.QuantType)
	if !ok || !scheme.FourBit() {
		return nil, false, fmt.Errorf("quant_type %q is not known here: want nf4 or fp4", j.QuantType)
	}
	d, ok := torchDType(j.DType)
	if !ok {
		return nil, false, fmt.Errorf("dtype %q: want float32, float16 or bfloat16", j.DType)
	}
	if j.Shape == nil {
		return nil, false, fmt.Errorf("no shape")
	}
	s = &State{Scheme: scheme, Blocksize: j.Blocksize, DType: d, Shape: tensor.S(j.Shape...)}
	if j.NestedBlocksize == nil && j.NestedDType == nil && j.NestedOffset == nil {
		return s, false, s.checkHeader()
	}
	if j.NestedBlocksize == nil || j.NestedDType == nil || j.NestedOffset == nil {
		return nil, false, fmt.Errorf("nested_blocksize, nested_dtype and nested_offset must come together")
	}
	if *j.NestedDType != "float32" || *j.NestedBlocksize < 1 || *j.NestedBlocksize > MaxBlocksize {
		return nil, false, fmt.Errorf("nested_dtype %q and nested_blocksize %d: want float32 and 1 to %d",
			*j.NestedDType, *j.NestedBlocksize, MaxBlocksize)
	}
	s.NestedBlocksize, s.NestedOffset = *j.NestedBlocksize, float32(*j.NestedOffset)
	return s, true, s.checkHeader()
}

// describe writes the description as Python's json.dumps does.
func (s *State) describe() []byte {
	dims := s.Shape.Dims()
	text := make([]string, len(dims))
	for i, d := range dims {
		text[i] = strconv.Itoa(d)
	}
	out := fmt.Appendf(nil, `{"quant_type": "%v", "blocksize": %d, "dtype": "%s", "shape": [%s]`,
		s.Scheme, s.Blocksize, torchName(s.DType), strings.Join(text, ", "))
	if s.Nested() {
		out = fmt.Appendf(out, `, "nested_blocksize": %d, "nested_dtype": "float32", "nested_offset": %s`,
			s.nestedBlocksize(), pythonFloat(float64(s.NestedOffset)))
	}
	return append(out, '}')
}

// pythonFloat is Python's repr of a finite float: the shortest digits, with an exponent below 1e-4 and from 1e16.
func pythonFloat(v float64) string {
	if a := math.Abs(v); v != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(v, 'e', -1, 64)
	}
	text := strconv.FormatFloat(v, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}
