package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestRowsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rows {
		require.NotEmpty(t, r.Work)
		require.False(t, seen[r.Work+r.Detail], "%s %s is there twice", r.Work, r.Detail)
		require.True(t, (r.Bytes > 0) != (r.Flops > 0), "%s %s must be bounded by one of memory and arithmetic", r.Work, r.Detail)
		seen[r.Work+r.Detail] = true
	}
}

// TestTable measures small rows on the processor: what is measured there says nothing, but the way there is the same.
func TestTable(t *testing.T) {
	dev, err := device.Open("cpu")
	require.NoError(t, err)
	defer dev.Close()
	small := []Row{dequantizeRow(64, 128, false), dequantizeRow(64, 128, true), quantize4Row(64, 128), quantize8Row(4096), dequantize8Row(4096),
		quantLinearRow("NF4 GEMV", 2, 64, 128, false), quantLinearRow("NF4 linear", 64, 64, 128, true), linear8Row(8, 64, 32, 6), linear8GradRow(64, 64, 32),
		groupedRow(64, 32, 16, 4), memoryRow("norm", ops.RMSNormOp{}, floats(tensor.BF16, 4, 64), floats(tensor.BF16, 64)), gemmShapeRow("x·W", ops.MatMul{}, 64, 16, 32), {Work: "none", Make: func(*rig) (*work, error) {
			return nil, os.ErrNotExist
		}}}
	small = append(loraRows(64, 16, 24, 4), small...)
	tiny := attention{detail: "tiny", dtype: tensor.BF16, b: 2, t: 40, hq: 4, hkv: 2, d: 16, docs: []int{13, 1}}
	small = append(small[:len(small)-1:len(small)-1], tiny.forward(), tiny.backward(), tiny.listing(), generateRow(tiny, 50, 30), small[len(small)-1])
	r, err := measure(dev, small, options{batches: 3})
	require.NoError(t, err)
	require.Len(t, r.Rows, 3+len(small))
	for _, f := range r.Rows[:len(r.Rows)-1] {
		require.Empty(t, f.Error, f.Work)
		require.Positive(t, f.Micros, f.Work)
		require.Positive(t, f.Share, f.Work)
	}
	require.NotEmpty(t, r.Rows[len(r.Rows)-1].Error, "a row that fails says why, the others are measured")

	dir := t.TempDir()
	require.NoError(t, r.write(filepath.Join(dir, "ours.json")))
	peers := filepath.Join(dir, "peers.json")
	require.NoError(t, os.WriteFile(peers, []byte("noise\n"+`{"work": "quantize NF4", "detail": "64×128 of bf16", "peer": "bitsandbytes", "us": 1e6}`+"\n"), 0o644))
	theirs, err := readPeers(peers)
	require.NoError(t, err)
	var out, again bytes.Buffer
	r.print(&out, theirs)
	require.Contains(t, out.String(), "1000000.00 µs bitsandbytes")
	require.NoError(t, command([]string{"-read", filepath.Join(dir, "ours.json"), "-peers", peers}, &again))
	require.Equal(t, out.String(), again.String())
	_, err = readPeers(filepath.Join(dir, "ours.json"))
	require.Error(t, err)
}
