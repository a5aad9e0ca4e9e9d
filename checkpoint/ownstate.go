package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// The layout of weights in formats that bitsandbytes does not have. A weight P.weight is stored as
//
//	P.weight                 u8 [bytes]   packed codes, see quant.PackCodes
//	P.weight.scales          f32 [blocks], or u8 [blocks] where the scales are quantized again
//	P.weight.zero_points     u8 [blocks]  asymmetric integers
//	P.weight.levels          f32 [2^bits] formats with a table of values
//	P.weight.nested_scales   f32 [blocks/256], P.weight.nested_offset f32 []  where the scales are quantized again
//	P.weight.quant_format    u8           JSON: {"format_version": 1, "format": "int4:group=128", "dtype": "bfloat16", "shape": [N, K]}
const (
	ownScales       = ".scales"
	ownZeros        = ".zero_points"
	ownLevels       = ".levels"
	ownNestedScales = ".nested_scales"
	ownNestedOffset = ".nested_offset"
	ownFormat       = ".quant_format"
)

func ownNames(name string) []string {
	return []string{name, name + ownScales, name + ownZeros, name + ownLevels, name + ownNestedScales, name + ownNestedOffset, name + ownFormat}
}

// maxOwnFormat bounds a description.
const maxOwnFormat = 1 << 12

// ownHeader is the description of a weight.
type ownHeader struct {
	Version int    `json:"format_version"`
	Format  string `json:"format"`
	DType   string `json:"dtype"`
	Shape   []int  `json:"shape"`
}

// OwnStateDict returns the tensors under which a weight of a general format is stored; format is its name, see quant.ParseFormat. Formats
// of bitsandbytes are stored as quant.State.StateDict says.
func OwnStateDict(name, format string, s *quant.State) (map[string]*tensor.Tensor, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	text, err := json.Marshal(ownHeader{ownVersion, format, torchName(s.DType), s.Shape.Dims()})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out := map[string]*tensor.Tensor{}
	put := func(suffix string, t tensor.Type, b []byte) {
		x := tensor.New(t)
		copy(x.Bytes(), b)
		out[name+suffix] = x
	}
	put("", tensor.T(tensor.U8, len(s.Codes)), s.Codes)
	put(ownFormat, tensor.T(tensor.U8, len(text)), text)
	if s.Zeros != nil {
		put(ownZeros, tensor.T(tensor.U8, len(s.Zeros)), s.Zeros)
	}
	if s.Map != nil {
		put(ownLevels, tensor.T(tensor.F32, len(s.Map)), tensor.AsBytes(s.Map))
	}
	if !s.Nested() {
		put(ownScales, tensor.T(tensor.F32, len(s.Absmax)), tensor.AsBytes(s.Absmax))
		return out, nil
	}
	if s.NestedBlocksize != 0 && s.NestedBlocksize != quant.StateBlocksize || s.NestedMap != nil {
		return nil, fmt.Errorf("%s: scales of second level in blocks of %d over a table of their own cannot be stored", name, s.NestedBlocksize)
	}
	put(ownScales, tensor.T(tensor.U8, len(s.AbsmaxU8)), s.AbsmaxU8)
	put(ownNestedScales, tensor.T(tensor.F32, len(s.NestedAbsmax)), tensor.AsBytes(s.NestedAbsmax))
	out[name+ownNestedOffset] = tensor.Scalar(s.NestedOffset)
	return out, nil
}

// readOwnHeader reads the description of a weight and the format that it names.
func readOwnHeader(name string, get quant.Lookup) (f quant.Format, t tensor.Type, err error) {
	text, ok, err := get(name + ownFormat)
	if err != nil || !ok {
		return nil, t, fmt.Errorf("%s%s cannot be read: %w", name, ownFormat, err)
	}
	if text.DType() != tensor.U8 || text.Shape().Rank() != 1 || text.Shape().Size() > maxOwnFormat {
		return nil, t, fmt.Errorf("%s%s is %v: want u8 text of at most %d bytes", name, ownFormat, text.Type(), maxOwnFormat)
	}
	var h ownHeader
	dec := json.NewDecoder(bytes.NewReader(text.Bytes()))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&h); err != nil {
		return nil, t, fmt.Errorf("%s%s: %w", name, ownFormat, err)
	}
	if h.Version != ownVersion {
		return nil, t, fmt.Errorf("%s%s has format_version %d, %d is known: use a newer version of this program", name, ownFormat, h.Version, ownVersion)
	}
	d, ok := torchDTypes[h.DType]
	if !ok || !d.IsFloat() || h.Shape == nil {
		return nil, t, fmt.Errorf("%s%s: dtype %s or shape %v is not that of a weight", name, ownFormat, quoted(h.DType), h.Shape)
	}
	if f, err = quant.ParseFormat(h.Format); err != nil {
		return nil, t, err
	}
	t = tensor.Type{DType: d, Shape: tensor.S(h.Shape...)}
	if _, ok := byteSize(t); !ok {
		return nil, t, fmt.Errorf("%s%s: %v is not the shape of a weight", name, ownFormat, h.Shape)
	}
	return f, t, nil
}

// readOwn reads a weight that OwnStateDict wrote. codes is the size of the code bytes in the file, which bounds what is allocated.
func readOwn(name string, get quant.Lookup, codes int64) (*quant.State, error) {
	f, t, err := readOwnHeader(name, get)
	if err != nil {
		return nil, err
	}
	if bits := f.BitsPerWeight(t.Shape); bits > 0 && float64(t.Shape.Size())*bits/8 > 64*float64(codes)+1<<20 {
		return nil, fmt.Errorf("%d bytes of codes are too few for %v in %s", codes, t, f.Name())
	}
	s, err := f.New(t)
	if err != nil {
		return nil, err
	}
	part := func(suffix string, into []byte, d tensor.DType) (err error) {
		x, ok, err := get(name + suffix)
		switch {
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("tensor %s%s is missing", name, suffix)
		case x.DType() != d || len(x.Bytes()) != len(into):
			return fmt.Errorf("tensor %s%s is %v: %d bytes of %v are needed", name, suffix, x.Type(), len(into), d)
		}
		copy(into, x.Bytes())
		return nil
	}
	if err := part("", s.Codes, tensor.U8); err != nil {
		return nil, err
	}
	if s.Zeros != nil {
		if err := part(ownZeros, s.Zeros, tensor.U8); err != nil {
			return nil, err
		}
	}
	if x, ok, err := get(name + ownLevels); err != nil {
		return nil, err
	} else if ok {
		if x.DType() != tensor.F32 {
			return nil, fmt.Errorf("tensor %s%s is %v: f32 is needed", name, ownLevels, x.Type())
		}
		s.Map = tensor.Data[float32](x)
	}
	if err := readOwnScales(name, get, s, part); err != nil {
		return nil, err
	}
	return s, s.Validate()
}

func readOwnScales(name string, get quant.Lookup, s *quant.State, part func(string, []byte, tensor.DType) error) error {
	blocks := s.Blocks()
	if _, nested, err := get(name + ownNestedOffset); err != nil || !nested {
		s.Absmax = make([]float32, blocks)
		if err == nil {
			err = part(ownScales, tensor.AsBytes(s.Absmax), tensor.F32)
		}
		return err
	}
	s.Absmax, s.AbsmaxU8 = nil, make([]byte, blocks)
	s.NestedBlocksize, s.NestedAbsmax = quant.StateBlocksize, make([]float32, quant.Blocks(blocks, quant.StateBlocksize))
	offset := make([]float32, 1)
	for suffix, into := range map[string][]byte{ownNestedScales: tensor.AsBytes(s.NestedAbsmax), ownNestedOffset: tensor.AsBytes(offset)} {
		if err := part(suffix, into, tensor.F32); err != nil {
			return err
		}
	}
	s.NestedOffset = offset[0]
	return part(ownScales, s.AbsmaxU8, tensor.U8)
}
