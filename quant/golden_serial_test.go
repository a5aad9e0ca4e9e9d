package quant

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serialEntry is a row of serial/index.json that describes a file.
type serialEntry struct {
	File        string
	QuantType   string            `json:"quant_type"`
	QuantState  string            `json:"quant_state"`
	Storage     string            `json:"quant_storage"`
	Nested      bool              `json:"nested"`
	WeightDType string            `json:"weight_dtype"`
	Keys        map[string][2]any `json:"keys"`
}

// Loading a state dict of the library and storing it again gives the same names, types and bytes; dequantizing gives the library's values,
// and quantizing the original gives its codes.
func TestGoldenBNBSerial(t *testing.T) {
	dir := filepath.Join(bnbDir(t), "serial")
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	require.NoError(t, err)
	var index []serialEntry
	require.NoError(t, json.Unmarshal(raw, &index))
	ran := 0
	for _, e := range index {
		if e.File == "" {
			continue // the layout of an optimizer's state dict
		}
		t.Run(e.File, func(t *testing.T) { reload(t, dir, e) })
		ran++
	}
	t.Logf("%d files", ran)
}

func lookupIn(dict map[string]*tensor.Tensor) Lookup {
	return func(name string) (*tensor.Tensor, bool, error) {
		v, ok := dict[name]
		return v, ok, nil
	}
}

func reload(t *testing.T, dir string, e serialEntry) {
	const name = "q_proj.weight"
	file := readSafetensors(t, filepath.Join(dir, e.File))
	for key, want := range e.Keys {
		require.Contains(t, file, key)
		require.Equal(t, fmt.Sprint(want[1]), strings.ReplaceAll(file[key].Shape().String(), ",", " "), key)
	}
	maps.DeleteFunc(file, func(name string, _ *tensor.Tensor) bool { return strings.HasSuffix(name, ".bias") })
	s, err := FromStateDict(name, lookupIn(file))
	require.NoError(t, err)
	if e.QuantState != "" {
		require.Equal(t, e.QuantState, string(s.describe()))
		require.Equal(t, e.QuantType, s.Scheme.String())
		require.Equal(t, e.Storage, s.Storage.String())
		require.Equal(t, e.WeightDType, s.DType.String())
		require.Equal(t, e.Nested, s.Nested())
	}
	sameDict(t, name, s, file)
	refPath := filepath.Join(dir, strings.TrimSuffix(e.File, ".safetensors")+".ref.safetensors")
	if _, err := os.Stat(refPath); err != nil {
		return
	}
	ref := readSafetensors(t, refPath)
	if want := ref["dequantized"]; want != nil {
		got, err := s.Dequantize(tensor.Invalid)
		require.NoError(t, err)
		require.Equal(t, want.Type(), got.Type())
		require.Equal(t, want.Bytes(), got.Bytes())
	}
	again, err := Quantize(ref["original"], Config{Scheme: s.Scheme, Blocksize: ownBlocksize(s), Double: s.Nested()})
	require.NoError(t, err)
	require.Equal(t, s.Codes, again.Codes)
	require.Equal(t, s.AbsmaxU8, again.AbsmaxU8)
	if !s.Nested() {
		sameBits(t, s.Absmax, again.Absmax, "scales")
	}
}

// ownBlocksize is the block size as a Config has it.
func ownBlocksize(s *State) int {
	if s.Scheme == Int8 {
		return 0
	}
	return s.Blocksize
}

// sameDict requires that a state is stored as exactly these tensors.
func sameDict(t *testing.T, name string, s *State, want map[string]*tensor.Tensor) {
	t.Helper()
	dict, err := s.StateDict(name)
	require.NoError(t, err)
	require.Len(t, dict, len(want))
	for key, w := range want {
		require.Contains(t, dict, key)
		require.Equal(t, w.Type(), dict[key].Type(), key)
		require.Equal(t, w.Bytes(), dict[key].Bytes(), key)
	}
}

// Every quantized weight of the library's model folders: stored again with the same bytes, and made anew from the full-precision model
// beside them with the same codes.
func TestGoldenBNBModelWeights(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(bnbDir(t), "*", "*", "model.safetensors"))
	require.NoError(t, err)
	ran := 0
	for _, path := range files {
		dir := filepath.Dir(path)
		file := readSafetensors(t, path)
		base := readSafetensors(t, filepath.Join(filepath.Dir(dir), "base", "model.safetensors"))
		for name, original := range base {
			parts := map[string]*tensor.Tensor{}
			for _, n := range StateDictNames(name) {
				if v, ok := file[n]; ok {
					parts[n] = v
				}
			}
			if len(parts) < 2 {
				continue
			}
			t.Run(filepath.Base(dir)+"/"+name, func(t *testing.T) { compareWeight(t, name, parts, original) })
			ran++
		}
	}
	t.Logf("%d weights", ran)
}

func compareWeight(t *testing.T, name string, parts map[string]*tensor.Tensor, original *tensor.Tensor) {
	s, err := FromStateDict(name, lookupIn(parts))
	require.NoError(t, err)
	sameDict(t, name, s, parts)
	// The library casts to the type that it quantizes from; for int8 that is f16.
	w, err := original.Convert(s.DType)
	require.NoError(t, err)
	again, err := Quantize(w, Config{Scheme: s.Scheme, Blocksize: ownBlocksize(s), Double: s.Nested()})
	require.NoError(t, err)
	assert.Equal(t, s.Codes, again.Codes)
	if !s.Nested() {
		sameBits(t, s.Absmax, again.Absmax, "scales")
		return
	}
	assert.InEpsilon(t, s.NestedOffset, again.NestedOffset, 1e-6)
	plain, err := Quantize(w, Config{Scheme: s.Scheme, Blocksize: s.Blocksize})
	require.NoError(t, err)
	quantizeScalesAround(again.AbsmaxU8, again.NestedAbsmax, plain.Absmax, s.NestedOffset, StateBlocksize)
	assert.Equal(t, s.AbsmaxU8, again.AbsmaxU8, "scale codes around the stored offset")
	sameBits(t, s.NestedAbsmax, again.NestedAbsmax, "second-level scales")
}
