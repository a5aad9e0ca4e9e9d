package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// checkLoaded holds whatever was loaded to the promise of Marshal.
func checkLoaded(t *testing.T, c Config, err error) {
	t.Helper()
	if err != nil {
		require.Equal(t, ExitConfig, ExitCode(err))
		return
	}
	data, err := c.Marshal()
	require.NoError(t, err)
	back, err := Loader{}.Parse("printed.yaml", data, nil)
	require.NoError(t, err, string(data))
	require.Equal(t, c, back)
}

func FuzzLoad(f *testing.F) {
	for _, p := range Presets() {
		f.Add(p.YAML)
	}
	f.Add([]byte(designYAML))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Loader{}.Parse("fuzz.yaml", data, nil)
		checkLoaded(t, c, err)
	})
}

func FuzzOverrides(f *testing.F) {
	f.Add("--model\nm\n--train.betas=[0.1,0.2]\n--resume\n--out=o")
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\n")
		c, err := Load("", args)
		checkLoaded(t, c, err)
		_, _, _, err = Split(args, map[string]bool{"json": false})
		if err != nil {
			require.Equal(t, ExitConfig, ExitCode(err))
		}
	})
}
