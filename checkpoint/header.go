package checkpoint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Limits of a safetensors header. The first is the format's, the others are ours: no real model comes near them.
const (
	maxHeader   = 100_000_000
	maxTensors  = 1_000_000
	maxName     = 4096
	maxMetadata = 1 << 24 // bytes of one metadata value
)

// dtypeNames maps element types to safetensors' names, in the order of the reference library, by which files are laid out.
var dtypeNames = []struct {
	name  string
	dtype tensor.DType
}{
	{"BOOL", tensor.Bool}, {"U8", tensor.U8}, {"I8", tensor.I8}, {"I16", tensor.I16}, {"U16", tensor.U16}, {"F16", tensor.F16},
	{"BF16", tensor.BF16}, {"I32", tensor.I32}, {"U32", tensor.U32}, {"F32", tensor.F32}, {"F64", tensor.F64}, {"I64", tensor.I64},
	{"U64", tensor.U64},
}

// foreignBits gives the bits of an element for the format's types that package tensor does not have.
var foreignBits = map[string]uint64{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
	"F8_E5M2FNUZ": 8, "C64": 64}

// header is the parsed JSON of a safetensors file, with entries in the order of their data.
type header struct {
	entries  []entry
	index    map[string]int
	metadata map[string]string
}

// tensorError is an error of one tensor, before the file's name is known.
type tensorError struct {
	tensor, reason, remedy string
}

func (e *tensorError) Error() string { return fmt.Sprintf("tensor %s: %s", quoted(e.tensor), e.reason) }

// parseHeader reads the JSON and checks it against the length of the data section.
func parseHeader(b []byte, dataLen int64) (*header, error) {
	h := &header{index: map[string]int{}}
	if len(b) == 0 || b[0] != '{' {
		return nil, errors.New("the header does not begin with '{'")
	}
	h.entries = make([]entry, 0, min(bytes.Count(b, []byte(`"data_offsets"`)), maxTensors))
	s := &scanner{b: b}
	if err := s.object(maxName, func(key string) error { return h.member(s, key) }); err != nil {
		return nil, err
	}
	if err := s.end(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(h.entries, func(x, y entry) int {
		return cmp.Or(cmp.Compare(x.begin, y.begin), cmp.Compare(x.end, y.end))
	})
	for i := range h.entries {
		h.index[h.entries[i].name] = i
	}
	return h, h.layout(dataLen)
}

func (h *header) member(s *scanner, key string) error {
	if key == "__metadata__" {
		if h.metadata != nil {
			return s.errorf("__metadata__ occurs twice")
		}
		h.metadata = map[string]string{}
		return s.object(maxName, func(k string) error {
			if _, dup := h.metadata[k]; dup {
				return s.errorf("metadata key %s occurs twice", quoted(k))
			}
			v, err := s.str(maxMetadata)
			h.metadata[k] = v
			return err
		})
	}
	if key == "" {
		return s.errorf("a tensor without a name")
	}
	if _, dup := h.index[key]; dup {
		return &tensorError{tensor: key, reason: "the name occurs twice"}
	}
	if len(h.entries) == maxTensors {
		return s.errorf("more than %d tensors", maxTensors)
	}
	e, err := tensorEntry(s, key)
	if err != nil {
		var te *tensorError
		if !errors.As(err, &te) {
			err = &tensorError{tensor: key, reason: err.Error()}
		}
		return err
	}
	h.index[key] = len(h.entries)
	h.entries = append(h.entries, e)
	return nil
}

// layout checks that the data are one run of tensors without hole, overlap or rest.
func (h *header) layout(dataLen int64) error {
	end := int64(0)
	for i, e := range h.entries {
		switch {
		case e.begin > end:
			return &tensorError{tensor: e.name, reason: fmt.Sprintf("a hole of %d bytes lies before its data at offset %d", e.begin-end, e.begin)}
		case e.begin < end:
			return &tensorError{tensor: e.name, reason: fmt.Sprintf("its data at offset %d overlap those of %s, which end at %d",
				e.begin, quoted(h.entries[i-1].name), end)}
		case e.end > dataLen:
			return &tensorError{tensor: e.name, reason: fmt.Sprintf("its data end at offset %d, the file holds %d bytes of data: it is cut short",
				e.end, dataLen), remedy: "fetch or write the file again"}
		}
		end = e.end
	}
	if end != dataLen {
		return fmt.Errorf("%d bytes follow the last tensor", dataLen-end)
	}
	return nil
}

// tensorEntry reads {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}: these fields, each once.
func tensorEntry(s *scanner, name string) (entry, error) {
	e := entry{name: name}
	var shape []int
	var dtype, dims, offsets bool
	err := s.object(16, func(key string) (err error) {
		switch {
		case key == "dtype" && !dtype:
			dtype = true
			e.typ.DType, e.foreign, err = dtypeField(s, name)
		case key == "shape" && !dims:
			dims = true
			shape, err = shapeField(s)
		case key == "data_offsets" && !offsets:
			offsets = true
			e.begin, e.end, err = offsetsField(s)
		case key == "dtype" || key == "shape" || key == "data_offsets":
			err = s.errorf("%s occurs twice", key)
		default:
			err = s.errorf("unknown field %s", quoted(key))
		}
		return err
	})
	if err != nil {
		return e, err
	}
	if !dtype || !dims || !offsets {
		return e, s.errorf("a tensor needs dtype, shape and data_offsets")
	}
	return e, e.check(shape)
}

// check sets the shape and compares its bytes with the offsets.
func (e *entry) check(shape []int) error {
	e.typ.Shape = tensor.S(shape...)
	size, ok := byteSize(e.typ)
	if e.foreign != "" {
		size, ok = foreignSize(e.typ.Shape, e.foreign)
	}
	if !ok {
		return &tensorError{tensor: e.name, reason: fmt.Sprintf("shape %v has more elements than a file can hold, or no whole number of bytes", shape)}
	}
	if e.end < e.begin {
		return &tensorError{tensor: e.name, reason: fmt.Sprintf("its data end at %d, before they begin at %d", e.end, e.begin)}
	}
	if e.end-e.begin != size {
		return &tensorError{tensor: e.name, reason: fmt.Sprintf("%s%v needs %d bytes, its offsets span %d", e.dtype(), e.typ.Shape, size, e.end-e.begin)}
	}
	return nil
}

// byteSize is Type.Bytes with overflow reported.
func byteSize(t tensor.Type) (int64, bool) {
	if !t.Shape.Valid() || t.DType.Size() == 0 {
		return 0, false
	}
	hi, lo := bits.Mul64(uint64(t.Size()), uint64(t.DType.Size()))
	return int64(lo), hi == 0 && lo <= math.MaxInt64
}

// foreignSize is byteSize for an element type given by its name in the file.
func foreignSize(s tensor.Shape, dtype string) (int64, bool) {
	if !s.Valid() {
		return 0, false
	}
	hi, lo := bits.Mul64(uint64(s.Size()), foreignBits[dtype])
	return int64(lo / 8), hi == 0 && lo%8 == 0
}

// dtype is the element type in print.
func (e *entry) dtype() string {
	if e.foreign != "" {
		return e.foreign
	}
	return e.typ.DType.String()
}

// dtypeField returns the element type, or the name of one that package tensor does not have.
func dtypeField(s *scanner, name string) (d tensor.DType, foreign string, err error) {
	s.space()
	text, err := s.str(16)
	if err != nil {
		return tensor.Invalid, "", err
	}
	for _, d := range dtypeNames {
		if d.name == text {
			return d.dtype, "", nil
		}
	}
	if _, ok := foreignBits[text]; ok {
		return tensor.Invalid, text, nil
	}
	return tensor.Invalid, "", &tensorError{name, "dtype " + quoted(text) + " is unknown", "the types are BOOL, U8 ... U64, I8 ... I64, F16, BF16, F32, F64"}
}

func shapeField(s *scanner) ([]int, error) {
	var dims [tensor.MaxRank]int
	n := 0
	err := s.array(func() error {
		d, err := s.uint()
		if err != nil {
			return err
		}
		if n == tensor.MaxRank {
			return s.errorf("a shape of more than %d axes", tensor.MaxRank)
		}
		if d > math.MaxInt {
			return s.errorf("extent %d is too large", d)
		}
		dims[n] = int(d)
		n++
		return nil
	})
	return dims[:n], err
}

func offsetsField(s *scanner) (begin, end int64, err error) {
	var v [2]int64
	n := 0
	err = s.array(func() (err error) {
		if n == 2 {
			return s.errorf("data_offsets holds more than two numbers")
		}
		v[n], err = s.uint()
		n++
		return err
	})
	if err == nil && n != 2 {
		err = s.errorf("data_offsets needs two numbers")
	}
	return v[0], v[1], err
}
