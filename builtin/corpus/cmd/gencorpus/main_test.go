package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
)

func lines[T any](t *testing.T, path string) (rows []T) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	for s := bufio.NewScanner(f); s.Scan(); {
		var row T
		require.NoError(t, json.Unmarshal(s.Bytes(), &row))
		rows = append(rows, row)
	}
	return rows
}

func TestRunWritesFiles(t *testing.T) {
	dir := t.TempDir()
	text, train, held := filepath.Join(dir, "c.jsonl"), filepath.Join(dir, "t.jsonl"), filepath.Join(dir, "h.jsonl")
	require.NoError(t, run([]string{"-docs", "25", "-seed", "4", "-out", text, "-train", train, "-heldout", held}, io.Discard))
	var want []document
	for d := range corpus.Generate(4, 25) {
		want = append(want, document{d})
	}
	require.Equal(t, want, lines[document](t, text))
	wantTrain, wantHeld := corpus.FineTune(4)
	require.Equal(t, wantTrain, lines[corpus.Row](t, train))
	require.Equal(t, wantHeld, lines[corpus.Row](t, held))
}

func TestRunRefuses(t *testing.T) {
	require.ErrorIs(t, run([]string{"-docs", "many"}, io.Discard), errUsage)
	require.ErrorIs(t, run([]string{"-help"}, io.Discard), flag.ErrHelp)
	require.ErrorContains(t, run([]string{"extra"}, io.Discard), "extra")
	missing := filepath.Join(t.TempDir(), "no", "folder.jsonl")
	require.ErrorIs(t, run([]string{"-out", missing, "-train", "", "-heldout", ""}, io.Discard), os.ErrNotExist)
}
