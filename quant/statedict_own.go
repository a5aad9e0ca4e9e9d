package quant

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ownVersion is the newest version of the description under suffixOwn that is read, and the one that is written.
const ownVersion = 1

// ownJSON describes a weight of a scheme that bitsandbytes has no form for. Fields are those of State.
type ownJSON struct {
	Version         int      `json:"version"`
	Scheme          string   `json:"scheme"`
	Bits            int      `json:"bits,omitempty"`
	Blocksize       int      `json:"blocksize"`
	ByRow           bool     `json:"by_row,omitempty"`
	Zeros           bool     `json:"zeros,omitempty"` // there is a tensor of zero points
	DType           string   `json:"dtype"`
	Shape           []int    `json:"shape"`
	NestedBlocksize int      `json:"nested_blocksize,omitempty"`
	NestedOffset    *float32 `json:"nested_offset,omitempty"`
}

func (s *State) dictOwn(name string) (map[string]*tensor.Tensor, error) {
	codes, err := tensor.FromBytes(tensor.T(tensor.U8, len(s.Codes)), s.Codes)
	if err != nil {
		return nil, err
	}
	j := ownJSON{Version: ownVersion, Scheme: s.Scheme.String(), Bits: s.Bits, Blocksize: s.Blocksize, ByRow: s.ByRow, Zeros: s.Zeros != nil,
		DType: torchName(s.DType), Shape: s.Shape.Dims()}
	dict := map[string]*tensor.Tensor{name: codes}
	if s.Scheme == KBit || s.Scheme == Blockwise8 {
		dict[name+suffixMap] = vector(s.levels())
	}
	if s.Zeros != nil {
		dict[name+suffixZeros] = vector(s.Zeros)
	}
	if s.Nested() {
		j.NestedBlocksize, j.NestedOffset = s.nestedBlocksize(), &s.NestedOffset
		dict[name+suffixAbsmax] = vector(s.AbsmaxU8)
		dict[name+suffixNestedAbsmax] = vector(s.NestedAbsmax)
		dict[name+suffixNestedMap] = vector(s.nestedMap()[:])
	} else {
		dict[name+suffixAbsmax] = vector(s.Absmax)
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	dict[name+suffixOwn] = vector(text)
	return dict, nil
}

// describedOwn reads the description of the project's own form: a state without arrays, and the description itself.
func describedOwn(name string, get Lookup) (*State, *ownJSON, error) {
	t, err := need(name+suffixOwn, get)
	if err != nil {
		return nil, nil, err
	}
	if t.DType() != tensor.U8 || t.Shape().Rank() != 1 || t.Shape().Size() > maxStateJSON {
		return nil, nil, fmt.Errorf("%s%s is %v: want u8 text of at most %d bytes", name, suffixOwn, t.Type(), maxStateJSON)
	}
	s, j, err := parseOwn(t.Bytes())
	if err != nil {
		return nil, nil, fmt.Errorf("%s%s: %w", name, suffixOwn, err)
	}
	return s, j, nil
}

func readOwn(name string, get Lookup) (*State, error) {
	s, j, err := describedOwn(name, get)
	if err != nil {
		return nil, err
	}
	codes, err := needBytes(name, get)
	if err != nil {
		return nil, err
	}
	s.Codes = codes
	if j.Zeros {
		if s.Zeros, err = needBytes(name+suffixZeros, get); err != nil {
			return nil, err
		}
	}
	if s.Scheme == KBit || s.Scheme == Blockwise8 {
		values, err := needFloats(name+suffixMap, get)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(values, s.levels()) {
			s.Map = values
		}
	}
	return s, s.readScales(name, get, j.NestedBlocksize > 0)
}

// parseOwn reads a description and checks all that it says of itself.
func parseOwn(text []byte) (*State, *ownJSON, error) {
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, nil, fmt.Errorf("cannot read the JSON description: %w", err)
	}
	if v.Version < 1 || v.Version > ownVersion {
		return nil, nil, fmt.Errorf("version %d of the description: versions 1 to %d are known; a newer release wrote it", v.Version, ownVersion)
	}
	var j ownJSON
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return nil, nil, fmt.Errorf("cannot read the JSON description: %w", err)
	}
	scheme := slices.Index(schemeNames[:], j.Scheme)
	if scheme < int(Blockwise8) {
		return nil, nil, fmt.Errorf("scheme %q is not one of %v", j.Scheme, schemeNames[Blockwise8:])
	}
	d, ok := torchDType(j.DType)
	if !ok {
		return nil, nil, fmt.Errorf("dtype %q: want float32, float16 or bfloat16", j.DType)
	}
	s := &State{Scheme: Scheme(scheme), Bits: j.Bits, Blocksize: j.Blocksize, ByRow: j.ByRow, DType: d, Shape: tensor.S(j.Shape...)}
	switch {
	case j.Shape == nil:
		return nil, nil, fmt.Errorf("no shape")
	case (j.NestedBlocksize != 0) != (j.NestedOffset != nil) || j.NestedBlocksize < 0:
		return nil, nil, fmt.Errorf("nested_blocksize %d: it must be positive and come with nested_offset", j.NestedBlocksize)
	case j.NestedOffset != nil:
		s.NestedBlocksize, s.NestedOffset = j.NestedBlocksize, *j.NestedOffset
	}
	if j.Zeros {
		s.Zeros = []uint8{}
	}
	return s, &j, s.checkHeader()
}

// needBytes reads u8 data, which is never nil.
func needBytes(name string, get Lookup) ([]byte, error) {
	t, err := need(name, get)
	if err != nil {
		return nil, err
	}
	if t.DType() != tensor.U8 {
		return nil, fmt.Errorf("%s is %v: want u8", name, t.Type())
	}
	if b := t.Bytes(); b != nil {
		return b, nil
	}
	return []byte{}, nil
}
