package quantize_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/quantize"
)

// smallModel writes a model of an architecture that this program does not have, in shards of the given sizes.
func smallModel(t *testing.T, fsys vfs.FS, dir string, shards ...[]string) {
	t.Helper()
	require.NoError(t, vfs.MkdirDurable(fsys, dir))
	rng := rand.New(rand.NewPCG(1, 2))
	index := map[string]string{}
	for i, names := range shards {
		file := "model.safetensors"
		if len(shards) > 1 {
			file = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		}
		var out []checkpoint.Named
		for _, name := range names {
			w := tensor.New(tensor.T(tensor.BF16, 24, 40))
			for i := range w.Shape().Size() {
				w.Set(i, rng.NormFloat64()/8)
			}
			out = append(out, checkpoint.Named{Name: name, Tensor: w})
			index[name] = file
		}
		require.NoError(t, checkpoint.WriteSafetensors(fsys, filepath.Join(dir, file), out, map[string]string{"format": "pt"}))
	}
	if len(shards) > 1 {
		raw, err := json.Marshal(map[string]any{"metadata": map[string]any{}, "weight_map": index})
		require.NoError(t, err)
		require.NoError(t, vfs.WriteFile(fsys, filepath.Join(dir, "model.safetensors.index.json"), raw))
	}
	require.NoError(t, vfs.WriteFile(fsys, filepath.Join(dir, "config.json"), []byte(`{"model_type": "oracle", "torch_dtype": "bfloat16", "x": 1e-05, "é": [1, 2]}`)))
	require.NoError(t, vfs.WriteFile(fsys, filepath.Join(dir, "tokenizer.json"), []byte(`{}`)))
	require.NoError(t, vfs.WriteFile(fsys, filepath.Join(dir, "pytorch_model.bin"), []byte(`x`)))
}

var twoShards = [][]string{{"m.embed.weight", "m.0.q.weight", "m.0.k.weight"}, {"m.1.q.weight", "lm_head.weight", "m.norm.weight"}}

// TestShards keeps the files of a model, with an index that fits them.
func TestShards(t *testing.T) {
	m := faultfs.New()
	smallModel(t, m, "/in", twoShards...)
	r, err := quantize.Run(context.Background(), quantize.Options{FS: m, In: "/in", Out: "/out", Scheme: "nf4", Blocksize: 32, Double: true})
	require.NoError(t, err)
	require.Len(t, r.Layers, 3)
	require.Len(t, r.Kept, 3)
	d, err := checkpoint.OpenDir(m, "/out")
	require.NoError(t, err)
	require.Len(t, d.Shards(), 2)
	raw, err := vfs.ReadFile(m, "/out/model.safetensors.index.json", 1<<20)
	require.NoError(t, err)
	var index struct {
		Metadata struct {
			Size   int64 `json:"total_size"`
			Params int64 `json:"total_parameters"`
		}
	}
	require.NoError(t, json.Unmarshal(raw, &index))
	require.Equal(t, r.Total.BytesAfter, index.Metadata.Size)
	require.EqualValues(t, 6*24*40, index.Metadata.Params)
	raw, err = vfs.ReadFile(m, "/out/config.json", 1<<20)
	require.NoError(t, err)
	require.Contains(t, string(raw), `"x": 1e-05`)
	require.Contains(t, string(raw), `"\u00e9"`, "as Python writes it")
	require.Contains(t, string(raw), `"bnb_4bit_compute_dtype": "bfloat16"`)
	names, err := m.ReadDir("/out")
	require.NoError(t, err)
	require.Len(t, names, 5, "two shards, index, configuration and tokenizer, and no pickle")
	require.NoError(t, d.Close())

	full, err := quantize.Dequantize(context.Background(), quantize.DequantizeOptions{FS: m, In: "/out", Out: "/full", DType: tensor.F32})
	require.NoError(t, err)
	require.Equal(t, 3, full.Weights)
	d, err = checkpoint.OpenDir(m, "/full")
	require.NoError(t, err)
	typ, ok := d.Type("m.1.q.weight")
	require.True(t, ok)
	require.Equal(t, tensor.T(tensor.F32, 24, 40), typ)
	require.NoError(t, d.Close())
	raw, err = vfs.ReadFile(m, "/full/config.json", 1<<20)
	require.NoError(t, err)
	require.NotContains(t, string(raw), "quantization_config")
	require.Contains(t, string(raw), `"torch_dtype": "float32"`)
}

// TestKeptIsListed names what stays in full precision in the configuration of a model whose architecture is not known: each matrix is quantized
// or listed, and never both.
func TestKeptIsListed(t *testing.T) {
	m := faultfs.New()
	smallModel(t, m, "/in", []string{"m.embed.weight", "m.0.router.weight", "m.0.time_embedding.weight", "m.0.q.weight", "m.0.k.weight", "lm_head.weight"})
	for i, exclude := range [][]string{nil, {"k"}, {"lm_head"}} {
		out := fmt.Sprintf("/out%d", i)
		r, err := quantize.Run(context.Background(), quantize.Options{FS: m, In: "/in", Out: out, Scheme: "nf4", Exclude: exclude})
		require.NoError(t, err)
		raw, err := vfs.ReadFile(m, out+"/config.json", 1<<20)
		require.NoError(t, err)
		var c struct {
			Q json.RawMessage `json:"quantization_config"`
		}
		require.NoError(t, json.Unmarshal(raw, &c))
		q, err := checkpoint.ParseQuantization(c.Q)
		require.NoError(t, err)
		for _, l := range r.Layers {
			require.False(t, q.Skips(strings.TrimSuffix(l.Name, ".weight")), "%v: %s", q.Skip, l.Name)
		}
		require.NotEmpty(t, r.Kept)
		for _, k := range r.Kept {
			require.True(t, q.Skips(strings.TrimSuffix(k.Name, ".weight")), "%v: %s", q.Skip, k.Name)
		}
	}
}

// TestEveryFault breaks every disk operation: the output is whole or is not there, and what was read is untouched.
func TestEveryFault(t *testing.T) {
	base := faultfs.New()
	smallModel(t, base, "/in", twoShards...)
	require.NoError(t, base.SyncDir("/in"))
	require.NoError(t, base.SyncDir("/"))
	run := func(m *faultfs.FS) error {
		_, err := quantize.Run(context.Background(), quantize.Options{FS: m, In: "/in", Out: "/out", Scheme: "int4:group=8,asym"})
		return err
	}
	count := base.Clone()
	count.Arm(faultfs.Fault{})
	require.NoError(t, run(count))
	want := contents(t, count, "/out")
	ran := 0
	for at := 1; at <= count.Ops(); at++ {
		for kind := faultfs.Crash; kind <= faultfs.ShortWrite; kind++ {
			m := base.Clone()
			m.Arm(faultfs.Fault{At: at, Kind: kind})
			err := run(m)
			m.Restart(faultfs.Torn, uint64(at))
			if _, serr := m.Stat("/out"); serr == nil {
				require.Equal(t, want, contents(t, m, "/out"), "operation %d, %v", at, kind)
			} else {
				require.ErrorIs(t, serr, fs.ErrNotExist)
				require.Error(t, err, "operation %d, %v", at, kind)
				if kind != faultfs.Crash {
					require.Contains(t, []int{config.ExitDisk, config.ExitInput}, config.ExitCode(err), "%v", err)
				}
			}
			if _, serr := m.Stat("/out"); serr != nil && kind == faultfs.Crash {
				require.NoError(t, run(m), "a second try after a crash at operation %d", at)
			}
			ran++
		}
	}
	t.Logf("%d faults over %d operations", ran, count.Ops())
}

// TestDequantizeIncomplete writes nothing for a folder that lacks a part of a quantized weight: its codes would pass for a tensor of bytes.
func TestDequantizeIncomplete(t *testing.T) {
	for scheme, parts := range map[string][]string{
		"nf4": {"m.0.q.weight.quant_state.bitsandbytes__nf4", "m.0.q.weight"}, "int8": {"m.0.q.SCB", "m.0.q.weight"},
		"int4:group=8": {"m.0.q.weight.quant_state.bitsandbyes", "m.0.q.weight"},
	} {
		m := faultfs.New()
		smallModel(t, m, "/in", []string{"m.0.q.weight", "m.0.k.weight"})
		_, err := quantize.Run(context.Background(), quantize.Options{FS: m, In: "/in", Out: "/q/", Scheme: scheme})
		require.NoError(t, err, "a slash at the end changes nothing")
		for _, part := range parts {
			remove(t, m, "/q/model.safetensors", "/broken.safetensors", part)
			_, err = quantize.Dequantize(context.Background(), quantize.DequantizeOptions{FS: m, In: "/broken.safetensors", Out: "/full"})
			require.ErrorContains(t, err, "m.0.q.weight", "%s without %s", scheme, part)
			require.Equal(t, config.ExitInput, config.ExitCode(err))
			_, err = m.Stat("/full")
			require.ErrorIs(t, err, fs.ErrNotExist)
		}
		_, err = quantize.Dequantize(context.Background(), quantize.DequantizeOptions{FS: m, In: "/q", Out: "/full/"})
		require.NoError(t, err)
	}
	m := faultfs.New()
	smallModel(t, m, "/in", []string{"m.0.q.weight"})
	_, err := quantize.Dequantize(context.Background(), quantize.DequantizeOptions{FS: m, In: "/in/model.safetensors", Out: "/full"})
	require.ErrorContains(t, err, "no quantized weight")
	_, err = m.Stat("/full")
	require.ErrorIs(t, err, fs.ErrNotExist, "nothing is written for a file in full precision")
}

// remove copies a safetensors file without one tensor.
func remove(t *testing.T, fsys vfs.FS, from, to, name string) {
	t.Helper()
	f, err := checkpoint.OpenSafetensors(fsys, from)
	require.NoError(t, err)
	var left []checkpoint.Named
	for _, n := range f.Names() {
		if n != name {
			w, err := f.Read(n)
			require.NoError(t, err)
			left = append(left, checkpoint.Named{Name: n, Tensor: w})
		}
	}
	require.Len(t, left, len(f.Names())-1)
	require.NoError(t, f.Close())
	require.NoError(t, checkpoint.WriteSafetensors(fsys, to, left, nil))
}

func contents(t *testing.T, m vfs.FS, dir string) string {
	t.Helper()
	entries, err := m.ReadDir(dir)
	require.NoError(t, err)
	var b bytes.Buffer
	for _, e := range entries {
		raw, err := vfs.ReadFile(m, filepath.Join(dir, e.Name()), 1<<24)
		require.NoError(t, err)
		fmt.Fprintf(&b, "%s %d\n%s\n", e.Name(), len(raw), raw)
	}
	return b.String()
}

// TestRunErrors names the weight that cannot be quantized.
func TestRunErrors(t *testing.T) {
	m := faultfs.New()
	smallModel(t, m, "/in", []string{"m.0.q.weight", "m.0.k.weight"})
	w := tensor.New(tensor.T(tensor.BF16, 24, 40))
	w.Set(7, 1e38)
	require.NoError(t, checkpoint.WriteSafetensors(m, "/big.safetensors", []checkpoint.Named{{Name: "a.weight", Tensor: w}}, nil))
	_, err := quantize.Run(context.Background(), quantize.Options{FS: m, In: "/big.safetensors", Out: "/o", Scheme: "int8"})
	require.ErrorContains(t, err, `"a.weight"`)
	require.ErrorContains(t, err, "float16")
	require.Equal(t, config.ExitInput, config.ExitCode(err))
	nan := w.Clone()
	nan.Set(9, nanValue())
	require.NoError(t, checkpoint.WriteSafetensors(m, "/nan.safetensors", []checkpoint.Named{{Name: "a.weight", Tensor: nan}}, nil))
	for _, scheme := range []string{"nf4", "int4:group=8", "cb3", "fp8_e4m3"} {
		_, err = quantize.Run(context.Background(), quantize.Options{FS: m, In: "/nan.safetensors", Out: "/o", Scheme: scheme})
		require.ErrorContains(t, err, `"a.weight"`, scheme)
		require.ErrorContains(t, err, "NaN", scheme)
	}
	_, err = m.Stat("/o")
	require.ErrorIs(t, err, fs.ErrNotExist)
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("stop")
	_, err = quantize.Run(ctx, quantize.Options{FS: m, In: "/in", Out: "/o", Scheme: "nf4", Progress: func(done, _ int, _ string) {
		if done == 1 {
			cancel(stop)
		}
	}})
	require.NoError(t, err, "the last weight is written whole")
	_, err = quantize.Run(ctx, quantize.Options{FS: m, In: "/in", Out: "/o2", Scheme: "nf4"})
	require.ErrorIs(t, err, context.Canceled)
}

func nanValue() float64 {
	zero := 0.0
	return zero / zero
}
