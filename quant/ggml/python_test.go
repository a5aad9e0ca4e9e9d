package ggml

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

// pythonScript decodes raw blocks of each type, and encodes elements where the package can.
const pythonScript = `
import json, sys
try:
    import numpy as np
    from gguf import GGMLQuantizationType as T, quants
except Exception as e:
    print(e)
    sys.exit(42)
np.seterr(all="ignore")
folder, types = sys.argv[1], json.loads(sys.argv[2])
x = np.fromfile(folder + "/x", dtype=np.float32).reshape(-1, 256)
for t in types:
    raw = np.fromfile(folder + "/" + t + ".raw", dtype=np.uint8).reshape(8, -1)
    quants.dequantize(raw, T[t]).astype(np.float32).tofile(folder + "/" + t + ".f32")
    try:
        quants.quantize(x, T[t]).tofile(folder + "/" + t + ".q")
    except NotImplementedError:
        pass
`

// TestPython compares every type with the Python package gguf on random blocks (any bytes are blocks) and on elements with ties.
func TestPython(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	x := make([]float32, 64*256)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * math.Exp(float64(i/256-40)/3)) // rows from 2e-6 to 2e3
		if i/256%5 == 0 {
			x[i] = float32(rng.IntN(9)-4) / 4 // equal magnitudes and halves
		}
	}
	clear(x[:40])
	buf := make([]byte, 4*len(x))
	encodeF32(buf, x)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x"), buf, 0o600))
	raws := map[Type][]byte{}
	var names []string
	for _, typ := range Decoded() {
		n, ok := typ.Size(8 * 1024)
		require.True(t, ok)
		raw := make([]byte, n)
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		raws[typ] = raw
		names = append(names, typ.String())
		require.NoError(t, os.WriteFile(filepath.Join(dir, typ.String()+".raw"), raw, 0o600))
	}
	list, err := json.Marshal(names)
	require.NoError(t, err)
	golden.Python(t, pythonScript, dir, string(list))
	for typ, raw := range raws {
		want, err := os.ReadFile(filepath.Join(dir, typ.String()+".f32"))
		require.NoError(t, err)
		got := make([]float32, len(want)/4)
		require.NoError(t, Decode(got, raw, typ))
		for i, v := range got {
			w := math.Float32frombits(binary.LittleEndian.Uint32(want[4*i:]))
			if v != v && w != w {
				continue // a scale of random bits is NaN or infinite: which NaN comes out is the processor's
			}
			require.Equal(t, math.Float32bits(w), math.Float32bits(v), "%v: element %d: %v, not %v", typ, i, v, w)
		}
		if !typ.CanEncode() {
			continue
		}
		codes, err := os.ReadFile(filepath.Join(dir, typ.String()+".q"))
		require.NoError(t, err)
		out := make([]byte, len(codes))
		require.NoError(t, Encode(out, x, typ))
		require.Equal(t, codes, out, typ)
	}
}
