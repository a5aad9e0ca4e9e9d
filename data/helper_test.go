package data

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// byteEncoder gives byte c the id c+10, so that ids below 10 are free for special tokens.
type byteEncoder struct{}

func (byteEncoder) Encode(text string) ([]int32, error) {
	if strings.Contains(text, "REFUSED") {
		return nil, errors.New("refused")
	}
	ids := make([]int32, len(text))
	for i := range ids {
		ids[i] = int32(text[i]) + 10
	}
	return ids, nil
}

func bytesOf(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		if id >= 10 {
			b.WriteByte(byte(id - 10))
		}
	}
	return b.String()
}

func write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	body := []byte(content)
	if strings.HasSuffix(name, ".gz") {
		body = gzipped(t, body)
	}
	require.NoError(t, os.WriteFile(path, body, 0o600))
	return path
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(b)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}

func load(t testing.TB, opt Options, paths ...string) *Set {
	t.Helper()
	set, err := loadErr(opt, paths...)
	require.NoError(t, err)
	return set
}

func loadErr(opt Options, paths ...string) (*Set, error) {
	files := make([]File, len(paths))
	for i, p := range paths {
		files[i].Path = p
	}
	return Load(context.Background(), byteEncoder{}, files, opt)
}

// setOf makes a set of examples with the lengths given, with distinct ids of which a part is trained.
func setOf(seqLen int, lengths []int) *Set {
	st := &store{seqLen: seqLen, files: []FileInfo{{Path: "f", Weight: 1}}, tok: newTokens(0, "")}
	b := &builder{st: st, seen: map[uint64]struct{}{}, opt: Options{SeqLen: seqLen, Limits: Limits{}.withDefaults()}}
	id := int32(100)
	for i, n := range lengths {
		ids := make([]int32, n)
		for t := range ids {
			ids[t] = id
			id++
		}
		var labels []int32
		if i%3 == 0 { // labels of their own: only the second token is trained
			labels = slices.Repeat([]int32{Ignore}, n)
			labels[1] = id
		}
		if err := b.example(&Row{Line: i + 1}, ids, labels, max(1, n/2)); err != nil {
			panic(err)
		}
	}
	for i := range st.docs {
		st.docs[i].file = 0
	}
	return b.set()
}

func example(t require.TestingT, s *Set, i int) Example {
	e, err := s.Example(i)
	require.NoError(t, err)
	return e
}
