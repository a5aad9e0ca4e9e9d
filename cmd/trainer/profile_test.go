package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/profile"
)

// TestProfile: the built-in run without arguments but where to write, for one step; every file is there, and the text is the terminal's.
func TestProfile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "prof")
	code, out, msg := command(t, "profile", "--steps=1", "--warmup", "0", "--out", dir, "--train.micro_batch=4", "--depth=2")
	require.Zero(t, code, msg)
	for _, says := range []string{"kernel ", "all kernels", "outside kernels", "scope ", "largest tensors alive then", "written to " + dir} {
		require.Contains(t, out, says)
	}
	require.NotContains(t, out, "q_proj ", "the depth is 2")
	raw, err := os.ReadFile(filepath.Join(dir, profile.ProfileFile))
	require.NoError(t, err)
	var r profile.Result
	require.NoError(t, json.Unmarshal(raw, &r))
	require.Equal(t, 1, r.Steps.Count)
	require.Zero(t, r.Steps.Warmup)
	require.Equal(t, profile.Version, r.Version)
	for _, name := range []string{profile.ReportFile, profile.TraceFile, profile.MemoryFile, profile.MemoryPlotFile} {
		require.FileExists(t, filepath.Join(dir, name))
	}
}

// TestProfileDry: the memory of the built-in run, which is not begun.
func TestProfileDry(t *testing.T) {
	dir := t.TempDir()
	code, out, msg := command(t, "profile", "--dry", "--out", dir)
	require.Zero(t, code, msg)
	require.Contains(t, out, "saved activations")
	require.NotContains(t, out, "GFLOP")
	require.NoFileExists(t, filepath.Join(dir, profile.TraceFile))
	require.FileExists(t, filepath.Join(dir, profile.MemoryPlotFile))
}

// TestProfileRefuses: what is wrong on the command line has its exit code and a remedy.
func TestProfileRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--steps=0"}, config.ExitConfig, "--steps is 0"},
		{[]string{"--steps=many"}, config.ExitConfig, "steps"},
		{[]string{"--warmup=-1"}, config.ExitConfig, "--warmup is -1"},
		{[]string{"--stepz=2"}, config.ExitConfig, "stepz"},
		{[]string{"--resume", "--out", file}, config.ExitConfig, "resume"},
		{[]string{"--dry", "--out", filepath.Join(file, "below")}, config.ExitDisk, "name another"},
	} {
		code, _, msg := command(t, append([]string{"profile"}, c.args...)...)
		require.Equal(t, c.code, code, "%v: %s", c.args, msg)
		require.Contains(t, msg, c.says)
	}
	code, out, _ := command(t, "profile", "--help")
	require.Zero(t, code)
	require.Contains(t, out, "--warmup")
}
