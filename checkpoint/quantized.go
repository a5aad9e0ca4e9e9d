package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Quantized serves the tensors of a model whose linear weights are stored quantized, as its quantization_config says. Weights in formats
// of bitsandbytes stay in their codes: Header says what a weight is, State reads it. Weights in other formats, for which there are no
// layers, are served dequantized under their own name. It satisfies layers.QuantizedWeights.
type Quantized struct {
	Reader
	path   string
	config *Quantization
	parts  map[string][]string    // of every quantized weight, by its name
	own    map[string]tensor.Type // what weights in formats of MethodOwn stand for
	names  []string               // with the parts of those hidden
	last   lastState
}

const (
	stateSuffix  = ".quant_state."
	scaleSuffix  = ".SCB"
	weightSuffix = ".weight"
)

// OpenQuantized wraps the reader of a model; path is for messages. The parts of every quantized weight are found by name; they are
// checked when the weight is asked for.
func OpenQuantized(r Reader, path string, q *Quantization) (*Quantized, error) {
	z := &Quantized{Reader: r, path: path, config: q, parts: map[string][]string{}, own: map[string]tensor.Type{}}
	hidden := map[string]bool{}
	for _, name := range r.Names() {
		weight, state, ok := strings.Cut(name, stateSuffix)
		if ok && !slices.Contains(quant.StateDictNames(weight), name) {
			return nil, &FormatError{File: path, Tensor: name, Reason: "the kind of state " + quoted(state) + " is not known",
				Remedy: "it was written by a newer library; the kinds known are bitsandbytes__nf4, bitsandbytes__fp4 and bitsandbyes"}
		}
		if module, is := strings.CutSuffix("."+name, scaleSuffix); is { // a file of one layer has no module's name
			weight, ok = strings.TrimPrefix(module+weightSuffix, "."), true
		}
		if !ok {
			continue
		}
		z.parts[weight] = z.present(quant.StateDictNames(weight))
		if state != MethodOwn {
			continue
		}
		t, _ := r.Type(weight)
		h, err := quant.ReadHeader(weight, t, z.lookup)
		if err != nil {
			return nil, z.bad(weight, err)
		}
		z.own[weight] = h.Type
		for _, part := range z.parts[weight] {
			hidden[part] = part != weight
		}
	}
	z.names = slices.DeleteFunc(r.Names(), func(n string) bool { return hidden[n] })
	return z, nil
}

// Names lists the tensors in file order, without the parts of weights that are served dequantized.
func (z *Quantized) Names() []string { return slices.Clone(z.names) }

// Type returns a tensor's element type and shape; of a weight that is served dequantized, what it stands for.
func (z *Quantized) Type(name string) (tensor.Type, bool) {
	if t, ok := z.own[name]; ok {
		return t, true
	}
	return z.Reader.Type(name)
}

// Read loads one tensor.
func (z *Quantized) Read(name string) (*tensor.Tensor, error) {
	if _, ok := z.own[name]; !ok {
		return z.Reader.Read(name)
	}
	s, err := z.State(name)
	if err != nil {
		return nil, err
	}
	return s.Dequantize(tensor.Invalid)
}

// ReadInto fills p with the bytes of a tensor from the given byte offset inside it.
func (z *Quantized) ReadInto(name string, offset int64, p []byte) error {
	if _, ok := z.own[name]; !ok {
		return z.Reader.ReadInto(name, offset, p)
	}
	return z.decode(name, z.own[name], offset, p)
}

// Config is the description in config.json.
func (z *Quantized) Config() *Quantization { return z.config }

func (z *Quantized) present(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { _, ok := z.Reader.Type(n); return !ok })
}

// Parts lists the tensors that make up a quantized weight.
func (z *Quantized) Parts(name string) []string { return slices.Clone(z.parts[name]) }

// Header describes the weight of a linear layer; nil when it is one of those kept in full precision, or is served dequantized. A weight
// that should be quantized and is not, or whose parts are incomplete, is an error.
func (z *Quantized) Header(name string) (*quant.Header, error) {
	if _, ok := z.own[name]; ok {
		return nil, nil
	}
	if _, ok := z.parts[name]; !ok {
		return nil, z.full(name)
	}
	h, err := z.describe(name)
	if err != nil {
		return nil, err
	}
	if got := h.Config.Scheme.String(); got != z.config.Scheme {
		return nil, &FormatError{File: z.path, Tensor: name, Reason: fmt.Sprintf("it is stored in %s, quantization_config says %s", got, z.config.Scheme),
			Remedy: "use the config.json that belongs to these weights"}
	}
	if h.Config.Scheme == quant.Int8 {
		h.Config.Threshold = z.config.Threshold
	}
	return h, nil
}

// describe tells how a quantized weight is stored, whatever quantization_config says.
func (z *Quantized) describe(name string) (*quant.Header, error) {
	t, ok := z.Reader.Type(name)
	if !ok {
		return nil, z.bad(name, fmt.Errorf("its codes are missing"))
	}
	h, err := quant.ReadHeader(name, t, z.lookup)
	if err != nil {
		return nil, z.bad(name, err)
	}
	if h.Config.Scheme.FourBit() {
		return h, z.parts4(name, h, t)
	}
	if h.Config.Scheme == quant.Int8 {
		return h, z.scales(name, sibling(name, scaleSuffix), t.Dim(0))
	}
	return h, nil
}

// Complete checks that no part of a quantized weight stands alone: codes without scales or description, scales without codes. Whoever
// passes every tensor on asks it first, because a part that stands alone looks like any other tensor.
func (z *Quantized) Complete() error {
	known := map[string]bool{}
	for _, weight := range slices.Sorted(maps.Keys(z.parts)) {
		if _, ok := z.Reader.Type(weight); !ok {
			return z.bad(weight, errors.New("its codes are missing"))
		}
		for _, part := range z.parts[weight] {
			known[part] = true
		}
	}
	for _, name := range z.Reader.Names() {
		if !known[name] {
			if err := z.alone(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// partSuffixes end the names of parts that no weight has in full precision.
var partSuffixes = []string{".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".weight_format"}

// alone tells what is missing beside a tensor that belongs to no quantized weight; nil where nothing is.
func (z *Quantized) alone(name string) error {
	e := &FormatError{File: z.path, Tensor: name, Remedy: "the checkpoint is incomplete: fetch it again, all shards of it"}
	t, _ := z.Reader.Type(name)
	switch {
	case slices.ContainsFunc(partSuffixes, func(s string) bool { return strings.HasSuffix("."+name, s) }):
		e.Reason = "it is a part of a quantized weight whose description or scales are missing"
	case t.DType == tensor.I8 && strings.HasSuffix("."+name, weightSuffix):
		e.Reason = "it holds int8 codes, and their scales " + quoted(sibling(name, scaleSuffix)) + " are missing"
	case t.DType == tensor.U8 && strings.HasSuffix("."+name, weightSuffix):
		e.Reason = fmt.Sprintf("it is %v: codes whose description and scales are missing", t)
	default:
		return nil
	}
	return e
}

// sibling is the name of a tensor beside a weight, in its module.
func sibling(name, suffix string) string {
	return strings.TrimPrefix(strings.TrimSuffix("."+name, weightSuffix)+suffix, ".")
}

// full explains a weight without quantized parts: nil when it is rightly in full precision.
func (z *Quantized) full(name string) error {
	t, ok := z.Type(name)
	module := strings.TrimSuffix(name, weightSuffix)
	if !ok || t.DType.IsFloat() && z.config.Skips(module) {
		return nil // a missing tensor is reported where it is needed
	}
	e := &FormatError{File: z.path, Tensor: name}
	switch {
	case t.DType.IsFloat():
		e.Reason = fmt.Sprintf("it is %v in full precision, but quantization_config says %s", t, z.config.Scheme)
		e.Remedy = "name the module in " + z.config.skipKey() + ", or remove quantization_config and set quantize.scheme if no weight is quantized"
	case t.DType == tensor.I8:
		e.Reason = "it holds int8 codes, and their scales " + quoted(sibling(name, scaleSuffix)) + " are missing"
	default:
		e.Reason = fmt.Sprintf("it is %v, and its description %s%s%s is missing", t, name, stateSuffix, z.config.stateKind())
	}
	if e.Remedy == "" {
		e.Remedy = "the checkpoint is incomplete: fetch it again, all shards of it"
	}
	return e
}

// parts4 checks what ReadHeader does not touch of a 4-bit weight: that codes, scales and tables are there, and as many as its shape needs.
func (z *Quantized) parts4(name string, h *quant.Header, codes tensor.Type) error {
	if want := int64(quant.PackedSize(h.Type.Size())); codes.Bytes() != want {
		return &FormatError{File: z.path, Tensor: name, Reason: fmt.Sprintf("%v in 4 bits needs %d bytes of codes, it is %v", h.Type.Shape, want, codes),
			Remedy: "the checkpoint is damaged: fetch it again"}
	}
	need := []string{".quant_map"}
	if t, _ := z.Reader.Type(name + ".absmax"); t.DType == tensor.U8 {
		need = append(need, ".nested_absmax", ".nested_quant_map")
	}
	for _, suffix := range need {
		if _, ok := z.Reader.Type(name + suffix); !ok {
			return z.bad(name, fmt.Errorf("tensor %s is missing", name+suffix))
		}
	}
	return z.scales(name, name+".absmax", quant.Blocks(h.Type.Size(), h.Config.Blocksize))
}

// scales checks the number of scales of a weight.
func (z *Quantized) scales(name, part string, want int) error {
	t, ok := z.Reader.Type(part)
	switch {
	case !ok:
		return z.bad(name, fmt.Errorf("tensor %s is missing, which holds its scales", part))
	case t.Size() != want:
		return z.bad(name, fmt.Errorf("it needs %d scales, %s is %v", want, quoted(part), t))
	}
	return nil
}

// State reads a quantized weight.
func (z *Quantized) State(name string) (*quant.State, error) {
	s, err := quant.FromStateDict(name, z.lookup)
	if err == nil {
		err = s.Flatten()
	}
	if err != nil {
		return nil, z.bad(name, err)
	}
	return s, nil
}

func (z *Quantized) lookup(name string) (*tensor.Tensor, bool, error) {
	if _, ok := z.Reader.Type(name); !ok {
		return nil, false, nil
	}
	t, err := z.Reader.Read(name)
	return t, err == nil, err
}

func (z *Quantized) bad(name string, err error) error {
	return &FormatError{File: z.path, Tensor: name, Reason: strings.TrimPrefix(err.Error(), "quant: "+name+": "),
		Remedy: "the quantized weight is damaged, incomplete or of a newer library: fetch it again, or quantize the full-precision model"}
}

// StoredAs tells how the linear weights of a model folder are stored: its quantization_config and the header of the first quantized
// weight. Both are nil for a folder in full precision, and for a path that is no model folder.
func StoredAs(fsys vfs.FS, dir string) (q *Quantization, h *quant.Header, err error) {
	fsys = vfs.Or(fsys)
	raw, err := readSmall(fsys, filepath.Join(dir, configFile), maxConfig)
	if err != nil {
		return nil, nil, nil // no model folder: whoever opens it says so
	}
	var c struct {
		Quantization json.RawMessage `json:"quantization_config"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, nil, nil
	}
	if q, err = ParseQuantization(c.Quantization); q == nil || err != nil {
		return nil, nil, err
	}
	d, err := OpenDir(fsys, dir)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	z, err := OpenQuantized(d, dir, q)
	if err != nil {
		return q, nil, err
	}
	for _, name := range d.Names() {
		if len(z.parts[name]) > 0 {
			h, err = z.Header(name)
			return q, h, err
		}
	}
	return q, nil, nil
}
