package checkpoint

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// DefaultShardSize is the bytes of tensors from which on a model is cut into several files, as transformers does.
const DefaultShardSize = 5_000_000_000

// StreamModel writes the weights of a Hugging Face directory: model.safetensors, or, where the tensors have more than shardSize bytes
// together (0: DefaultShardSize), model-00001-of-0000N.safetensors and the index that says which tensor lies where, written last. A tensor is
// never cut. produce is called once for each tensor, and no more than one is in memory. Errors of the disk match ErrDisk.
func StreamModel(fsys vfs.FS, dir string, specs []Spec, shardSize int64, metadata map[string]string, produce func(Spec) (*tensor.Tensor, error)) error {
	shards := cut(specs, shardSize)
	if len(shards) == 1 {
		return StreamSafetensors(fsys, filepath.Join(dir, modelFile), specs, metadata, produce)
	}
	where := make(map[string]string, len(specs))
	var params, bytes int64
	for i, part := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		if err := StreamSafetensors(fsys, filepath.Join(dir, name), part, metadata, produce); err != nil {
			return err
		}
		for _, s := range part {
			where[s.Name] = name
			params += int64(s.Type.Shape.Size())
			bytes += s.Type.Bytes()
		}
	}
	return WriteIndex(fsys, dir, where, params, bytes)
}

// WriteIndex writes model.safetensors.index.json, which says in which file of the folder each tensor lies; params and bytes are those of all
// tensors. Errors of the disk match ErrDisk.
func WriteIndex(fsys vfs.FS, dir string, where map[string]string, params, bytes int64) error {
	raw, err := json.MarshalIndent(map[string]any{"metadata": map[string]any{"total_parameters": params, "total_size": bytes}, "weight_map": where}, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, indexFile)
	if err := vfs.WriteAtomic(fsys, path, append(raw, '\n')); err != nil {
		return &DiskError{Path: path, Err: err}
	}
	return nil
}

// cut fills one shard after another; a tensor larger than a shard has one for itself.
func cut(specs []Spec, shardSize int64) (shards [][]Spec) {
	if shardSize <= 0 {
		shardSize = DefaultShardSize
	}
	var have int64
	for i, s := range specs {
		n := s.Type.Bytes()
		if i == 0 || have > 0 && have+n > shardSize {
			shards, have = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], s)
		have += n
	}
	if len(shards) == 0 {
		shards = [][]Spec{nil}
	}
	return shards
}
