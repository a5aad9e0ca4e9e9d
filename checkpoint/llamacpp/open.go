package llamacpp

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Model is a GGUF file as a Hugging Face model: tensors under the names of its family, decoded when they are read, one at a time.
type Model struct {
	f      *gguf.File
	config []byte
	names  []string
	parts  map[string]part
}

// part is where a tensor comes from.
type part struct {
	info   gguf.Info
	typ    tensor.Type
	change change
	head   int // rows of a head, of paired tensors
	expert int // of stacked ones
}

var _ checkpoint.Reader = (*Model)(nil)

// Open opens a file that holds a whole model. An architecture or a tensor that is not known is refused by name.
func Open(fsys vfs.FS, path string) (*Model, error) {
	f, err := gguf.Open(fsys, path)
	if err != nil {
		return nil, err
	}
	m, err := newModel(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return m, nil
}

func newModel(f *gguf.File) (*Model, error) {
	a, err := architecture(f)
	if err != nil {
		return nil, err
	}
	m := &Model{f: f, parts: map[string]part{}}
	if m.config, err = configOf(f, a); err != nil {
		return nil, err
	}
	look := &meta{f: f, arch: a.name}
	head := look.headDim(look.needed("%.embedding_length"), look.needed("%.attention.head_count"))
	for _, info := range f.Tensors() {
		if slices.Contains(a.buffers, info.Name) {
			continue
		}
		r, hf, ok := a.fromGGUF(info.Name)
		if !ok {
			r, hf, ok = splitExpert(a, info.Name)
		}
		if !ok {
			return nil, badFile(f.Path(), info.Name, "architecture "+strconv.Quote(a.name)+" has no tensor of this name here",
				"the file is of a variant that is not supported: use the model's own safetensors files")
		}
		if err := m.add(info, r, hf, head); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// architecture checks that a file holds a whole model of a known kind.
func architecture(f *gguf.File) (*arch, error) {
	bad := func(reason, remedy string) (*arch, error) { return nil, badFile(f.Path(), "", reason, remedy) }
	m := &meta{f: f}
	name, kind := m.text("general.architecture"), m.text("general.type")
	a := archNamed(name)
	switch {
	case m.err != nil:
		return nil, m.err
	case kind == "adapter":
		return bad("it holds an adapter, not a model", "give the model that it belongs to, and the adapter in PEFT's format beside it")
	case kind != "" && kind != "model":
		return bad("it holds a "+strconv.Quote(kind)+", not a model", "give the file of the language model")
	case name == "":
		return bad("it has no general.architecture", "")
	case a == nil:
		return bad(fmt.Sprintf("architecture %q is not supported; supported: %s", name, strings.Join(Architectures(), ", ")), "use a model of one of these")
	}
	return a, m.err
}

// splitExpert reads names of older files, which have a tensor for each expert: blk.0.ffn_gate.3.weight.
func splitExpert(a *arch, name string) (r row, hf string, ok bool) {
	p := strings.Split(name, ".")
	if len(p) != 5 || p[0] != "blk" || p[4] != "weight" {
		return row{}, "", false
	}
	n, err := strconv.Atoi(p[3])
	if err != nil || strconv.Itoa(n) != p[3] {
		return row{}, "", false
	}
	r, hf, ok = a.fromGGUF(strings.Join([]string{p[0], p[1], p[2] + "_exps", p[4]}, "."))
	r.change = same
	return r, strings.Replace(hf, "@", p[3], 1), ok && strings.Contains(hf, "@")
}

// What bounds the names that a file can make the program hold: those that one tensor may stand for, and all of them. The largest mixtures have
// some fifty thousand.
const (
	maxExperts = 1024
	maxNames   = 1 << 18
)

func (m *Model) add(info gguf.Info, r row, hf string, head int) error {
	p := part{info: info, typ: info.Decoded(), change: r.change, head: head}
	if p.typ.DType == tensor.Invalid || !p.typ.DType.IsFloat() {
		return badFile(m.f.Path(), info.Name, fmt.Sprintf("format %v is not supported", info.Type), "use a file in "+ggml.Names(ggml.Decoded()))
	}
	rank := info.Shape.Rank()
	switch {
	case r.change == stacked:
		if rank != 3 || info.Shape.Dim(0) > maxExperts {
			return badFile(m.f.Path(), info.Name, fmt.Sprintf("it has shape %v, that of up to %d experts is needed", info.Shape, maxExperts), "")
		}
		p.typ.Shape = tensor.S(info.Shape.Dim(1), info.Shape.Dim(2))
		for e := range info.Shape.Dim(0) {
			p.expert = e
			if err := m.put(strings.Replace(hf, "@", strconv.Itoa(e), 1), p); err != nil {
				return err
			}
		}
		return nil
	case r.change == paired && (rank == 0 || head < 2 || head%2 != 0 || info.Shape.Dim(0)%head != 0):
		return badFile(m.f.Path(), info.Name, fmt.Sprintf("its shape %v is not that of heads of %d rows", info.Shape, head), "")
	case r.change == plusOne:
		p.typ.DType = tensor.F32
	case r.change == transposed && rank == 2:
		p.typ.Shape = tensor.S(info.Shape.Dim(1), info.Shape.Dim(0))
	case r.change == transposed:
		p.change = same // a bias
	}
	return m.put(hf, p)
}

func (m *Model) put(name string, p part) error {
	if _, twice := m.parts[name]; twice {
		return badFile(m.f.Path(), p.info.Name, "another tensor stands for "+name+" too", "")
	}
	if len(m.names) == maxNames {
		return badFile(m.f.Path(), p.info.Name, fmt.Sprintf("the file's tensors stand for more than %d weights", maxNames), "")
	}
	m.parts[name] = p
	m.names = append(m.names, name)
	return nil
}

// File is the GGUF file, for its metadata.
func (m *Model) File() *gguf.File { return m.f }

// Config returns a config.json in the keys of transformers 5.
func (m *Model) Config() []byte { return bytes.Clone(m.config) }

// Names lists the tensors in file order.
func (m *Model) Names() []string { return slices.Clone(m.names) }

// Type returns a tensor's element type and shape: float32 where the file has blocks.
func (m *Model) Type(name string) (tensor.Type, bool) {
	p, ok := m.parts[name]
	return p.typ, ok
}

// Close closes the file.
func (m *Model) Close() error { return m.f.Close() }

// badFile is an error of a file's contents.
func badFile(path, tensor, reason, remedy string) error {
	if remedy == "" {
		remedy = "the file is damaged, or of a converter that does not keep to llama.cpp's rules: fetch or convert it again"
	}
	return &checkpoint.FormatError{File: path, Tensor: tensor, Reason: reason, Remedy: remedy}
}

// inHalves is the row of rotary pairs (2i, 2i+1) that is row r of halves (i, i+d/2), for heads of d rows.
func inHalves(r, d int) int { return r/d*d + 2*(r%d%(d/2)) + r%d/(d/2) }

// rotaryPairs takes the rows of heads from halves to pairs.
func rotaryPairs(t *tensor.Tensor, d int) *tensor.Tensor {
	return rows(t, func(r int) int { return r/d*d + r%d%2*(d/2) + r%d/2 })
}

// rows makes a tensor whose row r is row from(r) of t.
func rows(t *tensor.Tensor, from func(r int) int) *tensor.Tensor {
	out := tensor.New(t.Type())
	n := t.Shape().Dim(0)
	size := len(t.Bytes()) / max(n, 1)
	for r := range n {
		copy(out.Bytes()[r*size:(r+1)*size], t.Bytes()[from(r)*size:])
	}
	return out
}

// transpose swaps the axes of a matrix.
func transpose(t *tensor.Tensor) *tensor.Tensor {
	n, k, size := t.Shape().Dim(0), t.Shape().Dim(1), t.DType().Size()
	out := tensor.New(tensor.T(t.DType(), k, n))
	src, dst := t.Bytes(), out.Bytes()
	for i := range n {
		for j := range k {
			copy(dst[(j*n+i)*size:(j*n+i+1)*size], src[(i*k+j)*size:])
		}
	}
	return out
}
