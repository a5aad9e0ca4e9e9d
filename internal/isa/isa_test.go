package isa

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	all := features{vnni: true, bf16: true, vbmi: true}
	intel := features{vnni: true, vbmi: true}
	for env, want := range map[string]struct {
		level Level
		use   features
	}{
		"generic":            {Generic, features{}},
		"avx2":               {AVX2, features{}},
		"avx512":             {AVX512, intel},
		"avx512,-vnni":       {AVX512, features{vbmi: true}},
		"avx512,+bf16":       {AVX512, all},
		"avx512,-vnni,-vbmi": {AVX512, features{}},
	} {
		l, f, err := parse(env, AVX512, all, intel)
		require.NoError(t, err, env)
		require.Equal(t, want.level, l, env)
		require.Equal(t, want.use, f, env)
	}
}

func TestParseRefuses(t *testing.T) {
	for env, says := range map[string]string{
		"sse4":        `"sse4" is no level; want generic, avx2 or avx512`,
		"avx512":      "has no avx512; the most it has is avx2",
		"avx2,+vnni":  "+vnni: this processor, build or level does not have it",
		"avx2,vnni":   `"vnni" is no feature`,
		"avx2,-magic": `"-magic" is no feature`,
		"avx2,":       `"" is no feature`,
	} {
		_, _, err := parse(env, AVX2, features{}, features{})
		require.ErrorContains(t, err, says, env)
	}
}

func TestDescribes(t *testing.T) {
	t.Logf("in use: %s", String())
	require.NoError(t, Err())
	require.True(t, Has(Generic))
	require.Contains(t, String(), Best().String())
}

func TestL2(t *testing.T) {
	require.GreaterOrEqual(t, L2(), 128<<10)
	require.LessOrEqual(t, L2(), 64<<20)
	t.Logf("second cache: %d KiB", L2()>>10)
}
