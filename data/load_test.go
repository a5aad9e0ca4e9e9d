package data

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFormats(t *testing.T) {
	special := Options{BOS: []int32{1}, EOS: []int32{2}}
	none := special
	none.Mask = MaskNone
	const x = Ignore
	pc := `{"prompt":"ab","completion":"cd"}`
	for _, c := range []struct {
		name, file, content string
		opt                 Options
		ids, labels         []int32
		format              string
	}{
		{"prompt_completion", "a.jsonl", pc, special, []int32{1, 107, 108, 109, 110, 2}, []int32{x, x, x, 109, 110, 2}, "prompt_completion"},
		{"mask none", "a.jsonl", pc, none, []int32{1, 107, 108, 109, 110, 2}, []int32{x, 107, 108, 109, 110, 2}, "prompt_completion"},
		{"no special tokens", "a.jsonl", pc, Options{}, []int32{107, 108, 109, 110}, []int32{x, x, 109, 110}, "prompt_completion"},
		{"array", "a.json", "[\n " + pc + "\n]", Options{}, []int32{107, 108, 109, 110}, []int32{x, x, 109, 110}, "prompt_completion"},
		{"array in jsonl", "a.jsonl", "[" + pc + "]", Options{}, []int32{107, 108, 109, 110}, []int32{x, x, 109, 110}, "prompt_completion"},
		{"gzip", "a.jsonl.gz", pc, Options{}, []int32{107, 108, 109, 110}, []int32{x, x, 109, 110}, "prompt_completion"},
		{"gzip array", "a.json.gz", "[" + pc + "]", Options{}, []int32{107, 108, 109, 110}, []int32{x, x, 109, 110}, "prompt_completion"},
		{"BOM and CRLF", "a.jsonl", "\xef\xbb\xbf" + pc + "\r\n\r\n", Options{}, []int32{107, 108, 109, 110}, []int32{x, x, 109, 110}, "prompt_completion"},
		{"no extension", "rows", pc, Options{}, []int32{107, 108, 109, 110}, []int32{x, x, 109, 110}, "prompt_completion"},
		{"tokens", "a.jsonl", `{"input_ids":[5,6,7],"labels":[5,-100,9]}`, special, []int32{5, 6, 7}, []int32{x, x, 9}, "tokens"},
		{"tokens without labels", "a.jsonl", `{"input_ids":[5,6,7]}`, special, []int32{5, 6, 7}, []int32{x, 6, 7}, "tokens"},
		{"text row", "a.jsonl", `{"text":"ab"}`, special, []int32{1, 107, 108, 2}, []int32{x, 107, 108, 2}, "text"},
		{"plain text", "a.txt", "ab", special, []int32{1, 107, 108, 2}, []int32{x, 107, 108, 2}, "text"},
		{"plain text gzip", "a.txt.gz", "ab", Options{}, []int32{107, 108}, []int32{x, 108}, "text"},
		{"surrogate pair", "a.jsonl", `{"text":"\ud83d\ude00"}`, Options{}, []int32{250, 169, 162, 138}, []int32{x, 169, 162, 138}, "text"},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := load(t, c.opt, write(t, c.file, c.content))
			require.Equal(t, 1, set.Len())
			e := example(t, set, 0)
			require.Equal(t, c.ids, e.IDs)
			require.Equal(t, c.labels, e.Labels)
			require.Equal(t, c.format, set.Files()[0].Format)
			require.NotEmpty(t, set.Files()[0].Why)
		})
	}
}

func TestAlpaca(t *testing.T) {
	rows := `[{"instruction":"I","input":"","output":"O"},{"instruction":"I","input":"N","output":"O","rejected":"R"},
	{"instruction":"I","output":"O","system":"S"}]`
	set := load(t, Options{}, write(t, "a.json", rows))
	require.Equal(t, 3, set.Len())
	const head = "Below is an instruction that describes a task"
	require.Equal(t, head+". Write a response that appropriately completes the request.\n\n### Instruction:\nI\n\n### Response:\nO",
		bytesOf(example(t, set, 0).IDs))
	require.Equal(t, head+", paired with an input that provides further context. Write a response that appropriately completes the "+
		"request.\n\n### Instruction:\nI\n\n### Input:\nN\n\n### Response:\nO", bytesOf(example(t, set, 1).IDs))
	require.Equal(t, "S\n\n### Instruction:\nI\n\n### Response:\nO", bytesOf(example(t, set, 2).IDs))
	require.Equal(t, int64(3), set.Report().Trained)
	require.True(t, strings.HasSuffix(example(t, set, 2).Source, "a.json:2"))
}

func TestRowErrors(t *testing.T) {
	ok := `{"prompt":"a","completion":"b"}` + "\n"
	for _, c := range []struct {
		name, file, content string
		line                int
		says                string
		opt                 Options
	}{
		{"not JSON", "a.jsonl", ok + "{oops}", 2, "is not JSON", Options{}},
		{"cut row", "a.jsonl", ok + `{"prompt":"a`, 2, "is not JSON", Options{}},
		{"not an object", "a.jsonl", ok + `["a"]`, 2, "must be a JSON object, is a list", Options{}},
		{"missing key", "a.jsonl", ok + `{"prompt":"a","answer":"b"}`, 2, `has no key "completion" (it has "answer", "prompt")`, Options{}},
		{"null value", "a.jsonl", ok + `{"prompt":"a","completion":null}`, 2, `has no key "completion"`, Options{}},
		{"wrong type", "a.jsonl", ok + `{"prompt":true,"completion":"b"}`, 2, `"prompt" must be a string, is a boolean`, Options{}},
		{"no answer", "a.jsonl", ok + `{"prompt":"a","completion":""}`, 2, "no token to train on", Options{}},
		{"others' names", "a.jsonl", `{"question":"a","answer":"b"}`, 1, `; name "question" prompt and "answer" completion`, Options{}},
		{"rows in an object", "a.json", `{"version":1,"data":[ {"prompt":"a","completion":"b"}]}`, 1, `the rows may be the list at "data": write that list alone`, Options{}},
		{"unknown keys", "a.jsonl", `{"foo":1}`, 1, "no format fits the keys \"foo\"", Options{}},
		{"UTF-8", "a.jsonl", ok + ok + "{\"prompt\":\"\xff\",\"completion\":\"b\"}", 3, "not UTF-8", Options{}},
		{"UTF-8 in text", "a.txt", "a\nb\nc\xffd", 3, "not UTF-8", Options{}},
		{"surrogate", "a.jsonl", `{"text":"\ud83d."}`, 1, "surrogate", Options{}},
		{"low surrogate", "a.jsonl", `{"text":"\\\udc00"}`, 1, "surrogate", Options{}},
		{"tokenizer", "a.jsonl", ok + `{"prompt":"REFUSED","completion":"b"}`, 2, "cannot be tokenised: refused", Options{}},
		{"beyond vocab", "a.jsonl", `{"input_ids":[1,2]}` + "\n" + `{"input_ids":[1,50]}`, 2, "token id 50 is beyond the vocabulary of 50", Options{Vocab: 50}},
		{"label beyond vocab", "a.jsonl", `{"input_ids":[1,2],"labels":[1,50]}`, 1, "label 1: token id 50", Options{Vocab: 50}},
		{"negative id", "a.jsonl", `{"input_ids":[1,-1]}`, 1, "negative", Options{}},
		{"negative label", "a.jsonl", `{"input_ids":[1,2],"labels":[1,-1]}`, 1, "only -100", Options{}},
		{"fraction", "a.jsonl", `{"input_ids":[1,2.5]}`, 1, "32-bit integers", Options{}},
		{"too large", "a.jsonl", `{"input_ids":[1,99999999999]}`, 1, "32-bit integers", Options{}},
		{"null id", "a.jsonl", `{"input_ids":[1,null]}`, 1, "holds null", Options{}},
		{"ids are text", "a.jsonl", `{"input_ids":"1 2"}`, 1, "is a string", Options{}},
		{"label count", "a.jsonl", `{"input_ids":[1,2],"labels":[1]}`, 1, "1 labels for 2 input_ids", Options{}},
		{"labels untrained", "a.jsonl", `{"input_ids":[1,2],"labels":[1,-100]}`, 1, "no token to train on", Options{}},
		{"one token", "a.jsonl", `{"input_ids":[1]}`, 1, "none to train on", Options{}},
		{"array element", "a.json", "[\n{\"text\":\"ab\"},\n3]", 3, "must be an object", Options{}},
		{"array bad row", "a.json", "[\n{\"text\":\"ab\"},\n{x}]", 3, "is not JSON", Options{}},
		{"array comma", "a.json", "[{\"text\":\"ab\"}\n{\"text\":\"ab\"}]", 2, "must follow row 1", Options{}},
		{"array cut", "a.json", "[{\"text\":\"ab\"},", 1, "cut short", Options{}},
		{"first of two errors", "a.json", "[{\"text\":\"ab\"},\n{\"text\":1},\n3]", 2, "is a number", Options{}},
		{"array cut in row", "a.json", "[{\"text\":\"ab", 1, "cut short", Options{}},
		{"array tail", "a.json", "[{\"text\":\"ab\"}]\nx", 2, "after the end of the list", Options{}},
		{"array UTF-8", "a.json", "[{\"text\":\n\n\"\xff\"}]", 3, "not UTF-8", Options{}},
		{"long line", "a.jsonl", ok + `{"text":"` + strings.Repeat("a", 200) + `"}`, 2, "longer than 100 bytes", Options{Limits: Limits{RowBytes: 100}}},
		{"long array row", "a.json", `[{"text":"` + strings.Repeat("a", 200) + `"}]`, 1, "longer than 100 bytes", Options{Limits: Limits{RowBytes: 100}}},
		{"long text line", "a.txt", strings.Repeat("a", textPiece+1), 1, "longer than 100 bytes", Options{Limits: Limits{RowBytes: 100}}},
		{"too many tokens", "a.jsonl", ok + ok, 2, "more than 3 tokens", Options{Limits: Limits{Tokens: 3}}},
		{"empty file", "a.jsonl", "", 0, "holds no rows", Options{}},
		{"empty array", "a.json", "[]", 0, "holds no rows", Options{}},
		{"all empty", "a.jsonl", `{"text":" "}`, 0, "no row is left", Options{}},
		{"forced format", "a.jsonl", ok, 1, `has no key "text"`, Options{Format: "text"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := loadErr(c.opt, write(t, filepath.Base(c.file), c.content))
			var re *RowError
			require.ErrorAs(t, err, &re)
			require.Equal(t, c.line, re.Line, "%v", err)
			require.Contains(t, err.Error(), c.says)
			require.Contains(t, err.Error(), filepath.Base(c.file))
		})
	}
}

func TestUnknownKeysAreListedInPart(t *testing.T) {
	var keys []string
	for i := range 20 {
		keys = append(keys, `"k`+string(rune('a'+i))+`":1`)
	}
	_, err := loadErr(Options{}, write(t, "a.jsonl", "{"+strings.Join(keys, ",")+"}"))
	require.ErrorContains(t, err, `"kl", and 8 more`)
	for _, name := range names(formats[:]) {
		require.ErrorContains(t, err, name)
	}
	_, err = loadErr(Options{}, write(t, "a.jsonl", "{}"))
	require.ErrorContains(t, err, "keys none")
	for value, kind := range map[string]string{"1": "a number", "true": "a boolean", "{}": "an object"} {
		_, err = loadErr(Options{}, write(t, "a.jsonl", `{"text":`+value+`}`))
		require.ErrorContains(t, err, "must be a string, is "+kind)
	}
}

func TestFileErrors(t *testing.T) {
	dir := t.TempDir()
	bomb := write(t, "bomb.txt.gz", strings.Repeat("a b c\n", 12<<20))
	fake := filepath.Join(dir, "fake.jsonl.gz")
	require.NoError(t, os.WriteFile(fake, []byte("plain"), 0o600))
	cut := filepath.Join(dir, "cut.jsonl.gz")
	whole := gzipped(t, []byte(strings.Repeat(`{"text":"ab"}`+"\n", 1000)))
	require.NoError(t, os.WriteFile(cut, whole[:len(whole)-10], 0o600))
	for path, says := range map[string]string{
		filepath.Join(dir, "none.jsonl"):  "cannot be opened",
		filepath.Join(dir, "none*.jsonl"): "no file matches",
		dir:                               "not a regular file",
		fake:                              "not a gzip file",
		cut:                               "unexpected EOF",
		bomb:                              "expands to more than 100 times",
	} {
		_, err := loadErr(Options{}, path)
		var re *RowError
		require.ErrorAs(t, err, &re, path)
		require.Contains(t, err.Error(), says)
	}
	_, err := loadErr(Options{}, filepath.Join(dir, "none.jsonl"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestOptionErrors(t *testing.T) {
	path := write(t, "a.jsonl", `{"text":"ab"}`)
	for says, opt := range map[string]Options{
		"unknown format": {Format: "parquet"}, "unknown mask": {Mask: "all"}, "seq_len": {SeqLen: 1}, "overlap": {SeqLen: 4, Overlap: 4},
		"vocab -1": {Vocab: -1}, "BOS/EOS": {BOS: []int32{9}, Vocab: 9},
	} {
		_, err := loadErr(opt, path)
		require.ErrorContains(t, err, says)
	}
	_, err := loadErr(Options{})
	require.ErrorContains(t, err, "no input files")
	_, err = Load(context.Background(), nil, []File{{Path: path}}, Options{})
	require.ErrorContains(t, err, "no tokenizer")
	for _, w := range []float64{-1, 1e9} {
		_, err = Load(context.Background(), byteEncoder{}, []File{{path, w}}, Options{})
		require.ErrorContains(t, err, "weight")
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_, err = Load(ctx, byteEncoder{}, []File{{Path: path}}, Options{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestTruncationAndDrops(t *testing.T) {
	rows := []string{
		`{"prompt":"ab","completion":"cdef"}`,  // cut
		`{"prompt":"abcdef","completion":"g"}`, // nothing trained is left
		`{"prompt":"a","completion":"b"}`,
		`{"prompt":"a","completion":"b"}`, // duplicate
		`{"prompt":"","completion":"ab"}`, // the same too: the first token is never trained
	}
	set := load(t, Options{SeqLen: 4}, write(t, "a.jsonl", strings.Join(rows, "\n")))
	r := set.Report()
	require.Equal(t, "abcd", bytesOf(example(t, set, 0).IDs))
	require.Equal(t, [6]int{5, 4, 2, 1, 2, 0}, [6]int{r.Rows, r.Documents, r.Truncated, r.Dropped, r.Duplicates, r.Empty})
	require.Equal(t, int64(10), r.Tokens)
	require.Equal(t, int64(5), r.Trained)
	require.Equal(t, [2]int{2, 4}, [2]int{r.MinLen, r.MaxLen})
	require.Equal(t, 2.5, r.MeanLen)
	require.Equal(t, 0.5, r.Share)
}

func TestDigestAndGlob(t *testing.T) {
	dir := t.TempDir()
	var sums string
	for _, n := range []string{"b.jsonl", "a.jsonl.gz"} {
		body := []byte(`{"text":"from ` + n + `"}`)
		if strings.HasSuffix(n, "gz") {
			body = gzipped(t, body)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, n), body, 0o600))
		sum := sha256.Sum256(body)
		sums = hex.EncodeToString(sum[:]) + "\n" + sums
	}
	set := load(t, Options{}, filepath.Join(dir, "*.jsonl*"))
	require.Equal(t, 2, set.Len())
	require.Equal(t, "from a.jsonl.gz", bytesOf(example(t, set, 0).IDs))
	all := sha256.Sum256([]byte(sums))
	require.Equal(t, hex.EncodeToString(all[:]), set.Digest())
	one := load(t, Options{}, filepath.Join(dir, "b.jsonl"))
	require.Equal(t, strings.Split(sums, "\n")[1], one.Digest())
}

func TestWorkersDoNotChangeTheSet(t *testing.T) {
	var rows strings.Builder
	for i := range 1000 {
		rows.WriteString(`{"text":"` + strings.Repeat("x", i%17+2) + `"}` + "\n")
	}
	path := write(t, "a.jsonl", rows.String())
	one, many := load(t, Options{SeqLen: 8}, path), load(t, Options{SeqLen: 8, Workers: 3}, path)
	require.Equal(t, one.st, many.st)
}

func TestExtraFormat(t *testing.T) {
	f := Format{Name: "qa", Keys: []string{"q", "a"}, Convert: func(r *Row, c *Converter) ([]Doc, error) {
		q, err := r.Str("q", false)
		if err != nil {
			return nil, err
		}
		a, err := r.Str("a", true)
		if err != nil {
			return nil, err
		}
		return c.Answer(r, q, a)
	}}
	set := load(t, Options{Formats: []Format{f}}, write(t, "a.jsonl", `{"q":"x","a":"y","id":7}`))
	require.Equal(t, "xy", bytesOf(example(t, set, 0).IDs))
	require.Equal(t, `the row at line 1 has "q", "a"; ignored: "id"`, set.Files()[0].Why)
}
