package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
)

// save writes the weights under the names of the tags, in the format that PyTorch and others read.
func save(model *classifier, store *plan.Store, dir string) error {
	var tensors []checkpoint.Named
	for _, p := range layers.Params(model) {
		t, err := store.Get(p.Var)
		if err != nil {
			return err
		}
		tensors = append(tensors, checkpoint.Named{Name: p.Name, Tensor: t})
	}
	path := filepath.Join(dir, "model.safetensors")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := checkpoint.WriteSafetensors(nil, path, tensors, nil); err != nil {
		return err
	}
	fmt.Println("wrote", path)
	return nil
}
