package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestShortFlags tells the command's own one-letter flags from files and mistakes.
func TestShortFlags(t *testing.T) {
	_, _, flags, err := Split([]string{"-h"}, map[string]bool{"h": false})
	require.NoError(t, err)
	require.Equal(t, []string{"-h"}, flags)
	_, _, _, err = Split([]string{"-x"}, map[string]bool{"h": false})
	require.Equal(t, ExitConfig, ExitCode(err))
}

// TestNotUTF8 refuses a file in another encoding instead of reading it as empty.
func TestNotUTF8(t *testing.T) {
	_, err := Loader{}.Parse("run.yaml", []byte("\xff\xfem\x00"), nil)
	require.ErrorContains(t, err, "UTF-8")
	require.Equal(t, ExitConfig, ExitCode(err))
}
