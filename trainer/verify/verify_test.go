package verify

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/testdevice"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func verify(t *testing.T, o Options) (*Result, error) {
	t.Helper()
	o.Device = testdevice.Open(t)
	return Run(t.Context(), o)
}

// TestGoldenHFVerify runs every family of the reference data that a model exists for.
func TestGoldenHFVerify(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "golden.safetensors"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	ran := 0
	for _, path := range paths {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			skipUnsupported(t, dir)
			r, err := verify(t, Options{Model: dir, Against: path})
			require.NoError(t, err)
			var table bytes.Buffer
			require.NoError(t, r.WriteTable(&table))
			require.True(t, r.OK(), "%s", &table)
			require.Empty(t, r.ParamsWithoutGrad)
			f, err := checkpoint.OpenSafetensors(vfs.OS{}, path)
			require.NoError(t, err)
			require.Equal(t, len(f.Names())-6, len(r.Tensors), "all but the six inputs")
			require.NoError(t, f.Close())
			worst := 0.0
			for _, x := range r.Tensors {
				require.Equal(t, Checked, x.Status, "%+v", x)
				worst = max(worst, float64(x.MaxAbs/x.Limit))
			}
			t.Logf("%d keys, the farthest at %.2f of its limit", len(r.Tensors), worst)
			r, err = verify(t, Options{Model: dir, Against: path, Tol: 1e-6})
			require.NoError(t, err)
			require.False(t, r.OK(), "no float32 arithmetic is that exact")
			ran++
		})
	}
	t.Logf("%d of %d families ran", ran, len(paths))
}

func skipUnsupported(t *testing.T, dir string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	if _, err := models.ParseConfig(raw); err != nil {
		t.Skipf("refused: %v", err)
	}
}

// llama returns a model's folder and what its reference file holds.
func llama(t *testing.T) (dir string, ref map[string]*tensor.Tensor) {
	t.Helper()
	dir = filepath.Join(golden.Dir(t), "hf", "llama")
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, filepath.Join(dir, "golden.safetensors"))
	require.NoError(t, err)
	ref = map[string]*tensor.Tensor{}
	for _, name := range f.Names() {
		ref[name], err = f.Read(name)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	return dir, ref
}

func write(t *testing.T, ref map[string]*tensor.Tensor) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ref.safetensors")
	var all []checkpoint.Named
	for _, k := range slices.Sorted(maps.Keys(ref)) {
		all = append(all, checkpoint.Named{Name: k, Tensor: ref[k]})
	}
	require.NoError(t, checkpoint.WriteSafetensors(vfs.OS{}, path, all, nil))
	return path
}

func (r *Result) named(name string) Tensor {
	for _, t := range r.Tensors {
		if t.Name == name {
			return t
		}
	}
	return Tensor{}
}

// only keeps some keys of a reference.
func only(ref map[string]*tensor.Tensor, names ...string) map[string]*tensor.Tensor {
	out := map[string]*tensor.Tensor{}
	for _, n := range names {
		out[n] = ref[n]
	}
	return out
}

func TestStatuses(t *testing.T) {
	dir, ref := llama(t)
	add := func(name string, by float64) func(map[string]*tensor.Tensor) {
		return func(m map[string]*tensor.Tensor) {
			x := m[name].Clone()
			x.Set(3%x.Type().Size(), x.At(3%x.Type().Size())+by)
			m[name] = x
		}
	}
	for _, c := range []struct {
		name, key string
		change    func(m map[string]*tensor.Tensor)
		status    Status
		reason    string
	}{
		{"logit beyond", "logits", add("logits", 2e-4), Failed, "times the limit"},
		{"logit within", "logits", add("logits", 5e-5), Checked, ""},
		{"loss beyond", "loss", add("loss", 2e-5), Failed, "times the limit"},
		{"token loss beyond", "per_token_loss", add("per_token_loss", 3e-4), Failed, ""},
		{"gradient beyond", "grad.model.norm.weight", add("grad.model.norm.weight", 3e-5), Failed, ""},
		{"packed gradient beyond", "packed_grad.model.layers.0.input_layernorm.weight", add("packed_grad.model.layers.0.input_layernorm.weight", 3e-5), Failed, ""},
		{"packed logits beyond", "packed_logits", add("packed_logits", 3e-4), Failed, ""},
		{"merged beyond", "merged_lora_logits", add("merged_lora_logits", 3e-4), Failed, ""},
		{"not a number", "logits", add("logits", math.NaN()), Failed, "the file has NaN"},
		{"padding does not count", "logits", func(m map[string]*tensor.Tensor) {
			x := m["logits"].Clone()
			x.Set(x.Type().Size()-1, 1e9)
			m["logits"] = x
		}, Checked, ""},
		{"unknown", "zebra", func(m map[string]*tensor.Tensor) { m["zebra"] = tensor.Scalar(float32(1)) }, Unknown, ""},
		{"unknown parameter", "grad.model.nope", func(m map[string]*tensor.Tensor) { m["grad.model.nope"] = tensor.Scalar(float32(1)) }, Failed, "no parameter of this name"},
		{"router", "router_logits", func(m map[string]*tensor.Tensor) { m["router_logits"] = tensor.Scalar(float32(1)) }, Failed, "no router"},
		{"shape", "logits", func(m map[string]*tensor.Tensor) { m["logits"] = tensor.New(tensor.T(tensor.F32, 2, 24, 7)) }, Failed, "the model gives"},
		{"ints", "loss", func(m map[string]*tensor.Tensor) { m["loss"] = tensor.New(tensor.T(tensor.I32, 1)) }, Failed, "the model gives"},
		{"short", "short_logits", func(m map[string]*tensor.Tensor) { m["short_logits"] = head(t, m["logits"], 4) }, Checked, ""},
		{"short shape", "short_logits", func(m map[string]*tensor.Tensor) { m["short_logits"] = tensor.New(tensor.T(tensor.F32, 1, 99, 113)) }, Failed, "at most 24 tokens"},
		{"short beyond", "short_logits", func(m map[string]*tensor.Tensor) { m["short_logits"] = tensor.New(tensor.T(tensor.F32, 1, 4, 113)) }, Failed, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := maps.Clone(ref)
			c.change(m)
			r, err := verify(t, Options{Model: dir, Against: write(t, m)})
			require.NoError(t, err)
			x := r.named(c.key)
			require.Equal(t, c.status, x.Status, "%+v", x)
			require.Contains(t, x.Reason, c.reason)
			require.Equal(t, c.status == Checked, r.OK())
			for _, other := range r.Tensors {
				require.True(t, other.Name == c.key || other.Status == Checked, "%+v", other)
			}
		})
	}
}

// head is row 0 of logits (B, T, V), cut to n tokens.
func head(t *testing.T, logits *tensor.Tensor, n int) *tensor.Tensor {
	t.Helper()
	v := logits.Shape().Dim(2)
	out, err := tensor.Of(tensor.Data[float32](logits)[:n*v], 1, n, v)
	require.NoError(t, err)
	return out
}

func TestBadFiles(t *testing.T) {
	dir, ref := llama(t)
	ids := func(dims ...int) *tensor.Tensor { return tensor.New(tensor.T(tensor.I64, dims...)) }
	set := func(name string, i int, v float64) func(m map[string]*tensor.Tensor) {
		return func(m map[string]*tensor.Tensor) {
			x := m[name].Clone()
			x.Set(i, v)
			m[name] = x
		}
	}
	remove := func(name string) func(m map[string]*tensor.Tensor) {
		return func(m map[string]*tensor.Tensor) { delete(m, name) }
	}
	for _, c := range []struct {
		name   string
		change func(m map[string]*tensor.Tensor)
		err    string
	}{
		{"no ids", remove("input_ids"), `"input_ids": it is missing`},
		{"no labels", remove("labels"), `"labels": it is missing`},
		{"no positions", remove("packed_position_ids"), `"packed_position_ids": it is missing`},
		{"id", set("input_ids", 2, 113), "element 2 is 113; the model's tokens are 0 to 112"},
		{"label", set("labels", 2, -7), "element 2 is -7"},
		{"mask", set("attention_mask", 1, 2), "must be 0 or 1"},
		{"left padding", set("attention_mask", 0, 0), "padded on the right"},
		{"positions", set("packed_position_ids", 3, 9), "positions count up"},
		{"positions begin", set("packed_position_ids", 0, 1), "positions count up"},
		{"shape", func(m map[string]*tensor.Tensor) { m["labels"] = ids(2, 23) }, "2 rows of 24 tokens"},
		{"rank", func(m map[string]*tensor.Tensor) { m["input_ids"] = ids(48) }, "matrix (rows, tokens)"},
		{"empty", func(m map[string]*tensor.Tensor) { m["input_ids"] = ids(0, 24) }, "matrix (rows, tokens)"},
		{"no label counts", func(m map[string]*tensor.Tensor) {
			x := ids(2, 24)
			for i := range x.Type().Size() {
				x.Set(i, ignored)
			}
			m["labels"] = x
		}, "no label counts"},
		{"inputs alone", func(m map[string]*tensor.Tensor) {
			maps.DeleteFunc(m, func(k string, _ *tensor.Tensor) bool { return !inputs[k] })
		}, "holds no numbers to compare"},
		{"foreign alone", func(m map[string]*tensor.Tensor) { clear(m); m["x"] = ids(1) }, "holds no numbers to compare"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := maps.Clone(ref)
			c.change(m)
			_, err := verify(t, Options{Model: dir, Against: write(t, m)})
			var input *InputError
			require.ErrorAs(t, err, &input)
			require.Equal(t, 3, input.ExitCode())
			require.ErrorContains(t, err, c.err)
		})
	}
}

func TestMergedAdapter(t *testing.T) {
	dir, ref := llama(t)
	bare := t.TempDir()
	for _, name := range []string{"config.json", "model.safetensors"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(bare, name), raw, 0o600))
	}
	path := write(t, only(ref, "input_ids", "attention_mask", "logits", "merged_lora_logits"))
	r, err := verify(t, Options{Model: bare, Against: path})
	require.NoError(t, err)
	require.True(t, r.OK())
	require.Equal(t, Skipped, r.named("merged_lora_logits").Status)
	require.Len(t, r.ParamsWithoutGrad, 21, "the file has no gradients")

	r, err = verify(t, Options{Model: bare, Against: path, Adapter: filepath.Join(dir, "adapter_lora_final")})
	require.NoError(t, err)
	require.Equal(t, Checked, r.named("merged_lora_logits").Status)
	r, err = verify(t, Options{Model: bare, Against: path, Adapter: filepath.Join(dir, "adapter_rslora_final")})
	require.NoError(t, err)
	require.Equal(t, Failed, r.named("merged_lora_logits").Status)

	r, err = verify(t, Options{Model: bare, Against: path, Adapter: filepath.Join(dir, "adapter_dora_final")})
	require.NoError(t, err)
	require.Equal(t, Failed, r.named("merged_lora_logits").Status)

	_, err = verify(t, Options{Model: bare, Against: path, Adapter: filepath.Join(dir, "nowhere")})
	var input *InputError
	require.ErrorAs(t, err, &input)
	_, err = verify(t, Options{Model: bare, Against: write(t, only(ref, "input_ids", "merged_lora_logits"))})
	require.ErrorContains(t, err, "nothing of it could be compared")
}

func TestBadOptions(t *testing.T) {
	dir, _ := llama(t)
	path := filepath.Join(dir, "golden.safetensors")
	var option *OptionError
	for _, o := range []Options{{}, {Model: dir}, {Model: dir, Against: path, Tol: -1}, {Model: dir, Against: path, Tol: math.NaN()}} {
		_, err := verify(t, o)
		require.ErrorAs(t, err, &option)
		require.Equal(t, 2, option.ExitCode())
	}
	_, err := Run(t.Context(), Options{Model: dir, Against: path})
	require.ErrorAs(t, err, &option)
	var input *InputError
	for _, o := range []Options{{Model: dir, Against: filepath.Join(dir, "config.json")}, {Model: dir, Against: "nowhere"}, {Model: "nowhere", Against: path}} {
		_, err := verify(t, o)
		require.ErrorAs(t, err, &input)
	}
}

func TestOutput(t *testing.T) {
	r := &Result{ParamsWithoutGrad: []string{}, Tensors: []Tensor{
		{Name: "loss", Status: Checked, MaxAbs: 1e-7, MaxRel: 2e-8, Limit: 1e-5},
		outcome{status: Failed, abs: math.Inf(1), rel: math.Inf(1), limit: 1e-4, reason: "element 0 is NaN"}.tensor("logits"),
		outcome{status: Unknown, reason: "what"}.tensor("x\x1b[2J\ny"),
	}}
	var b bytes.Buffer
	require.NoError(t, r.WriteJSON(&b))
	require.JSONEq(t, `{"tensors": [
		{"name": "loss", "status": "checked", "max_abs": 1e-7, "max_rel": 2e-8, "limit": 1e-5, "reason": ""},
		{"name": "logits", "status": "failed", "max_abs": null, "max_rel": null, "limit": 1e-4, "reason": "element 0 is NaN"},
		{"name": "x\u001b[2J\ny", "status": "unknown", "max_abs": null, "max_rel": null, "limit": null, "reason": "what"}],
		"params_without_grad": []}`, b.String())
	var again Result
	require.NoError(t, json.Unmarshal(b.Bytes(), &again))
	require.True(t, math.IsNaN(float64(again.Tensors[1].MaxAbs)))
	b.Reset()
	r.ParamsWithoutGrad = []string{"a", "b"}
	require.NoError(t, r.WriteTable(&b))
	require.Equal(t, strings.Join([]string{
		"TENSOR   STATUS   MAX ABS   MAX REL   LIMIT     REASON",
		"loss     checked  1.00e-07  2.00e-08  1.00e-05  ",
		"logits   failed   +Inf      +Inf      1.00e-04  element 0 is NaN",
		"x?[2J?y  unknown  -         -         -         what",
		"parameters without a gradient in the file: a, b",
		"1 checked, 1 failed, 1 unknown, 0 skipped", ""}, "\n"), b.String())
	require.False(t, r.OK())
	require.False(t, (&Result{}).OK())
}
