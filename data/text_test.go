package data

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		text    string
		overlap int
		want    []string
		targets int64
	}{
		{"abcdefgh", 0, []string{"abcd", "efgh"}, 6},
		{"abcdefghi", 0, []string{"abcd", "efgh"}, 6}, // a window of one token trains nothing
		{"abcdefghi", 1, []string{"abcd", "defg", "ghi"}, 8},
		{"abcd", 1, []string{"abcd"}, 3},
		{"abcde", 1, []string{"abcd", "de"}, 4},
		{"abcdef", 3, []string{"abcd", "bcde", "cdef"}, 5},
	} {
		set := load(t, Options{SeqLen: 4, Overlap: c.overlap}, write(t, "a.txt", c.text))
		var got []string
		for i := range set.Len() {
			got = append(got, bytesOf(example(t, set, i).IDs))
		}
		require.Equal(t, c.want, got)
		require.Equal(t, c.targets, set.Report().Trained, c)
	}
}

func TestSeparator(t *testing.T) {
	text := "one\n<|e|>two\nlines<|e|>\n<|e|>three"
	set := load(t, Options{Separator: "<|e|>", BOS: []int32{1}, EOS: []int32{2}}, write(t, "a.txt", text))
	var got, src []string
	for i := range set.Len() {
		e := example(t, set, i)
		require.Equal(t, int32(1), e.IDs[0])
		require.Equal(t, int32(2), e.IDs[len(e.IDs)-1])
		got = append(got, bytesOf(e.IDs))
		src = append(src, e.Source[strings.LastIndex(e.Source, ":")+1:])
	}
	require.Equal(t, []string{"one\n", "two\nlines", "three"}, got)
	require.Equal(t, []string{"1", "2", "4"}, src)
	require.Equal(t, 1, set.Report().Empty)
}

// The pieces of a text must join to its documents, wherever the reader's buffer ends.
func TestTextReaderPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "\n", " ", "é", "b", "\n\n", "#", "##", "\u3000"}), 0, 60).Draw(t, "text"), "")
		sep := rapid.SampledFrom([]string{"", "##", "\n\n", "#\n"}).Draw(t, "sep")
		r := &textReader{file: "f", line: 1, in: strings.NewReader(text), sep: []byte(sep), max: 1 << 10, unit: rapid.IntRange(1, 20).Draw(t, "unit")}
		var docs []string
		cont := false
		for {
			row, err := r.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if row.First == cont {
				t.Fatalf("First is %v in a document continued %v", row.First, cont)
			}
			if row.First {
				docs = append(docs, "")
			}
			docs[len(docs)-1] += row.Text
			cont = row.More
		}
		want := []string{text}
		if sep != "" {
			want = strings.Split(text, sep)
		}
		if want[len(want)-1] == "" {
			want = want[:len(want)-1]
		}
		if cont || strings.Join(docs, "|") != strings.Join(want, "|") {
			t.Fatalf("got %q, want %q", docs, want)
		}
	})
}

// A text read in pieces gives the windows of the whole text, and with overlap 1 every token but the first is a target once.
func TestWindowsOfPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 9).Draw(t, "seq_len")
		overlap := rapid.IntRange(0, n-1).Draw(t, "overlap")
		pieces := rapid.SliceOfN(rapid.IntRange(0, 30), 1, 6).Draw(t, "pieces")
		make1 := func(cuts []int) *store {
			b := &builder{opt: Options{SeqLen: n, Overlap: overlap, Limits: Limits{}.withDefaults()}, st: &store{tok: newTokens(0, "")}, seen: map[uint64]struct{}{}}
			id := int32(0)
			for i, k := range cuts {
				d := Doc{Window: true, More: i+1 < len(cuts)}
				for range k {
					d.IDs = append(d.IDs, id)
					id++
				}
				if err := b.addAll(&Row{}, []Doc{d}); err != nil {
					t.Fatal(err)
				}
			}
			return b.st
		}
		total := 0
		for _, k := range pieces {
			total += k
		}
		got, want := make1(pieces), make1([]int{total})
		require.Equal(t, want.docs, got.docs)
		require.Equal(t, want.tok.open, got.tok.open)
		targets := 0
		for i := range got.docs {
			targets += int(got.docs[i].trained)
		}
		if overlap > 0 && total > 0 {
			require.Equal(t, total-1, targets)
		}
	})
}
