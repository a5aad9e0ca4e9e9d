package llamacpp

import (
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// LowRank is an adapter of one module as PEFT has it: W + Scale·B·A.
type LowRank struct {
	Path      string         // of the module, such as model.layers.0.self_attn.q_proj
	A, B      *tensor.Tensor // (r, in), (out, r); of an embedding (r, vocabulary), (features, r)
	Scale     float64
	Embedding bool
}

// LoRATypes lists the types that adapters are written in.
func LoRATypes() []ggml.Type { return []ggml.Type{ggml.F32, ggml.BF16, ggml.F16, ggml.Q8_0} }

// ExportLoRA writes an adapter as a GGUF file that llama.cpp puts on the model, itself exported from the same weights. weights and config
// are those of the model, as Export takes them. llama.cpp knows one alpha and takes alpha/r as every module's scale: modules that have
// another one get the difference into B.
func ExportLoRA(fsys vfs.FS, out string, adapter []LowRank, weights checkpoint.Reader, config []byte, o ExportOptions) (*Report, error) {
	ok := false
	for _, t := range LoRATypes() {
		ok = ok || t == o.Type
	}
	if !ok {
		return nil, fmt.Errorf("adapters are written in %s, not in %v", ggml.Names(LoRATypes()), o.Type)
	}
	if len(adapter) == 0 {
		return nil, fmt.Errorf("the adapter adapts no module")
	}
	x, err := newExport(weights, config, ExportOptions{Type: ggml.F32}) // which finds out whether llama.cpp has the model at all
	if err != nil {
		return nil, err
	}
	for _, m := range adapter {
		if m.A == nil || m.B == nil || m.A.Type().Rank() != 2 || m.B.Type().Rank() != 2 {
			return nil, fmt.Errorf("module %s: A and B must be two matrices", m.Path)
		}
	}
	alpha := mostFrequent(adapter)
	if alpha == 0 {
		return nil, fmt.Errorf("most modules have the scale 0 (lora_alpha is 0), which llama.cpp takes for 1: the adapter changes nothing there, merge it instead")
	}
	x.report.Warnings, x.tensors = nil, nil
	for _, m := range adapter {
		if err := x.lowRank(m, alpha, o.Type); err != nil {
			return nil, err
		}
	}
	x.kvs = []kv{{Key: "general.architecture", Value: x.arch.name}, {Key: "general.type", Value: "adapter"}, {Key: "adapter.type", Value: "lora"}}
	if o.Name != "" {
		x.kvs = append(x.kvs, kv{Key: "general.name", Value: o.Name})
	}
	x.kvs = append(x.kvs, kv{Key: "general.file_type", Value: fileTypes[o.Type]}, kv{Key: "adapter.lora.alpha", Value: float32(alpha)},
		kv{Key: "general.quantization_version", Value: uint32(2)})
	return x.write(fsys, out)
}

// mostFrequent is the alpha that most modules have.
func mostFrequent(adapter []LowRank) (alpha float64) {
	count := map[float64]int{}
	for _, m := range adapter {
		a := m.Scale * float64(m.B.Shape().Dim(-1))
		if count[a]++; count[a] > count[alpha] {
			alpha = a
		}
	}
	return alpha
}

// lowRank adds the two tensors of a module.
func (x *export) lowRank(m LowRank, alpha float64, t ggml.Type) error {
	name := m.Path + ".weight"
	r, out, expert, ok := x.arch.fromHF(name)
	typ, has := x.weights.Type(name)
	tied := name == "lm_head.weight" && x.config.on("tie_word_embeddings")
	switch {
	case !ok || !has || expert >= 0 || tied:
		return fmt.Errorf("module %s is adapted, and llama.cpp's architecture %q has no weight of its own for it: merge the adapter into the model and export that", m.Path, x.arch.name)
	case m.A.Type().Dim(0) != m.B.Type().Dim(1) || m.A.Type().Dim(0) == 0:
		return fmt.Errorf("module %s: A %v and B %v do not belong together", m.Path, m.A.Type(), m.B.Type())
	}
	rows, columns := typ.Dim(0), typ.Dim(-1)
	if m.Embedding || r.change == transposed {
		rows, columns = columns, rows
	}
	if m.A.Type().Dim(1) != columns || m.B.Type().Dim(0) != rows {
		return fmt.Errorf("module %s: A %v and B %v do not fit the model's weight %v: the adapter belongs to another model", m.Path, m.A.Type(), m.B.Type(), typ)
	}
	a, err := m.A.Convert(tensor.F32)
	if err != nil {
		return err
	}
	b, err := m.B.Convert(tensor.F32)
	if err != nil {
		return err
	}
	if m.Embedding {
		a = transpose(a)
	}
	if r.change == paired {
		head := int(x.config.headDim())
		if head%2 != 0 || head == 0 || rows%head != 0 {
			return fmt.Errorf("module %s has %d rows, which is no whole number of heads of %d", m.Path, rows, head)
		}
		b = rotaryPairs(b, head)
	}
	by := float32(m.Scale * float64(m.A.Type().Dim(0)) / alpha)
	if x.scale != 1 && strings.HasSuffix(name, x.scaled) {
		by *= x.scale
	}
	values := append([]float32(nil), tensor.Data[float32](b)...)
	for i := range values {
		values[i] *= by
	}
	x.factor(out+".lora_a", a.Shape(), tensor.Data[float32](a), t)
	x.factor(out+".lora_b", b.Shape(), values, t)
	return nil
}

func (x *export) factor(name string, shape tensor.Shape, values []float32, t ggml.Type) {
	if block, _ := t.Block(); shape.Dim(-1)%block != 0 {
		t = ggml.F16
	}
	x.tensors = append(x.tensors, outTensor{Spec: gguf.Spec{Name: name, Type: t, Shape: shape}, values: values})
}
