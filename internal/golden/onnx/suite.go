// Package onnx runs the operator cases of the ONNX standard on a device: each case is built as a graph, compared with the
// outputs that the standard gives, and, where the operator is differentiable, gradient-checked in float64 on the same inputs.
//
// The cases are files outside the module (folder onnx-ops of the reference data). An operator is supported by a Handler in the
// registry, which translates a node with its attributes to operations of graph/ops; nothing knows a case by name.
package onnx

import (
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Case is one node with its inputs and expected outputs, as cases.json has it. A nil key is an optional input left out or an
// output that is not asked for.
type Case struct {
	Name        string                     `json:"name"`
	Op          string                     `json:"op"`
	Domain      string                     `json:"domain"`
	Opset       int                        `json:"opset"`
	Attributes  map[string]json.RawMessage `json:"attributes"`
	Defaults    map[string]json.RawMessage `json:"defaults"`
	Inputs      []*string                  `json:"inputs"`
	InputTypes  []*string                  `json:"input_types"`
	Outputs     []*string                  `json:"outputs"`
	OutputTypes []*string                  `json:"output_types"`
}

// Suite is the cases and the tensors they refer to.
type Suite struct {
	Cases   []Case
	tensors map[string]*tensor.Tensor
}

// maxSuiteBytes bounds what is unpacked.
const maxSuiteBytes = 64 << 20

// Load reads cases.json and tensors.safetensors.gz from a folder.
func Load(dir string) (*Suite, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "cases.json"))
	if err != nil {
		return nil, err
	}
	s := &Suite{}
	if err := json.Unmarshal(raw, &s.Cases); err != nil {
		return nil, fmt.Errorf("cases.json: %w", err)
	}
	path := filepath.Join(dir, "tensors.safetensors.gz")
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	data, err := io.ReadAll(io.LimitReader(z, maxSuiteBytes))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.tensors, err = parseTensors(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, s.check()
}

// parseTensors reads a safetensors file whose element types go beyond those of package checkpoint.
func parseTensors(data []byte) (map[string]*tensor.Tensor, error) {
	if len(data) < 8 {
		return nil, fmt.Errorf("%d bytes are too few", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	if n > uint64(len(data)-8) {
		return nil, fmt.Errorf("the header of %d bytes does not fit the file", n)
	}
	var head map[string]struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(data[8:8+n], &head); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	body := data[8+n:]
	out := map[string]*tensor.Tensor{}
	for name, e := range head {
		if name == "__metadata__" {
			continue
		}
		lo, hi := e.Offsets[0], e.Offsets[1]
		if lo < 0 || hi < lo || hi > len(body) {
			return nil, fmt.Errorf("tensor %q: bytes %d to %d are outside the file", name, lo, hi)
		}
		t, err := decode(e.DType, e.Shape, body[lo:hi])
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		out[name] = t
	}
	return out, nil
}

// check refuses cases that name tensors or types which are not there.
func (s *Suite) check() error {
	for i := range s.Cases {
		c := &s.Cases[i]
		if len(c.Inputs) != len(c.InputTypes) || len(c.Outputs) != len(c.OutputTypes) {
			return fmt.Errorf("case %s: as many types as tensors are needed", c.Name)
		}
		for j, key := range append(append([]*string{}, c.Inputs...), c.Outputs...) {
			if key == nil {
				continue
			}
			if s.tensors[*key] == nil {
				return fmt.Errorf("case %s: tensor %q is not in the file", c.Name, *key)
			}
			if typ := append(append([]*string{}, c.InputTypes...), c.OutputTypes...)[j]; typ == nil {
				return fmt.Errorf("case %s: tensor %q has no type", c.Name, *key)
			}
		}
	}
	return nil
}

// tensor returns the tensor behind a key, nil for a nil key.
func (s *Suite) tensor(key *string) *tensor.Tensor {
	if key == nil {
		return nil
	}
	return s.tensors[*key]
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
