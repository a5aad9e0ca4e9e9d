package trainer

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// NoAdapter is the name that stands for the model without an adapter.
const NoAdapter = "none"

// adapterFolder is the folder of a run that holds its adapter.
const adapterFolder = "adapter"

// NamedAdapter is an adapter's directory and what it is called.
type NamedAdapter struct {
	Name string // "" = that of its folder, or of the run that the folder "adapter" lies in
	Dir  string
}

// ParseAdapter reads DIR or NAME=DIR.
func ParseAdapter(s string) NamedAdapter {
	if name, dir, ok := strings.Cut(s, "="); ok && !strings.ContainsAny(name, `/\`) {
		return NamedAdapter{name, dir}
	}
	return NamedAdapter{Dir: s}
}

// AdapterMix is an adapter made of others, each times a weight (lora.Combine with lora.Cat: exactly the weighted sum).
type AdapterMix struct {
	Name    string
	Of      []string
	Weights []float64
}

// ParseMix reads NAME=A*0.7+B*0.3; a weight that is left out is 1.
func ParseMix(s string) (m AdapterMix, err error) {
	name, sum, ok := strings.Cut(s, "=")
	if m.Name = strings.TrimSpace(name); !ok || m.Name == "" {
		return m, badConfig("mix", "is %q, expected NAME=A*0.7+B*0.3", s)
	}
	for _, part := range strings.Split(sum, "+") {
		of, factor, weighted := strings.Cut(strings.TrimSpace(part), "*")
		w := 1.0
		if weighted {
			if n, err := fmt.Sscanf(factor+"\n", "%g\n", &w); n != 1 || err != nil || w-w != 0 {
				return m, badConfig("mix", "%q: the weight %q is no number; expected NAME=A*0.7+B*0.3", s, factor)
			}
		}
		m.Of, m.Weights = append(m.Of, strings.TrimSpace(of)), append(m.Weights, w)
	}
	return m, nil
}

// adapters gives every adapter of the options a name of its own.
func (o GenerateOptions) adapters() ([]NamedAdapter, error) {
	list := o.Adapters
	if o.Adapter != "" {
		list = append([]NamedAdapter{{Dir: o.Adapter}}, list...)
	}
	out := make([]NamedAdapter, len(list))
	taken := map[string]string{"": "the empty name", NoAdapter: "the model without an adapter"}
	for i, a := range list {
		if a.Name == "" {
			abs, err := filepath.Abs(a.Dir)
			if err != nil {
				return nil, badConfig("adapter", "%v", err)
			}
			if a.Name = filepath.Base(abs); a.Name == adapterFolder {
				a.Name = filepath.Base(filepath.Dir(abs))
			}
		}
		if by := taken[a.Name]; by != "" {
			return nil, badConfig("adapter", "%s would be called %q, which means %s; name it, as in NAME=%s", a.Dir, a.Name, by, a.Dir)
		}
		taken[a.Name], out[i] = a.Dir, a
	}
	for _, m := range o.Mixes {
		if by := taken[m.Name]; by != "" {
			return nil, badConfig("mix", "%q means %s already; choose another name", m.Name, by)
		}
		taken[m.Name] = "another combination"
	}
	return out, nil
}

// attach reads the adapters and puts them on the model, whose weights are not there yet.
func (s *textModel) attach(list []NamedAdapter) error {
	for _, a := range list {
		saved, err := lora.Load(vfs.OS{}, a.Dir)
		if err == nil {
			err = s.sameTokens(a.Dir)
		}
		var on *lora.Adapter
		if err == nil {
			on, err = lora.AttachSavedNamed(s.model.Model, a.Name, saved, nil)
		}
		if err != nil {
			return withCode(config.ExitInput, err)
		}
		s.adapters = append(s.adapters, on)
	}
	return nil
}

// mix adds the combinations and leaves one adapter active: the last combination, else the first adapter.
func (s *textModel) mix(mixes []AdapterMix) error {
	for _, m := range mixes {
		c := lora.Combination{Weights: m.Weights}
		for _, name := range m.Of {
			a := s.named(name)
			if a == nil {
				return badConfig("mix", "%s is made of %q, and the adapters are %s", m.Name, name, s.names())
			}
			c.Adapters = append(c.Adapters, a)
		}
		a, err := lora.Combine(s.model.Model, m.Name, c, s.session.Store())
		if err != nil {
			return badConfig("mix", "%s: %v", m.Name, err)
		}
		s.adapters = append(s.adapters, a)
	}
	if n := len(s.adapters); len(mixes) > 0 {
		s.activate(s.adapters[n-1])
	} else if n > 0 {
		s.activate(s.adapters[0])
	}
	return nil
}

// activate makes one adapter the only active one; nil leaves none.
func (s *textModel) activate(a *lora.Adapter) {
	for _, other := range s.adapters {
		if other != a {
			other.SetActive(false)
		}
	}
	if s.active = a; a != nil {
		a.SetActive(true)
	}
}

func (s *textModel) named(name string) *lora.Adapter {
	for _, a := range s.adapters {
		if a.Name == name {
			return a
		}
	}
	return nil
}

func (s *textModel) names() string {
	if len(s.adapters) == 0 {
		return "none; give one with --adapter"
	}
	names := make([]string, len(s.adapters))
	for i, a := range s.adapters {
		names[i] = a.Name
	}
	return strings.Join(names, ", ")
}

// Adapters are the names of the adapters and combinations that Use takes.
func (s *textModel) Adapters() []string {
	out := make([]string, len(s.adapters))
	for i, a := range s.adapters {
		out[i] = a.Name
	}
	return out
}

// Using is the name of the adapter in use; NoAdapter where there is none.
func (s *textModel) Using() string {
	if s.active == nil {
		return NoAdapter
	}
	return s.active.Name
}

// Use switches to another adapter, or with NoAdapter to the model as it is. What was kept of earlier texts is forgotten, and plans are
// compiled anew.
func (w *Writer) Use(name string) error {
	if name == w.Using() {
		return nil
	}
	a := w.named(name)
	if a == nil && name != NoAdapter {
		return badConfig("adapter", "there is none called %q; there are: %s", name, w.names())
	}
	errs := append(w.scores.close(), w.endGenerator())
	w.scores = scorer{}
	w.activate(a)
	return errors.Join(errs...)
}

// sameTokens refuses an adapter that brings another tokenizer than the one that the texts are read with.
func (s *textModel) sameTokens(dir string) error {
	files := map[string][]byte{}
	for _, name := range tokenizerFiles {
		if raw, err := vfs.ReadFile(vfs.OS{}, filepath.Join(dir, name), maxTokenizerFile); err == nil {
			files[name] = raw
		}
	}
	if !tokenizer.HasVocabulary(files) || bytes.Equal(files["tokenizer.json"], s.model.TokFiles["tokenizer.json"]) {
		return nil
	}
	other, err := tokenizer.LoadFiles(files)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	have := s.model.Tokenizer
	for id := range int32(max(have.VocabSize(), other.VocabSize())) {
		a, _ := have.Token(id)
		if b, _ := other.Token(id); a != b {
			return fmt.Errorf("adapter %s was trained with another tokenizer: its token %d is %q, here it is %q; use it alone, as the only --adapter", dir, id, b, a)
		}
	}
	return nil
}
