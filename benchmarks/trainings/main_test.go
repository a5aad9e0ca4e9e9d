package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestShow: figures that were kept give the table and the pictures; a peer that failed is shown as such.
func TestShow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "measured.jsonl")
	generating := rows[slices.IndexFunc(rows, func(r row) bool { return r.generates })]
	require.NoError(t, keep(path, []figure{
		figureOf(rows[0], bench{Device: "d", Peak: 43e9, Planned: 42e9, Overhead: 1e8, Positions: 16000, MFU: 0.56}),
		{Row: rows[0].name, Peer: "hf", Tokens: 8000, Memory: 21e9}, {Row: rows[0].name, Peer: "unsloth", Error: "not\ninstalled"},
	}))
	require.NoError(t, keep(path, []figure{figureOf(generating, bench{Token: 0.008}), {Row: generating.name, Peer: "hf", PerTok: 40}}))
	var out bytes.Buffer
	require.NoError(t, command(t.Context(), []string{"-read", path, "-plots", dir}, &out))
	require.Contains(t, out.String(), "| 16000 tok/s | 56.0% | 43.00 GB (+0.10 GB) | 42.00 GB | hf 8000 tok/s, 21.00 GB; unsloth failed: not installed | 2.00 |")
	require.Contains(t, out.String(), "| 8.00 ms/token |  |  |  | hf 40.00 ms/token | 5.00 |")
	for _, name := range []string{"trainings-speed.png", "trainings-memory.png"} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Positive(t, info.Size())
	}
	require.ErrorContains(t, command(t.Context(), []string{"more"}, &out), "unknown argument")
	require.ErrorContains(t, command(t.Context(), []string{"-only", "qlora 9b"}, &out), `no row "qlora 9b"; there are qlora 8b 2x4096, `)
	require.ErrorContains(t, command(t.Context(), []string{"-trainer", "/nowhere/trainer", "-only", rows[0].name}, &out), rows[0].name)
}
