package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Llama2CHeader is the header of a llama2.c file, version 0: seven int32, little-endian
// (https://github.com/karpathy/llama2.c, run.c).
type Llama2CHeader struct {
	Dim       int  `json:"dim"`
	HiddenDim int  `json:"hidden_dim"`
	Layers    int  `json:"n_layers"`
	Heads     int  `json:"n_heads"`
	KVHeads   int  `json:"n_kv_heads"`
	VocabSize int  `json:"vocab_size"`
	SeqLen    int  `json:"seq_len"`
	Tied      bool `json:"tied"` // the classifier is the embedding; in the file an untied one is a negative vocab_size
}

// HeadDim is the width of one attention head.
func (h Llama2CHeader) HeadDim() int { return h.Dim / h.Heads }

// KVDim is the width of the key and value projections.
func (h Llama2CHeader) KVDim() int { return h.Dim / h.Heads * h.KVHeads }

// Llama2C is an open llama2.c file. Its float32 tensors carry the names of a Hugging Face Llama model (model.embed_tokens.weight,
// model.layers.0.self_attn.q_proj.weight, ...). They are given as they lie in the file: llama2.c rotates interleaved pairs
// (2i, 2i+1) of a head, while Hugging Face models rotate the halves (i, i+d/2), so q_proj and k_proj must be used with
// interleaved rotation, or their rows permuted by the caller.
type Llama2C struct {
	store
	header Llama2CHeader
}

const llama2cHeaderBytes = 7 * 4

// OpenLlama2C opens a version 0 file. The header must give the size of the file exactly; errors match ErrFormat.
func OpenLlama2C(fsys vfs.FS, path string) (*Llama2C, error) {
	fsys = vfs.Or(fsys)
	r, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	m, err := newLlama2C(path, r)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return m, nil
}

// Header returns the dimensions of the model.
func (m *Llama2C) Header() Llama2CHeader { return m.header }

func newLlama2C(path string, r vfs.Reader) (*Llama2C, error) {
	head, err := readHead(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := refuseForeign(path, head); err != nil {
		return nil, err
	}
	raw := make([]byte, llama2cHeaderBytes)
	if n, _ := r.ReadAt(raw, 0); n < len(raw) {
		return nil, &FormatError{File: path, Reason: "it is too short for a llama2.c file", Remedy: llama2cRemedy}
	}
	h, err := parseLlama2C(raw, r.Size())
	if err != nil {
		return nil, &FormatError{File: path, Reason: err.Error(), Remedy: llama2cRemedy}
	}
	m := &Llama2C{store{path: path, r: r, base: llama2cHeaderBytes, index: map[string]int{}}, h}
	m.lay()
	return m, nil
}

const llama2cRemedy = "only version 0 of llama2.c's format is read (export.py --version 0, float32)"

// parseLlama2C checks the header against the size of the file.
func parseLlama2C(raw []byte, size int64) (Llama2CHeader, error) {
	var v [7]int
	for i := range v {
		v[i] = int(int32(binary.LittleEndian.Uint32(raw[4*i:])))
	}
	h := Llama2CHeader{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[5] > 0}
	if string(raw[:4]) == "24ka" {
		return h, errors.New("this is a llama2.c file of a later version")
	}
	if !h.Tied {
		h.VocabSize = -h.VocabSize
	}
	names := [7]string{"dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"}
	for i, d := range []int{h.Dim, h.HiddenDim, h.Layers, h.Heads, h.KVHeads, h.VocabSize, h.SeqLen} {
		if d <= 0 {
			return h, fmt.Errorf("its header says %s = %d", names[i], v[i])
		}
	}
	switch {
	case h.Dim%h.Heads != 0:
		return h, fmt.Errorf("dim %d is not a multiple of n_heads %d", h.Dim, h.Heads)
	case h.Heads%h.KVHeads != 0:
		return h, fmt.Errorf("n_heads %d is not a multiple of n_kv_heads %d", h.Heads, h.KVHeads)
	case h.HeadDim()%2 != 0:
		return h, fmt.Errorf("heads of odd width %d cannot be rotated", h.HeadDim())
	}
	want, ok := h.fileSize()
	if !ok || want != uint64(size) {
		return h, fmt.Errorf("a model of its header (dim %d, hidden_dim %d, n_layers %d, vocab_size %d) needs %s bytes, the file has %d",
			h.Dim, h.HiddenDim, h.Layers, v[5], sizeText(want, ok), size)
	}
	return h, nil
}

func sizeText(n uint64, ok bool) string {
	if !ok {
		return "more than 2^64"
	}
	return fmt.Sprint(n)
}

// fileSize is the length of a file with this header; ok is false when it does not fit 64 bits.
func (h Llama2CHeader) fileSize() (size uint64, ok bool) {
	dim, hidden, layers := uint64(h.Dim), uint64(h.HiddenDim), uint64(h.Layers)
	ok = true
	add := func(factors ...uint64) {
		n := uint64(4)
		for _, f := range factors {
			hi, lo := bits.Mul64(n, f)
			n, ok = lo, ok && hi == 0
		}
		sum, carry := bits.Add64(size, n, 0)
		size, ok = sum, ok && carry == 0
	}
	vocabs := uint64(2)
	if h.Tied {
		vocabs = 1
	}
	add(vocabs, uint64(h.VocabSize), dim)
	add(layers, 2, dim)                    // rms_att, rms_ffn
	add(layers, 2, dim, dim)               // wq, wo
	add(layers, 2, dim, uint64(h.KVDim())) // wk, wv
	add(layers, 3, dim, hidden)            // w1, w2, w3
	add(dim)                               // rms_final
	add(uint64(h.SeqLen), uint64(h.HeadDim()))
	sum, carry := bits.Add64(size, llama2cHeaderBytes, 0)
	return sum, ok && carry == 0
}

// lay computes where the tensors lie: each kind holds all layers, one after the other.
func (m *Llama2C) lay() {
	h, at := m.header, int64(0)
	add := func(name string, dims ...int) {
		t := tensor.T(tensor.F32, dims...)
		m.index[name] = len(m.entries)
		m.entries = append(m.entries, entry{name: name, typ: t, begin: at, end: at + t.Bytes()})
		at += t.Bytes()
	}
	perLayer := func(name string, dims ...int) {
		for i := range h.Layers {
			add(fmt.Sprintf("model.layers.%d.%s.weight", i, name), dims...)
		}
	}
	add("model.embed_tokens.weight", h.VocabSize, h.Dim)
	perLayer("input_layernorm", h.Dim)
	perLayer("self_attn.q_proj", h.Dim, h.Dim)
	perLayer("self_attn.k_proj", h.KVDim(), h.Dim)
	perLayer("self_attn.v_proj", h.KVDim(), h.Dim)
	perLayer("self_attn.o_proj", h.Dim, h.Dim)
	perLayer("post_attention_layernorm", h.Dim)
	perLayer("mlp.gate_proj", h.HiddenDim, h.Dim)
	perLayer("mlp.down_proj", h.Dim, h.HiddenDim)
	perLayer("mlp.up_proj", h.HiddenDim, h.Dim)
	add("model.norm.weight", h.Dim)
	at += int64(h.SeqLen) * int64(h.HeadDim()) * 4 // tables of cosines and sines that run.c no longer reads
	if !h.Tied {
		add("lm_head.weight", h.VocabSize, h.Dim)
	}
}
