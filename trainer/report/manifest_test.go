package report

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestManifest(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "manifest.json")
	half := 0.5
	m := Manifest{
		Command: "finetune", Started: time.Unix(1700000000, 0).UTC(), Versions: ProgramVersions(), ConfigSHA256: "ab", Steps: 3,
		Data: []DataFile{{Path: "rows.jsonl", Bytes: 3, Rows: 1, SHA256: HashBytes([]byte("abc"))}}, WeightsDigest: "cd", ExactMatchBefore: new(float64), ExactMatchAfter: &half,
	}
	require.NoError(t, m.Write(path))
	require.NoError(t, m.Write(path))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), "\"exact_match_before\": 0,\n  \"exact_match_after\": 0.5")
	require.NotContains(t, string(text), "finished")
	back, err := ReadManifest(path)
	require.NoError(t, err)
	m.Format = ManifestFormat
	require.Equal(t, m, back)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file stays")

	require.Error(t, m.Write(filepath.Join(dir, "none", "manifest.json")))
	require.Error(t, WriteFile(dir, nil), "a directory is not replaced")
	for _, text := range []string{"", "{}", `{"format":99}`, "[1]"} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		_, err = ReadManifest(path)
		require.ErrorContains(t, err, "manifest.json")
	}
	require.NotEmpty(t, ProgramVersions().Go)
}

func TestDigest(t *testing.T) {
	a, err := tensor.Of([]float32{1, 2, 3, 4}, 2, 2)
	require.NoError(t, err)
	flat, err := a.Reshape(4)
	require.NoError(t, err)
	ints, err := tensor.FromBytes(tensor.T(tensor.I32, 2, 2), a.Bytes())
	require.NoError(t, err)
	digest := func(list ...Named) string {
		d, err := Digest(list)
		require.NoError(t, err)
		return d
	}
	// The encoding written out by hand.
	u64 := func(n byte) string { return string([]byte{n, 0, 0, 0, 0, 0, 0, 0}) }
	plain := u64(1) + "a" + u64(3) + "f32" + u64(2) + u64(2) + u64(2) + u64(16) + string(a.Bytes())
	sum := sha256.Sum256([]byte(plain))
	require.Equal(t, hex.EncodeToString(sum[:]), digest(Named{"a", a}))

	require.Equal(t, digest(Named{"a", a}, Named{"b", flat}), digest(Named{"b", flat}, Named{"a", a}))
	all := []string{
		digest(), digest(Named{"a", a}), digest(Named{"b", a}), digest(Named{"a", flat}), digest(Named{"a", ints}),
		digest(Named{"a", a}, Named{"b", a}), digest(Named{"a", tensor.Scalar(float32(1))}),
	}
	seen := map[string]bool{}
	for _, d := range all {
		require.False(t, seen[d])
		seen[d] = true
	}
	_, err = Digest([]Named{{"a", a}, {"a", a}})
	require.ErrorContains(t, err, "unique")
	_, err = Digest([]Named{{"a", nil}})
	require.ErrorContains(t, err, "no tensor")
}

func TestHashFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	require.NoError(t, os.WriteFile(path, []byte("abc"), 0o644))
	got, err := HashFile(path)
	require.NoError(t, err)
	require.Equal(t, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", got)
	require.Equal(t, got, HashBytes([]byte("abc")))
	_, err = HashFile(path + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
}
