package lora

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// SaveInfo is what the files say beside the adapter itself.
type SaveInfo struct {
	// BaseModel is the path or hub name of the model that the adapter belongs to. Empty: what an adapter that was loaded said
	// before, null for a new one.
	BaseModel string
	// Revision is the branch, tag or commit of a hub name. Empty: what BaseModel is empty for.
	Revision string
}

// Save writes the adapter in PEFT's layout into a folder, which is made if it does not exist: adapter_model.safetensors with the trained
// variables as they are stored, adapter_config.json, and README.md, a model card. Each file is replaced whole or not at all, the configuration
// last, so that a new folder without one is recognised as unfinished. A configuration that was loaded keeps the keys that this
// package does not know. Values come from s.
//
// An adapter that took a part of the base over (PiSSA, OLoRA, LoftQ of several alternations) is saved as a plain adapter of twice the rank
// that fits the base model as it was: B·A less what B·A was at the beginning.
func (a *Adapter) Save(fs vfs.FS, dir string, s layers.Reader, info SaveInfo) error {
	fs = vfs.Or(fs)
	if s == nil {
		return errNoStore
	}
	if a.merged {
		return fmt.Errorf("lora: the adapter is merged into the base weights; unmerge it to save it")
	}
	config, err := a.peftConfig(info)
	if err != nil {
		return err
	}
	weights, err := a.fileTensors(s)
	if err != nil {
		return err
	}
	if err := vfs.MkdirDurable(fs, dir); err != nil {
		return &checkpoint.DiskError{Path: dir, Err: err}
	}
	if err := checkpoint.WriteSafetensors(fs, filepath.Join(dir, weightsFile), weights, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		data []byte
	}{{"README.md", a.card(info)}, {configFile, config}} {
		path := filepath.Join(dir, file.name)
		if err := vfs.WriteAtomic(fs, path, file.data); err != nil {
			return &checkpoint.DiskError{Path: path, Err: err}
		}
	}
	return nil
}

// fileTensors are the tensors of the weights file.
func (a *Adapter) fileTensors(s layers.Reader) ([]checkpoint.Named, error) {
	var out []checkpoint.Named
	add := func(key string, v *graph.Var) error {
		t, err := s.Get(v)
		if err != nil {
			return fmt.Errorf("lora: %s: %w", key, err)
		}
		out = append(out, checkpoint.Named{Name: keyPrefix + key, Tensor: t})
		return nil
	}
	for _, n := range a.trained() {
		if err := add(n.Name, n.Var); err != nil {
			return nil, err
		}
	}
	for _, m := range a.Modules {
		if v := m.plainBase(); v != nil && a.savesBase(m) {
			if err := add(m.Path+baseSuffix, v); err != nil {
				return nil, err
			}
		}
	}
	if a.converts() {
		return out, a.convert(out)
	}
	return out, nil
}

// savesBase reports whether the base weight of a module belongs into the file: that of an embedding or head, but not beside trained tokens, as
// PEFT has it.
func (a *Adapter) savesBase(m *Module) bool {
	if a.saved != nil {
		return a.saved.bases[m.Path] != nil
	}
	return len(a.Config.Tokens) == 0 && slices.Contains([]string{"embed_tokens", "lm_head"}, lastPart(m.Path))
}

// convert appends to each A and B what they were at the beginning, of B with the sign turned: [B, -B0]·[A; A0] = B·A - B0·A0.
func (a *Adapter) convert(list []checkpoint.Named) error {
	at := map[string]*tensor.Tensor{}
	i := 0
	for _, m := range a.Modules {
		if m.Embedding() {
			continue
		}
		if i+1 >= len(a.start) {
			return fmt.Errorf("lora: the beginning of %s is not known: Init has not run", m.Path)
		}
		at[keyPrefix+m.Path+".lora_A.weight"], at[keyPrefix+m.Path+".lora_B.weight"] = a.start[i], a.start[i+1]
		i += 2
	}
	for k := range list {
		t := list[k].Tensor
		start := at[list[k].Name]
		switch {
		case start != nil && lastParts(list[k].Name, 2) == "lora_A.weight":
			list[k].Tensor = joinRows(t, start)
		case start != nil:
			list[k].Tensor = joinColumns(t, start)
		case lastPart(list[k].Name) == "lora_embedding_A":
			list[k].Tensor = joinRows(t, tensor.New(t.Type()))
		case lastPart(list[k].Name) == "lora_embedding_B":
			list[k].Tensor = joinColumns(t, tensor.New(t.Type()))
		}
	}
	return nil
}

// joinRows puts b below a.
func joinRows(a, b *tensor.Tensor) *tensor.Tensor {
	n, cols := a.Type().Size(), a.Shape().Dim(1)
	out := tensor.New(tensor.T(a.DType(), a.Shape().Dim(0)+b.Shape().Dim(0), cols))
	for i := range n {
		out.Set(i, a.At(i))
	}
	for i := range b.Type().Size() {
		out.Set(n+i, b.At(i))
	}
	return out
}

// joinColumns puts -b beside a.
func joinColumns(a, b *tensor.Tensor) *tensor.Tensor {
	rows, n, k := a.Shape().Dim(0), a.Shape().Dim(1), b.Shape().Dim(1)
	out := tensor.New(tensor.T(a.DType(), rows, n+k))
	for r := range rows {
		for c := range n {
			out.Set(r*(n+k)+c, a.At(r*n+c))
		}
		for c := range k {
			out.Set(r*(n+k)+n+c, -b.At(r*k+c))
		}
	}
	return out
}

// card is the model card.
func (a *Adapter) card(info SaveInfo) []byte {
	base := info.BaseModel
	if base == "" && a.saved != nil {
		base = a.saved.BaseModel
	}
	kind, tags := "LoRA", "lora"
	if a.Config.DoRA {
		kind = "DoRA"
	}
	out := "---\n"
	if base != "" {
		out += "base_model: " + string(appendString(nil, base)) + "\n"
	}
	out += "library_name: peft\npipeline_tag: text-generation\ntags:\n- " + tags + "\n---\n\n"
	out += fmt.Sprintf("# %s adapter\n\nRank %d, alpha %s, on %d modules", kind, a.Config.Rank, alphaText(a.Config.Alpha), len(a.Modules))
	if base != "" {
		out += " of `" + base + "`"
	}
	out += ". Written by Bits-and-Byes in the layout of PEFT " + peftVersion + ".\n"
	if a.converts() {
		out += fmt.Sprintf("\nIt was trained from the initialisation `%s` and is stored as a plain adapter of twice the rank for the base model as it is. "+
			"On a quantized base the two differ by the error of quantizing the rest of the weights.\n", a.Config.Init)
	}
	return []byte(out)
}
