package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/internal/probe"
)

func TestFlags(t *testing.T) {
	o, err := parse([]string{"-threads", "1,3", "-only", "gemm_f32,mlp"})
	require.NoError(t, err)
	require.Equal(t, []int{1, 3}, o.threads)
	require.True(t, o.wanted("gemm_f32_512") && o.wanted("mlp"))
	require.False(t, o.wanted("gemm_int8_512"))
	for bad, says := range map[string]string{"-threads=x": "want numbers from 1", "-threads=0": "want numbers from 1", "-seconds=0": "more than 0", "left": `unexpected argument "left"`} {
		_, err := parse([]string{bad})
		require.ErrorContains(t, err, says)
	}
}

// TestRowsRun measures a product, two kernels in one call and a whole step; rows have names of their own.
func TestRowsRun(t *testing.T) {
	names := map[string]bool{}
	for _, r := range rows() {
		require.False(t, names[r.name], "two rows are named %s", r.name)
		names[r.name] = true
	}
	var out, log bytes.Buffer
	file := filepath.Join(t.TempDir(), "table.md")
	args := []string{"-only", "gemm_f32_512,attention_both,mlp", "-threads", "1", "-seconds", "0.01", "-markdown", file}
	require.NoError(t, command(t.Context(), args, &out, &log))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, want := range []string{"GEMM f32 512³", "MLP 784-512-10", "attention forward and backward"} {
		require.Contains(t, out.String(), want)
		require.Contains(t, string(text), "| "+want)
	}
	require.NotContains(t, out.String(), "not measured", log.String())
}

// TestLimits: products of bfloat16 are held against the instructions that they use.
func TestLimits(t *testing.T) {
	one := probe.Result{Threads: 1, FMA: 3e9, Dot8: 9e9, Memory: []probe.Set{{Bytes: 8, Read: 2e9, Copy: 5e9}}}
	two := probe.Result{Threads: 1, FMA: 2e9, Dot8: 8e9, DotBF16: 4e9, Memory: []probe.Set{{Bytes: 8, Read: 4e9, Copy: 3e9}}}
	require.Equal(t, 3., limitOf(peakBF16, one))
	both := larger(one, two)
	for b, want := range map[bound]float64{none: 0, peakF32: 3, peakBF16: 4, peakInt8: 9, readBandwidth: 4, copyBandwidth: 5} {
		require.Equal(t, want, limitOf(b, both), b)
	}
}

func TestPeerLines(t *testing.T) {
	full, lora := &figure{row: row{name: "llama_full_f32", alike: []string{"llama_full_f32_compiled"}}}, &figure{row: row{name: "llama_lora_f32"}}
	all := []*figure{full, lora}
	for _, l := range []string{
		`{"row": "llama_full_f32", "peer": "PyTorch", "seconds": 2.0}`, `{"row": "llama_full_f32_compiled", "peer": "compiled", "seconds": 1.0}`,
		`{"row": "llama_full_f32", "peer": "PyTorch", "seconds": 1.5}`,
	} {
		var p peerLine
		require.NoError(t, json.Unmarshal([]byte(l), &p))
		require.Empty(t, p.store(all))
	}
	require.Equal(t, []peerTime{{"PyTorch", 1.5}, {"compiled", 1}}, full.peers)
	require.Empty(t, lora.peers)
	bad := peerLine{Row: "mlp", Error: "ImportError: no torch"}
	require.Equal(t, []string{"Peer of mlp: ImportError: no torch"}, bad.store(all))
	versions := peerLine{Versions: map[string]string{"torch": "2.1", "peft": "0.2"}}
	require.Equal(t, []string{"Peers: torch 2.1, peft 0.2."}, versions.store(all))
}

// TestGuardsHaveFloors: a guard without a floor for the level in use would hold nothing.
func TestGuardsHaveFloors(t *testing.T) {
	for _, g := range guards() {
		for _, l := range isa.Levels[1:] {
			require.Positive(t, g.times[l], "%s at level %v", g.name, l)
		}
		dev := cpu.New(cpu.Options{Threads: 1})
		b, err := g.open(dev)
		require.NoError(t, err, g.name)
		require.NoError(t, b.call(t.Context()), g.name)
		require.NoError(t, b.close())
		require.Zero(t, dev.Allocated(), g.name)
		require.NoError(t, dev.Close())
	}
}

func TestTwinsArePrintedAsJSON(t *testing.T) {
	var out strings.Builder
	require.NoError(t, command(t.Context(), []string{"-twin", "-only", "nf4_quantize", "-seconds", "0.01"}, &out, io.Discard))
	found := map[string]float64{}
	require.NoError(t, json.Unmarshal([]byte(out.String()), &found))
	require.Positive(t, found["nf4_quantize"])
}

// TestLlamaBench: the best sample of each test becomes the peer's time, and what is no result is refused.
func TestLlamaBench(t *testing.T) {
	prompt, text := &figure{}, &figure{}
	out := `[{"build_commit":"abc","model_type":"llama Q4_0","n_prompt":512,"n_gen":0,"samples_ns":[2e9,1e9,0]},
		{"build_commit":"abc","model_type":"llama Q4_0","n_prompt":0,"n_gen":128,"samples_ns":[3e9]}]`
	note, err := storeLlamaBench([]byte(out), "llama.cpp", prompt, text)
	require.NoError(t, err)
	require.Equal(t, "llama.cpp: llama Q4_0, commit abc.", note)
	require.Equal(t, []peerTime{{"llama.cpp", 1}}, prompt.peers)
	require.Equal(t, []peerTime{{"llama.cpp", 3}}, text.peers)
	_, err = storeLlamaBench([]byte(out), "llama.cpp", prompt, nil)
	require.NoError(t, err, "one row alone")
	for _, bad := range []string{"", "{}", "[]"} {
		_, err = storeLlamaBench([]byte(bad), "llama.cpp", prompt, text)
		require.Error(t, err)
	}
}
