package lora

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// moduleSuffixes are the names of the tensors of an adapted module, and their number of axes.
var moduleSuffixes = map[string]int{
	"lora_A.weight": 2, "lora_B.weight": 2, "lora_B.bias": 1, "lora_embedding_A": 2, "lora_embedding_B": 2, "lora_magnitude_vector": 1,
}

// baseSuffix ends the name of the weight of an adapted embedding or head, which PEFT saves beside the adapter.
const baseSuffix = ".base_layer.weight"

// readWeights takes the weights file apart.
func (s *Saved) readWeights(path string, f *checkpoint.File) error {
	s.whole, s.tokens, s.bases = map[string]*tensor.Tensor{}, map[string]*tensor.Tensor{}, map[string]*tensor.Tensor{}
	index := map[string]*savedModule{}
	for _, key := range f.Names() {
		bad := func(reason, remedy string) error {
			return &checkpoint.FormatError{File: path, Tensor: key, Reason: reason, Remedy: remedy}
		}
		rest, ok := strings.CutPrefix(key, keyPrefix)
		if !ok {
			return bad(fmt.Sprintf("the name does not begin with %q", keyPrefix), "save the adapter with PEFT")
		}
		if typ, _ := f.Type(key); !typ.DType.IsFloat() {
			return bad(fmt.Sprintf("it is %v; an adapter's weight holds floating-point numbers", typ), "")
		}
		t, err := f.Read(key)
		if err != nil {
			return err
		}
		if reason := s.place(index, rest, t); reason != "" {
			return bad(reason, "merge the adapter into its base model with PEFT, or train one without it")
		}
	}
	s.nameExperts(index)
	for _, m := range index {
		s.modules = append(s.modules, m)
	}
	if len(s.modules) == 0 {
		return &checkpoint.FormatError{File: path, Reason: "it holds no adapter weights", Remedy: "fetch the adapter again"}
	}
	slices.SortFunc(s.modules, func(x, y *savedModule) int { return strings.Compare(x.path, y.path) })
	return s.checkModules(path)
}

// place puts a tensor where it belongs by its name, or says why there is no such place.
func (s *Saved) place(index map[string]*savedModule, rest string, t *tensor.Tensor) string {
	for suffix, rank := range moduleSuffixes {
		module, ok := strings.CutSuffix(rest, "."+suffix)
		if !ok || module == "" {
			continue
		}
		if t.Shape().Rank() != rank {
			return fmt.Sprintf("it is %v, and %s has %d axes", t.Type(), suffix, rank)
		}
		m := index[module]
		if m == nil {
			m = &savedModule{path: module, tensors: map[string]*tensor.Tensor{}}
			index[module] = m
		}
		m.embedding = m.embedding || strings.HasPrefix(suffix, "lora_embedding")
		wide, err := t.Convert(tensor.F32)
		if err != nil {
			return err.Error()
		}
		m.tensors[suffix] = wide
		return ""
	}
	if strings.Contains(lastParts(rest, 2), "lora_") {
		return "it is not a weight of a LoRA adapter"
	}
	if module, ok := strings.CutSuffix(rest, tokensSuffix); ok && t.Shape().Rank() == 2 {
		s.tokens[module] = t
		return ""
	}
	if module, ok := strings.CutSuffix(rest, baseSuffix); ok && t.Shape().Rank() == 2 {
		s.bases[module] = t
		return ""
	}
	isBias := lastPart(rest) == "bias" && s.Config.Bias != BiasNone && s.Config.Bias != ""
	if !isBias && !savedWhole(parent(rest), s.Config.ModulesToSave) {
		return "it is a weight of the base model that neither modules_to_save nor bias of " + configFile + " means"
	}
	s.whole[rest] = t
	return ""
}

// lastParts is the end of a path, of n parts.
func lastParts(path string, n int) string {
	parts := strings.Split(path, ".")
	return strings.Join(parts[max(len(parts)-n, 0):], ".")
}

// checkModules checks that the tensors of each module fit each other and the configuration, and sets ranks and scales.
func (s *Saved) checkModules(path string) error {
	for _, m := range s.modules {
		bad := func(name, reason string) error {
			return &checkpoint.FormatError{File: path, Tensor: keyPrefix + m.path + "." + name, Reason: reason, Remedy: "fetch the adapter again, both of its files"}
		}
		a, b := m.tensors[m.a()], m.tensors[m.b()]
		switch {
		case a == nil:
			return bad(m.b(), "there is no lora_A for it")
		case b == nil:
			return bad(m.a(), "there is no lora_B for it")
		}
		m.rank = a.Shape().Dim(0)
		if got := b.Shape().Dim(1); got != m.rank {
			return bad(m.b(), fmt.Sprintf("its rank is %d, that of lora_A is %d", got, m.rank))
		}
		want, alpha := float64(s.Config.Rank), s.Config.Alpha
		if v, ok := s.ranks.find(s.patternPath(m.path)); ok {
			want = v
		}
		if v, ok := s.alphas.find(s.patternPath(m.path)); ok {
			alpha = v
		}
		if r := int(want); ofExperts(m.path) && m.rank%r == 0 {
			m.experts, m.rank = m.rank/r, r
		}
		if float64(m.rank) != want {
			return bad(m.a(), fmt.Sprintf("its rank is %d, %s says %v", m.rank, configFile, want))
		}
		m.scale = s.Config.scale(m.rank, alpha)
		for name, on := range map[string]bool{"lora_magnitude_vector": s.Config.DoRA, "lora_B.bias": s.Config.BBias} {
			v := m.tensors[name]
			switch {
			case (v != nil) != on:
				return bad(name, fmt.Sprintf("it is there: %v; %s says %v (use_dora, lora_bias)", v != nil, configFile, on))
			case v != nil && v.Shape().Dim(0) != b.Shape().Dim(0):
				return bad(name, fmt.Sprintf("it has %d elements, lora_B has %d rows", v.Shape().Dim(0), b.Shape().Dim(0)))
			}
		}
	}
	return nil
}
