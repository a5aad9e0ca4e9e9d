package quantize_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/quantize"
)

// bnbScript loads each folder with transformers and bitsandbytes on the CPU and prints the digest of what every quantized weight stands
// for, from the state that the library holds, and the logits of a row. The library's own CPU code is wrong where a row is no multiple of
// the block size, as in this model's down_proj (0.50.2: it takes scales of other blocks, and in evaluation it fails to repack), so the
// script multiplies codes and scales itself and leaves the model in training mode.
const bnbScript = `
import sys
try:
    import hashlib, json, torch
    import bitsandbytes as bnb, transformers
    from transformers import AutoModelForCausalLM
except Exception as e:
    print(e)
    sys.exit(42)
def digest(t):
    return hashlib.sha256(t.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
def dequantize(packed, s):
    scales = s.absmax
    if s.nested:
        scales = bnb.functional.dequantize_blockwise(s.absmax, s.state2) + s.offset
    b = packed.contiguous().view(torch.uint8).flatten()
    codes = torch.stack([b >> 4, b & 15], 1).flatten()[:s.shape.numel()].long()
    scales = scales.float().repeat_interleave(s.blocksize)[:codes.numel()]
    return (s.code.float()[codes] * scales).to(s.dtype) + 0.0 # files hold FP4's negative zero as +0
folders, ids = json.loads(sys.argv[1]), json.loads(sys.argv[2])
out = []
for folder in folders:
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = {}
    for name, m in model.named_modules():
        if isinstance(m, bnb.nn.Linear4bit):
            weights[name + ".weight"] = digest(dequantize(m.weight.data, m.weight.quant_state))
        elif isinstance(m, bnb.nn.Linear8bitLt):
            weights[name + ".weight"] = digest(m.weight.data) + digest(m.weight.SCB.float())
    model.train()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits.float().flatten().tolist()
    out.append({"weights": weights, "logits": logits})
print(json.dumps({"versions": [transformers.__version__, bnb.__version__, torch.__version__], "folders": out}))
`

type bnbLoaded struct {
	Versions []string
	Folders  []struct {
		Weights map[string]string
		Logits  []float64
	}
}

// TestBitsandbytesLoads lets transformers and bitsandbytes load what this package wrote: every weight is what our own reader makes of it,
// and folders that the library wrote from the same model give the same logits. It needs a python3 with transformers, bitsandbytes and torch.
func TestBitsandbytesLoads(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Python; left out of short runs")
	}
	root := filepath.Join(golden.Dir(t), "bnb", "llama")
	folders := []string{filepath.Join(root, "nf4"), filepath.Join(root, "int8")}
	for _, o := range []quantize.Options{
		{Scheme: "nf4", Double: true}, {Scheme: "int8"}, // as the reference
		{Scheme: "fp4", Blocksize: 32}, {Scheme: "nf4", Storage: tensor.BF16}, {Scheme: "nf4", Double: true, Blocksize: 128, Storage: tensor.F32},
		{Scheme: "fp4", Storage: tensor.F16, Exclude: []string{"down_proj"}}, {Scheme: "int8", Exclude: []string{"layers.0.mlp.up_proj", "v_proj"}},
	} {
		o.In, o.Out = filepath.Join(root, "base"), filepath.Join(t.TempDir(), "out")
		_, err := quantize.Run(context.Background(), o)
		require.NoError(t, err)
		folders = append(folders, o.Out)
	}
	r := runBNB(t, folders, "[1, 17, 200, 31, 5, 99, 64, 2]")
	t.Logf("transformers, bitsandbytes, torch: %v", r.Versions)
	for i, dir := range folders {
		require.Equal(t, digests(t, dir), r.Folders[i].Weights, dir)
	}
	for i := range 2 {
		require.Equal(t, r.Folders[i].Logits, r.Folders[i+2].Logits, "our folder against the library's")
	}
}

// TestBitsandbytesLoadsFamilies is TestBitsandbytesLoads for every dense family: the weights alone, as the library computes rightly with few
// of these sizes.
func TestBitsandbytesLoadsFamilies(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Python; left out of short runs")
	}
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "config.json"))
	require.NoError(t, err)
	var folders []string
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		if c, err := models.ParseConfig(raw); err != nil || c.Mixture.Experts > 0 { // transformers keeps experts in full precision
			continue
		}
		for _, scheme := range []string{"nf4", "int8"} {
			out := filepath.Join(t.TempDir(), "out")
			_, err := quantize.Run(context.Background(), quantize.Options{In: filepath.Dir(path), Out: out, Scheme: scheme, Double: scheme == "nf4"})
			require.NoError(t, err)
			folders = append(folders, out)
		}
	}
	r := runBNB(t, folders, "[1, 17, 31, 5]")
	for i, dir := range folders {
		require.Equal(t, digests(t, dir), r.Folders[i].Weights, dir)
	}
	t.Logf("%d folders", len(folders))
}

// runBNB gives folders to the library; without it the test is skipped.
func runBNB(t *testing.T, folders []string, ids string) (r bnbLoaded) {
	t.Helper()
	list, err := json.Marshal(folders)
	require.NoError(t, err)
	out, err := exec.Command("python3", "-c", bnbScript, string(list), ids).Output()
	var bad *exec.ExitError
	switch {
	case errors.As(err, &bad) && bad.ExitCode() != 42:
		t.Fatalf("python3: %v\n%s", err, bad.Stderr)
	case err != nil:
		t.Skipf("no python3 with transformers, bitsandbytes and torch: %v %s", err, out)
	}
	require.NoError(t, json.Unmarshal(out, &r))
	require.Len(t, r.Folders, len(folders))
	return r
}

// digests are those of the script, by our own reader.
func digests(t *testing.T, dir string) map[string]string {
	t.Helper()
	d, err := checkpoint.OpenDir(nil, dir)
	require.NoError(t, err)
	q, _, err := checkpoint.StoredAs(nil, dir)
	require.NoError(t, err)
	z, err := checkpoint.OpenQuantized(d, dir, q)
	require.NoError(t, err)
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	out := map[string]string{}
	for _, name := range d.Names() {
		if len(z.Parts(name)) == 0 {
			continue
		}
		s, err := z.State(name)
		require.NoError(t, err)
		if q.Scheme == "int8" {
			out[name] = sum(s.Codes) + sum(tensor.AsBytes(s.Absmax))
			continue
		}
		w, err := s.Dequantize(tensor.Invalid)
		require.NoError(t, err)
		for i := range w.Shape().Size() {
			if w.At(i) == 0 {
				w.Set(i, 0) // of either sign
			}
		}
		out[name] = sum(w.Bytes())
	}
	require.NoError(t, d.Close())
	return out
}
