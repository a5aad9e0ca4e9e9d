package trainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// SaveOptions says how a model is written. The zero value writes weights in the dtype that they have.
type SaveOptions struct {
	DType     tensor.DType // of floating-point weights; Invalid keeps each one's own
	ShardSize int64        // bytes of a file from which on the model is cut into several; 0 = checkpoint.DefaultShardSize
}

// SaveModel writes a full-precision model as a Hugging Face directory, which is made if it does not exist: config.json and model.safetensors, or shards with their index. One
// weight at a time is read from values. The rotary pairs of a llama2.c model are reordered to the halves that Hugging Face has, which changes
// no result. A value that float16 cannot hold is refused by name.
func SaveModel(fsys vfs.FS, dir string, m *models.Model, values layers.Reader, o SaveOptions) error {
	if m == nil || values == nil {
		return errors.New("save: a model and the plan.Store of its weights are needed")
	}
	fsys = vfs.Or(fsys)
	var specs []checkpoint.Spec
	pieces := map[string]piece{}
	for _, p := range layers.Params(m) {
		if p.Var == nil {
			return fmt.Errorf("%s is quantized; merge into a full-precision model to save it", p.Name)
		}
		d := p.Var.Type.DType
		if o.DType != tensor.Invalid && d.IsFloat() {
			d = o.DType
		}
		all := m.Pieces(p)
		for _, q := range all {
			specs = append(specs, checkpoint.Spec{Name: q.Name, Type: tensor.Type{DType: d, Shape: q.Shape}})
			pieces[q.Name] = piece{q, p, len(all) == 1}
		}
	}
	keys, err := m.Config().HF(dtypeName(specs))
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return err
	}
	if err := vfs.MkdirDurable(fsys, dir); err != nil {
		return withCode(config.ExitDisk, err)
	}
	if err := vfs.WriteAtomic(fsys, filepath.Join(dir, "config.json"), append(raw, '\n')); err != nil {
		return withCode(config.ExitDisk, err)
	}
	w := weightReader{model: m, values: values, held: map[*graph.Var]*tensor.Tensor{}}
	return checkpoint.StreamModel(fsys, dir, specs, o.ShardSize, map[string]string{"format": "pt"}, func(s checkpoint.Spec) (*tensor.Tensor, error) {
		t, err := w.read(pieces[s.Name])
		if err != nil {
			return nil, err
		}
		if t, err = t.Narrow(s.Type.DType); err != nil {
			return nil, withCode(config.ExitInput, fmt.Errorf("%s: %w; write f32, or bf16 where that was f16", s.Name, err))
		}
		return t, nil
	})
}

// piece is a tensor of the file and the parameter that holds it.
type piece struct {
	models.Piece
	param layers.Param
	whole bool
}

// weightReader reads pieces of parameters. Those of a layer's experts come in turn from its two stacks, which it keeps meanwhile.
type weightReader struct {
	model  *models.Model
	values layers.Reader
	held   map[*graph.Var]*tensor.Tensor
}

const heldStacks = 2

func (w *weightReader) read(p piece) (*tensor.Tensor, error) {
	t, ok := w.held[p.param.Var]
	if !ok {
		var err error
		if t, err = w.values.Get(p.param.Var); err != nil {
			return nil, err
		}
		if t, err = w.model.ToHalfSplit(p.param.Name, t); err != nil {
			return nil, err
		}
	}
	if p.whole {
		return t, nil
	}
	if !ok {
		if len(w.held) == heldStacks {
			clear(w.held)
		}
		w.held[p.param.Var] = t
	}
	return p.Cut(t), nil
}

func dtypeName(specs []checkpoint.Spec) string {
	for _, s := range specs {
		switch s.Type.DType {
		case tensor.BF16:
			return "bfloat16"
		case tensor.F16:
			return "float16"
		}
	}
	return "float32"
}
