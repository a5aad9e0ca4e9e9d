package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestPresetsCopy: every preset is copied as it is printed, and nothing is overwritten.
func TestPresetsCopy(t *testing.T) {
	for _, pr := range config.Presets() {
		name := filepath.Join(t.TempDir(), "run.yaml")
		code, out, msg := command(t, "presets", pr.Name, name)
		require.Zero(t, code, msg)
		require.Empty(t, out)
		raw, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, string(pr.YAML), string(raw))
		code, _, msg = command(t, "presets", pr.Name, name)
		require.Equal(t, config.ExitConfig, code)
		require.Contains(t, msg, "exists already")
		_, printed, _ := command(t, "presets", pr.Name)
		require.Equal(t, string(pr.YAML), printed)
	}
	code, _, _ := command(t, "presets", "qlora", filepath.Join(t.TempDir(), "no", "such", "folder", "x"))
	require.Equal(t, config.ExitDisk, code)
}
