package llamacpp

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
)

// ExportOptions says how a model is written.
type ExportOptions struct {
	Type ggml.Type // of matrices: F32, F16, BF16, Q8_0, Q4_0, Q4_1
	Name string    // general.name; "" = none
	// Tokenizer and Template describe the vocabulary and the chat template; nil and "" write none.
	Tokenizer *tokenizer.GGUF
	Template  string
	// Keep are entries, such as those of a GGUF file that the model came from, that take the place of Tokenizer and Template.
	Keep []gguf.KV
}

// Report is what was written.
type Report struct {
	Architecture string           `json:"architecture"`
	Tensors      int              `json:"tensors"`
	Elements     int64            `json:"elements"`
	Bytes        int64            `json:"bytes"` // of all tensors
	ByType       map[string]int64 `json:"bytes_by_type"`
	// Warnings tell what llama.cpp will do otherwise than the model does, and what was not stored as asked.
	Warnings []string `json:"warnings,omitempty"`
}

// fileTypes are the values of general.file_type (enum llama_ftype) for the types that models are written in.
var fileTypes = map[ggml.Type]uint32{ggml.F32: 0, ggml.F16: 1, ggml.Q4_0: 2, ggml.Q4_1: 3, ggml.Q8_0: 7, ggml.BF16: 32}

// ExportTypes lists the types that models are written in, smallest last.
func ExportTypes() []ggml.Type {
	return []ggml.Type{ggml.F32, ggml.BF16, ggml.F16, ggml.Q8_0, ggml.Q4_1, ggml.Q4_0}
}

// Export writes a model as a GGUF file that llama.cpp loads. weights has it under Hugging Face names and in full precision; config is a
// config.json with every key in transformers 5's words, as models.Config.HF makes it without a file. Tensors are read, changed and encoded
// one at a time, those that stay as they are in pieces. What llama.cpp would compute otherwise is refused, or told in the report where
// it differs for long texts only. The file appears whole or not at all.
func Export(fsys vfs.FS, out string, weights checkpoint.Reader, config []byte, o ExportOptions) (*Report, error) {
	x, err := newExport(weights, config, o)
	if err != nil {
		return nil, err
	}
	return x.write(fsys, out)
}

// export is a model on its way out.
type export struct {
	arch    *arch
	config  *hfConfig
	weights checkpoint.Reader
	kvs     []kv
	tensors []outTensor
	report  Report
	scaled  string // end of the names of tensors that are multiplied
	scale   float32
}

// outTensor is a tensor of the file and where its values come from.
type outTensor struct {
	gguf.Spec
	change change
	from   []string  // Hugging Face names, several for stacked experts
	values []float32 // of small tensors that are computed
	order  int
}

func newExport(weights checkpoint.Reader, config []byte, o ExportOptions) (*export, error) {
	if _, ok := fileTypes[o.Type]; !ok {
		return nil, fmt.Errorf("models are written in %s, not in %v", ggml.Names(ExportTypes()), o.Type)
	}
	c, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	x := &export{config: c, weights: weights, scale: 1, report: Report{ByType: map[string]int64{}}}
	if x.arch, err = archOf(c.text("model_type")); err != nil {
		return nil, err
	}
	if x.arch.scales != nil {
		end, by := x.arch.scales(c)
		x.scaled, x.scale = end, float32(by)
	}
	var e entries
	x.arch.metadata(c, &e)
	if c.err != nil {
		return nil, c.err
	}
	x.report.Architecture, x.report.Warnings = x.arch.name, e.warnings
	if err := x.place(o.Type, e.tensors); err != nil {
		return nil, err
	}
	return x, x.describe(o, e.kvs)
}

// describe puts the metadata in llama.cpp's order.
func (x *export) describe(o ExportOptions, model []kv) error {
	x.kvs = []kv{{Key: "general.architecture", Value: x.arch.name}, {Key: "general.type", Value: "model"}}
	if o.Name != "" {
		x.kvs = append(x.kvs, kv{Key: "general.name", Value: o.Name})
	}
	for _, k := range model {
		x.kvs = append(x.kvs, kv{Key: strings.Replace(k.Key, "%", x.arch.name, 1), Value: k.Value})
	}
	x.kvs = append(x.kvs, kv{Key: "general.file_type", Value: fileTypes[o.Type]}, kv{Key: "general.quantization_version", Value: uint32(2)})
	if o.Keep != nil {
		x.kvs = append(x.kvs, o.Keep...)
		return nil
	}
	if o.Tokenizer != nil {
		var err error
		if o.Tokenizer, err = padded(o.Tokenizer, int(x.config.integer("vocab_size"))); err != nil {
			return err
		}
	}
	x.kvs = append(x.kvs, vocabularyOf(o.Tokenizer, o.Template)...)
	return nil
}

// padded gives every row of the embedding a token.
func padded(t *tokenizer.GGUF, vocab int) (*tokenizer.GGUF, error) {
	const unused = 5
	if len(t.Tokens) > vocab {
		return nil, fmt.Errorf("the tokenizer has %d tokens, the model's vocabulary %d: they do not belong together", len(t.Tokens), vocab)
	}
	p := *t
	p.Tokens, p.Types, p.Scores = slices.Clone(t.Tokens), slices.Clone(t.Types), slices.Clone(t.Scores)
	for i := len(p.Tokens); i < vocab; i++ {
		p.Tokens = append(p.Tokens, fmt.Sprintf("[PAD%d]", i))
		if len(t.Types) > 0 {
			p.Types = append(p.Types, unused)
		}
		if len(t.Scores) > 0 {
			p.Scores = append(p.Scores, -1e4)
		}
	}
	return &p, nil
}

// place decides on name, shape and type of every tensor of the file.
func (x *export) place(t ggml.Type, computed []factors) error {
	tied := x.config.on("tie_word_embeddings")
	stacks := map[string]int{}
	for _, name := range x.weights.Names() {
		if tied && name == "lm_head.weight" || derived(name) {
			continue
		}
		r, out, expert, ok := x.arch.fromHF(name)
		typ, _ := x.weights.Type(name)
		if !ok || !typ.DType.IsFloat() {
			return fmt.Errorf("tensor %q (%v) has no place in llama.cpp's architecture %q", name, typ, x.arch.name)
		}
		if expert >= 0 {
			if i, seen := stacks[out]; seen {
				x.tensors[i].from = append(x.tensors[i].from, name)
				continue
			}
			stacks[out] = len(x.tensors)
		}
		o := outTensor{Spec: gguf.Spec{Name: out, Shape: typ.Shape}, change: r.change, from: []string{name}, order: x.order(out)}
		if o.change == transposed && typ.Rank() == 2 {
			o.Shape = tensor.S(typ.Dim(1), typ.Dim(0))
		} else if o.change == transposed {
			o.change = same
		}
		x.tensors = append(x.tensors, o)
	}
	for _, i := range stacks {
		if err := x.stack(&x.tensors[i]); err != nil {
			return err
		}
	}
	for _, f := range computed {
		if !slices.Contains(x.arch.buffers, f.name) {
			return fmt.Errorf("config.json: rope scaling with factors of its own for each frequency cannot be written: llama.cpp's architecture %q has no tensor for them", x.arch.name)
		}
		x.tensors = append(x.tensors, outTensor{Spec: gguf.Spec{Name: f.name, Shape: tensor.S(len(f.values))}, values: f.values, order: -1})
	}
	slices.SortStableFunc(x.tensors, func(a, b outTensor) int { return cmp.Compare(a.order, b.order) })
	for i := range x.tensors {
		x.tensors[i].Type = x.typeOf(&x.tensors[i], t, tied)
	}
	return nil
}

// derived tells buffers that are computed from config.json.
func derived(name string) bool {
	return strings.HasSuffix(name, "rotary_emb.inv_freq") || strings.HasSuffix(name, ".attn.bias") || strings.HasSuffix(name, ".attn.masked_bias")
}

// stack puts the experts of a layer in their order, all of one shape and none missing.
func (x *export) stack(o *outTensor) error {
	byNumber := map[int]string{}
	for _, name := range o.from {
		_, _, n, _ := x.arch.fromHF(name)
		byNumber[n] = name
		if typ, _ := x.weights.Type(name); typ.Shape != o.Shape {
			return fmt.Errorf("tensor %q is %v, that of another expert %v", name, typ, o.Shape)
		}
	}
	for n := range o.from {
		name, ok := byNumber[n]
		if !ok {
			return fmt.Errorf("%s: expert %d of %d is missing", o.Name, n, len(o.from))
		}
		o.from[n] = name
	}
	o.Shape = tensor.S(len(o.from), o.Shape.Dim(0), o.Shape.Dim(1))
	return nil
}

// order puts what is read first in front: the embedding, layer after layer, the head.
func (x *export) order(name string) int {
	const layer = 1 << 10
	pattern, number, _ := numbered(strings.TrimSuffix(strings.TrimSuffix(name, ".weight"), ".bias"))
	i := slices.IndexFunc(x.arch.rows, func(r row) bool { return r.gguf == pattern })
	n, err := strconv.Atoi(number)
	switch {
	case err == nil:
		return (n+1)*layer + i
	case strings.HasPrefix(name, "output"):
		return 1<<40 + i
	}
	return i
}

// typeOf is the type that a tensor is stored in where matrices are stored in t, by llama.cpp's rules: vectors, norms, routers and
// positions in F32; rows that are no whole number of blocks in F16. In 4-bit files the head, or the embedding that serves as one,
// has 8 bits: there, 4 cost most.
func (x *export) typeOf(o *outTensor, t ggml.Type, tied bool) ggml.Type {
	base := path.Ext(strings.TrimSuffix(o.Name, ".weight"))
	switch {
	case o.values != nil, o.Shape.Rank() < 2, strings.HasSuffix(base, "_norm"), base == ".ffn_gate_inp", o.Name == "position_embd.weight":
		return ggml.F32
	case (t == ggml.Q4_0 || t == ggml.Q4_1) && (o.Name == "output.weight" || tied && o.Name == "token_embd.weight"):
		t = ggml.Q8_0
	}
	if block, _ := t.Block(); o.Shape.Dim(-1)%block != 0 {
		x.report.Warnings = append(x.report.Warnings, fmt.Sprintf("%s is stored in F16: its rows of %d elements are no whole number of %v's blocks of %d",
			o.Name, o.Shape.Dim(-1), t, block))
		return ggml.F16
	}
	return t
}

func (x *export) write(fsys vfs.FS, out string) (*Report, error) {
	specs := make([]gguf.Spec, len(x.tensors))
	for i, t := range x.tensors {
		specs[i] = t.Spec
		n, _ := t.Type.Size(t.Shape.Size())
		x.report.Elements += int64(t.Shape.Size())
		x.report.Bytes += n
		x.report.ByType[t.Type.String()] += n
	}
	x.report.Tensors = len(specs)
	w, err := gguf.NewWriter(fsys, out, x.kvs, specs)
	if err != nil {
		return nil, err
	}
	for _, t := range x.tensors {
		if err := x.tensor(w, t); err != nil {
			w.Abort()
			return nil, err
		}
	}
	return &x.report, w.Commit()
}

// tensor writes one tensor.
func (x *export) tensor(w *gguf.Writer, o outTensor) error {
	if o.values != nil {
		return w.WriteFloats(o.Name, o.values)
	}
	for _, name := range o.from {
		if o.change == same || o.change == stacked {
			if err := x.pieces(w, o, name); err != nil {
				return err
			}
			continue
		}
		t, err := x.weights.Read(name)
		if err != nil {
			return err
		}
		head := int(x.config.headDim())
		switch {
		case o.change == transposed:
			t = transpose(t)
		case o.change == paired && (head == 0 || head%2 != 0 || t.Shape().Dim(0)%head != 0):
			return fmt.Errorf("tensor %q has %d rows, which is no whole number of heads of %d", name, t.Shape().Dim(0), head)
		case o.change == paired:
			t = rotaryPairs(t, head)
		}
		if t, err = t.Convert(tensor.F32); err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		if err := w.WriteFloats(o.Name, x.changed(name, o.change, tensor.Data[float32](t))); err != nil {
			return err
		}
	}
	return nil
}

// pieces writes a tensor whose elements keep their order, some at a time.
func (x *export) pieces(w *gguf.Writer, o outTensor, name string) error {
	const some = 1 << 20 // elements, whole blocks of every type
	typ, _ := x.weights.Type(name)
	size := typ.DType.Size()
	for at := 0; at < typ.Size(); at += some {
		part := tensor.New(tensor.T(typ.DType, min(some, typ.Size()-at)))
		if err := x.weights.ReadInto(name, int64(at)*int64(size), part.Bytes()); err != nil {
			return err
		}
		wide, err := part.Convert(tensor.F32)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		if err := w.WriteFloats(o.Name, x.changed(name, o.change, tensor.Data[float32](wide))); err != nil {
			return err
		}
	}
	return nil
}

// changed applies what concerns values: 1 + w, and the factor of some tensors.
func (x *export) changed(name string, c change, v []float32) []float32 {
	scale := x.scale != 1 && x.scaled != "" && strings.HasSuffix(name, x.scaled)
	if c != plusOne && !scale {
		return v
	}
	v = slices.Clone(v) // the reader's own, maybe
	for i := range v {
		if c == plusOne {
			v[i]++
		}
		if scale {
			v[i] *= x.scale
		}
	}
	return v
}
