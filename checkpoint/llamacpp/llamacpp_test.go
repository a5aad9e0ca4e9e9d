package llamacpp

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
)

// TestNames: every row of every architecture is found from both sides, and gives the other.
func TestNames(t *testing.T) {
	for _, a := range archs {
		for _, r := range a.rows {
			fill := strings.NewReplacer("#", "12", "@", "3")
			for _, end := range ends {
				got, hf, ok := a.fromGGUF(fill.Replace(r.gguf) + end)
				require.True(t, ok, r.gguf)
				require.Equal(t, r, got)
				require.Equal(t, fill.Replace(r.hf)+end, strings.Replace(hf, "@", "3", 1))
				got, name, expert, ok := a.fromHF(fill.Replace(r.hf) + end)
				require.True(t, ok, r.hf)
				require.Equal(t, r, got)
				require.Equal(t, fill.Replace(r.gguf)+end, name)
				require.Equal(t, r.change == stacked, expert == 3)
			}
		}
		for _, bad := range []string{"", "x", "token_embd", "blk.01.attn_q.weight", "blk.x.attn_q.weight", "blk.-1.attn_q.weight", "blk.1.attn_q.scale"} {
			_, _, ok := a.fromGGUF(bad)
			require.False(t, ok, bad)
		}
		_, _, _, ok := a.fromHF("model.layers.0.mlp.experts.01.gate_proj.weight")
		require.False(t, ok)
	}
}

// TestRoundTrip: what is written in float32 and read again is the model.
func TestRoundTrip(t *testing.T) {
	want, _ := tinyLlama(t, nil)
	m, _ := exportTiny(t, nil, ExportOptions{Type: ggml.F32, Name: "tiny"})
	names := m.Names()
	slices.Sort(names)
	require.Equal(t, want.Names(), names)
	for _, name := range names {
		got, err := m.Read(name)
		require.NoError(t, err)
		require.Equal(t, want[name].Bytes(), got.Bytes(), name)
		typ, _ := m.Type(name)
		require.Equal(t, got.Type(), typ)
		part := make([]byte, 40)
		require.NoError(t, m.ReadInto(name, 24, part))
		require.Equal(t, got.Bytes()[24:64], part)
		require.Error(t, m.ReadInto(name, typ.Bytes(), part))
	}
	q, err := m.File().Read("blk.0.attn_q.weight") // rows of a head: 0, 8, 1, 9, ...
	require.NoError(t, err)
	require.Equal(t, want["model.layers.0.self_attn.q_proj.weight"].Bytes()[8*hidden*4:9*hidden*4], q.Bytes()[hidden*4:2*hidden*4])
	v, ok := m.File().Value("general.name")
	require.True(t, ok)
	require.Equal(t, "tiny", v)
}

// TestTypes: what each tensor is stored in, by llama.cpp's rules.
func TestTypes(t *testing.T) {
	for typ, want := range map[ggml.Type]string{
		ggml.F32:  "F32 F32 F32 F32",
		ggml.F16:  "F16 F16 F16 F32",
		ggml.BF16: "BF16 BF16 BF16 F32",
		ggml.Q8_0: "Q8_0 Q8_0 Q8_0 F32",
		ggml.Q4_0: "Q4_0 Q8_0 Q4_0 F32",
		ggml.Q4_1: "Q4_1 Q8_0 Q4_1 F32",
	} {
		m, r := exportTiny(t, nil, ExportOptions{Type: typ})
		var got []string
		for _, name := range []string{"token_embd", "output", "blk.1.attn_q", "blk.1.attn_norm"} {
			info, _ := m.File().Tensor(name + ".weight")
			got = append(got, info.Type.String())
		}
		require.Equal(t, want, strings.Join(got, " "))
		require.Empty(t, r.Warnings)
		v, _ := m.File().Value("general.file_type")
		require.Equal(t, fileTypes[typ], v)
	}
	m, config := tinyLlama(t, map[string]any{"intermediate_size": 40})
	m.add("model.layers.1.mlp.down_proj.weight", hidden, 40)
	r, err := Export(faultfs.New(), "/m.gguf", m, config, ExportOptions{Type: ggml.Q4_0})
	require.NoError(t, err)
	require.Equal(t, []string{"blk.1.ffn_down.weight is stored in F16: its rows of 40 elements are no whole number of Q4_0's blocks of 32"}, r.Warnings)
}

// TestRope: scalings survive, and rope_freqs is named llama3 only if it is.
func TestRope(t *testing.T) {
	for _, p := range []map[string]any{
		{"rope_type": "default", "rope_theta": 1e6},
		{"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
		{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192.0},
		{"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.25},
	} {
		m, _ := exportTiny(t, map[string]any{"rope_parameters": p}, ExportOptions{Type: ggml.F16})
		got, _ := keysOf(t, m)["rope_parameters"].(map[string]any)
		if a, ok := got["attention_factor"].(float64); ok {
			require.InEpsilon(t, 1.25, a, 1e-6)
			got["attention_factor"] = 1.25
		}
		require.Equal(t, p, got)
	}
	odd := map[string]any{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0, "original_max_position_embeddings": 8192.0}
	m, _ := exportTiny(t, map[string]any{"rope_parameters": odd}, ExportOptions{Type: ggml.F16})
	got, _ := keysOf(t, m)["rope_parameters"].(map[string]any)
	require.Equal(t, "longrope", got["rope_type"])
	require.Equal(t, got["short_factor"], got["long_factor"])
	again, _ := exportTiny(t, map[string]any{"rope_parameters": got}, ExportOptions{Type: ggml.F16})
	a, err := m.File().Read(ropeFreqs)
	require.NoError(t, err)
	b, err := again.File().Read(ropeFreqs)
	require.NoError(t, err)
	require.Equal(t, a.Bytes(), b.Bytes())
}

func TestExportRefuses(t *testing.T) {
	for want, keys := range map[string]map[string]any{
		`model_type "bert" cannot be written`: {"model_type": "bert"},
		`rope_type "dynamic" cannot be`:       {"rope_parameters": map[string]any{"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
		"longrope scaling can be written for": {"rope_parameters": map[string]any{"rope_type": "longrope", "rope_theta": 1e4, "short_factor": []float64{1}, "long_factor": []float64{2}}},
		"use_sliding_window cannot be":        {"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8},
		"attention_bias cannot be written":    {"model_type": "qwen3", "attention_bias": true},
		"scale_attn_weights false cannot":     {"model_type": "gpt2", "hidden_act": "", "scale_attn_weights": false},
		`hidden_act "relu" cannot be`:         {"hidden_act": "relu"},
		"hidden_size is -1":                   {"hidden_size": -1},
		"truncate false":                      {"rope_parameters": map[string]any{"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "truncate": false}},
		"beta_fast 16 and beta_slow 1 cannot": {"rope_parameters": map[string]any{"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "beta_fast": 16, "beta_slow": 1}},
		`"qwen2" has no tensor for them`:      {"model_type": "qwen2", "rope_parameters": map[string]any{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32.0}},
		"has no place in":                     {"model_type": "phi3"},
	} {
		m, config := tinyLlama(t, keys)
		_, err := Export(faultfs.New(), "/m.gguf", m, config, ExportOptions{Type: ggml.F32})
		require.ErrorContains(t, err, want)
	}
	m, config := tinyLlama(t, nil)
	_, err := Export(faultfs.New(), "/m.gguf", m, config, ExportOptions{Type: ggml.Q6_K})
	require.ErrorContains(t, err, "not in Q6_K")
	_, err = Export(faultfs.New(), "/m.gguf", m, config, ExportOptions{Type: ggml.F32, Tokenizer: &tokenizer.GGUF{Tokens: make([]string, vocab+1)}})
	require.ErrorContains(t, err, "the tokenizer has 41 tokens, the model's vocabulary 40")
	tensor.Data[float32](m["model.norm.weight"])[0] = 1e38
	tensor.Data[float32](m["lm_head.weight"])[0] = 1e38
	fsys := faultfs.New()
	_, err = Export(fsys, "/m.gguf", m, config, ExportOptions{Type: ggml.F16})
	require.ErrorContains(t, err, `tensor "output.weight": ggml: element 0 is 1e+38, which F16 cannot hold`)
	_, err = fsys.Stat("/m.gguf")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestOpenRefuses(t *testing.T) {
	set := func(key string, v any) func([]kv, []gguf.Spec) ([]kv, []gguf.Spec) {
		return func(kvs []kv, specs []gguf.Spec) ([]kv, []gguf.Spec) {
			kvs = slices.DeleteFunc(kvs, func(k kv) bool { return k.Key == key })
			if v != nil {
				kvs = append(kvs, kv{Key: key, Value: v})
			}
			return kvs, specs
		}
	}
	tensors := func(specs ...gguf.Spec) func([]kv, []gguf.Spec) ([]kv, []gguf.Spec) {
		return func(kvs []kv, old []gguf.Spec) ([]kv, []gguf.Spec) { return kvs, append(old, specs...) }
	}
	phi := func(more ...kv) func([]kv, []gguf.Spec) ([]kv, []gguf.Spec) {
		return func(kvs []kv, specs []gguf.Spec) ([]kv, []gguf.Spec) {
			kvs = slices.Clone(kvs)
			for i := range kvs {
				if kvs[i].Key = strings.Replace(kvs[i].Key, "llama.", "phi3.", 1); kvs[i].Key == "general.architecture" {
					kvs[i].Value = "phi3"
				}
			}
			return append(kvs, more...), specs
		}
	}
	for _, c := range []struct {
		want   string
		change func([]kv, []gguf.Spec) ([]kv, []gguf.Spec)
	}{
		{`architecture "rwkv7" is not supported; supported: llama, qwen2`, set("general.architecture", "rwkv7")},
		{"holds an adapter", set("general.type", "adapter")},
		{`it holds a "mmproj"`, set("general.type", "mmproj")},
		{"one of 3 parts, which its name does not say", set("split.count", uint16(3))},
		{"is a bool, a text is needed", set("general.architecture", true)},
		{`"llama.block_count" is missing`, set("llama.block_count", nil)},
		{"is no number", set("llama.block_count", "two")},
		{"which is no count", set("llama.block_count", float32(2.5))},
		{"differs from layer to layer", set("llama.attention.head_count_kv", []uint32{2, 1})},
		{"heads of keys of 16 features and of values of 8", set("llama.attention.value_length", uint32(8))},
		{`"llama.attention.causal" is false, which changes`, set("llama.attention.causal", false)},
		{`"llama.logit_scale" is 8, which changes`, set("llama.logit_scale", float32(8))},
		{`"llama.attention.layer_norm_rms_epsilon" is missing`, set("llama.attention.layer_norm_rms_epsilon", nil)},
		{`"llama.rope.scaling.attn_factor" is 1.5`, set("llama.rope.scaling.attn_factor", float32(1.5))},
		{`rope scaling "yarn" is not supported for phi3`, phi(kv{Key: "phi3.rope.scaling.type", Value: "yarn"})},
		{`"phi3.rope.scaling.attn_factor" is 1.5`, phi(kv{Key: "phi3.rope.scaling.attn_factor", Value: float32(1.5)})},
		{"of longrope one or both are missing", phi(kv{Key: "phi3.rope.scaling.type", Value: "longrope"})},
		{`rope scaling "su"`, set("llama.rope.scaling.type", "su")},
		{"heads of 16 features of which 8 turn", set("llama.rope.dimension_count", uint32(8))},
		{"has no tensor of this name", tensors(gguf.Spec{Name: "blk.0.ssm_in.weight", Type: ggml.F32, Shape: tensor.S(2)})},
		{"stands for model.layers.0.", tensors(gguf.Spec{Name: "blk.0.ffn_gate_exps.weight", Type: ggml.F32, Shape: tensor.S(2, 2, 2)},
			gguf.Spec{Name: "blk.0.ffn_gate.1.weight", Type: ggml.F32, Shape: tensor.S(2, 2)})},
		{"is not that of heads of 16 rows", tensors(gguf.Spec{Name: "blk.2.attn_q.weight", Type: ggml.F32, Shape: tensor.S(15, 2)})},
		{"up to 1024 experts", tensors(gguf.Spec{Name: "blk.0.ffn_up_exps.weight", Type: ggml.F32, Shape: tensor.S(1025, 1, 1)})},
		{"format IQ2_S is not supported", tensors(gguf.Spec{Name: "blk.3.ffn_up.weight", Type: 22, Shape: tensor.S(1, 256)})},
		{"format I32 is not supported", tensors(gguf.Spec{Name: "blk.3.ffn_up.weight", Type: ggml.I32, Shape: tensor.S(1, 256)})},
	} {
		_, err := edited(t, c.change)
		require.ErrorIs(t, err, checkpoint.ErrFormat, c.want)
		require.ErrorContains(t, err, c.want)
	}
	var many []gguf.Spec
	for i := range 300 {
		many = append(many, gguf.Spec{Name: fmt.Sprintf("blk.%d.ffn_up_exps.weight", i), Type: ggml.F32, Shape: tensor.S(1024, 0, 1)})
	}
	_, err := edited(t, tensors(many...))
	require.ErrorContains(t, err, "stand for more than 262144 weights")
	_, err = edited(t, set("llama.attention.head_count_kv", []uint32{2, 2}))
	require.NoError(t, err)
	m, err := edited(t, func(kvs []kv, specs []gguf.Spec) ([]kv, []gguf.Spec) {
		for _, none := range []kv{{Key: "tokenizer.ggml.bos_token_id", Value: uint32(1<<32 - 1)}, {Key: "tokenizer.ggml.eos_token_id", Value: int32(-1)}} {
			kvs, specs = set(none.Key, none.Value)(kvs, specs)
		}
		return kvs, specs
	})
	require.NoError(t, err, "ids that stand for none")
	require.NotContains(t, keysOf(t, m), "bos_token_id")
	require.NotContains(t, keysOf(t, m), "eos_token_id")
}

// TestVocabulary: a tokenizer is written for every row of the embedding, and read again.
func TestVocabulary(t *testing.T) {
	g := tokenizer.GGUF{Model: "gpt2", Pre: "gpt-2", Types: []int32{3}, Tokens: []string{"<s>"}}
	for _, r := range "abcdefgh" {
		g.Tokens, g.Types = append(g.Tokens, string(r)), append(g.Types, 1)
	}
	g.Tokens, g.Types, g.Merges = append(g.Tokens, "ab"), append(g.Types, 1), []string{"a b"}
	id, yes := int32(0), true
	g.BOS, g.AddBOS = &id, &yes
	m, _ := exportTiny(t, nil, ExportOptions{Type: ggml.F32, Tokenizer: &g, Template: "{{ x }}"})
	require.Equal(t, "{{ x }}", m.ChatTemplate())
	tok, err := m.Tokenizer()
	require.NoError(t, err)
	ids, err := tok.Encode("abc")
	require.NoError(t, err)
	require.Equal(t, []int32{0, 9, 3}, ids)
	require.Equal(t, vocab, tok.VocabSize())
	kept := slices.DeleteFunc(m.File().Metadata(), func(k kv) bool { return !strings.HasPrefix(k.Key, "tokenizer.") })
	again, _ := exportTiny(t, nil, ExportOptions{Type: ggml.F32, Keep: kept})
	require.Subset(t, again.File().Metadata(), kept)
	none, _ := exportTiny(t, nil, ExportOptions{Type: ggml.F32})
	tok, err = none.Tokenizer()
	require.NoError(t, err)
	require.Nil(t, tok)
}

// TestLoRA: the factors in the file add up to what the adapter is, for every module's own scale.
func TestLoRA(t *testing.T) {
	m, config := tinyLlama(t, nil)
	pair := func(path string, out, in, r int, scale float64) LowRank {
		n := memory{}
		n.add("A", r, in)
		n.add("B", out, r)
		return LowRank{Path: path, A: n["A"], B: n["B"], Scale: scale}
	}
	adapter := []LowRank{pair("model.layers.0.self_attn.q_proj", hidden, hidden, 4, 2), pair("model.layers.1.mlp.up_proj", inner, hidden, 4, 2),
		pair("model.layers.0.self_attn.v_proj", kvHeads*headDim, hidden, 2, 3)}
	fsys := faultfs.New()
	_, err := ExportLoRA(fsys, "/a.gguf", adapter, m, config, ExportOptions{Type: ggml.F32, Name: "a"})
	require.NoError(t, err)
	f, err := gguf.Open(fsys, "/a.gguf")
	require.NoError(t, err)
	alpha, _ := f.Value("adapter.lora.alpha")
	require.Equal(t, float32(8), alpha)
	for key, want := range map[string]string{"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama"} {
		v, _ := f.Value(key)
		require.Equal(t, want, v)
	}
	for i, name := range []string{"blk.0.attn_q", "blk.1.ffn_up", "blk.0.attn_v"} {
		a, err := f.Read(name + ".weight.lora_a")
		require.NoError(t, err)
		b, err := f.Read(name + ".weight.lora_b")
		require.NoError(t, err)
		if i == 0 {
			b = rows(b, func(r int) int { return inHalves(r, headDim) })
		}
		r := a.Shape().Dim(0)
		x, y := adapter[i], tensor.Data[float32](b)
		require.Equal(t, x.A.Bytes(), a.Bytes())
		for k, v := range tensor.Data[float32](x.B) {
			require.InDelta(t, x.Scale*float64(v), 8/float64(r)*float64(y[k]), 1e-5)
		}
	}
	for want, p := range map[string]LowRank{
		"belongs to another model": pair("model.layers.0.self_attn.q_proj", hidden, hidden+1, 4, 2),
		"has no weight of its own": pair("model.layers.7.self_attn.q_proj", hidden, hidden, 4, 2),
		"do not belong together":   {Path: "model.layers.0.self_attn.q_proj", A: adapter[0].A, B: adapter[2].B, Scale: 1},
		"have the scale 0":         pair("model.layers.0.self_attn.q_proj", hidden, hidden, 4, 0),
		"must be two matrices":     {Path: "model.layers.0.self_attn.q_proj", A: adapter[0].A, B: tensor.New(tensor.T(tensor.F32)), Scale: 1},
	} {
		_, err := ExportLoRA(fsys, "/b.gguf", []LowRank{p}, m, config, ExportOptions{Type: ggml.F32})
		require.ErrorContains(t, err, want)
	}
	_, err = Open(fsys, "/a.gguf")
	require.ErrorContains(t, err, "holds an adapter")
}

// Files of strangers end in an error or a model whose tensors can be read.
func FuzzModel(f *testing.F) {
	fsys := faultfs.New()
	kvs := []kv{{Key: "general.architecture", Value: "llama"}, {Key: "tokenizer.ggml.model", Value: "gpt2"}, {Key: "tokenizer.ggml.pre", Value: "gpt-2"},
		{Key: "tokenizer.ggml.tokens", Value: []string{"a", "b", "ab"}}, {Key: "tokenizer.ggml.merges", Value: []string{"a b"}}}
	for _, key := range []string{"embedding_length", "attention.head_count", "block_count", "context_length"} {
		kvs = append(kvs, kv{Key: "llama." + key, Value: uint32(2)})
	}
	kvs = append(kvs, kv{Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)})
	specs := []gguf.Spec{{Name: "token_embd.weight", Type: ggml.F16, Shape: tensor.S(3, 4)}, {Name: "blk.0.attn_q.weight", Type: ggml.F32, Shape: tensor.S(2, 1)},
		{Name: "blk.0.ffn_up_exps.weight", Type: ggml.Q8_0, Shape: tensor.S(2, 1, 32)}, {Name: ropeFreqs, Type: ggml.F32, Shape: tensor.S(1)}}
	w, err := gguf.NewWriter(fsys, "/m.gguf", kvs, specs)
	require.NoError(f, err)
	_, err = w.Write(make([]byte, 24+8+68+4))
	require.NoError(f, err)
	require.NoError(f, w.Commit())
	raw, err := vfs.ReadFile(fsys, "/m.gguf", 1<<20)
	require.NoError(f, err)
	f.Add(raw)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := faultfs.New()
		require.NoError(t, vfs.WriteFile(m, "/f", data))
		model, err := Open(m, "/f")
		if err != nil {
			return
		}
		for _, name := range model.Names() {
			typ, ok := model.Type(name)
			require.True(t, ok)
			x, err := model.Read(name)
			if err == nil {
				require.Equal(t, typ, x.Type())
			}
		}
		_, _ = model.Tokenizer()
	})
}

// TestGoldenGGUFModels opens every model that lies in the reference data and tokenizes with it.
func TestGoldenGGUFModels(t *testing.T) {
	n := 0
	require.NoError(t, filepath.WalkDir(golden.Dir(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".gguf" {
			return err
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			m, err := Open(vfs.OS{}, path)
			require.NoError(t, err)
			for _, name := range m.Names() {
				_, err := m.Read(name)
				require.NoError(t, err)
			}
			tok, err := m.Tokenizer()
			require.NoError(t, err)
			if tok != nil {
				text := "The capital of France is Paris.\n"
				ids, err := tok.Encode(text)
				require.NoError(t, err)
				require.Equal(t, text, tok.DecodeWith(ids, tokenizer.DecodeOptions{SkipSpecial: true}))
			}
			t.Logf("%s", m.Config())
			require.NoError(t, m.Close())
		})
		n++
		return nil
	}))
	t.Logf("%d files", n)
}
