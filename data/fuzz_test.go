package data

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// fuzzLoad loads the bytes under a name and checks what must hold of any input: a *RowError, or a set whose examples are sound.
func fuzzLoad(t *testing.T, name string, content []byte, opt Options) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := Load(context.Background(), byteEncoder{}, []File{{Path: path}}, opt)
	if err != nil {
		var re *RowError
		if !errors.As(err, &re) || re.Line < 0 || re.Line > bytes.Count(content, []byte("\n"))+1 {
			t.Fatalf("%v: not a row error within the file", err)
		}
		return
	}
	for i := range set.Len() {
		e := example(t, set, i)
		if len(e.IDs) != len(e.Labels) || len(e.IDs) > opt.SeqLen || e.Labels[0] != Ignore || trained(e.Labels) == 0 {
			t.Fatalf("example %d is unsound: %+v", i, e)
		}
		for t2, id := range e.IDs {
			if id < 0 || int(id) >= opt.Vocab || e.Labels[t2] < 0 && e.Labels[t2] != Ignore {
				t.Fatalf("example %d: id %d, label %d", i, id, e.Labels[t2])
			}
		}
	}
}

var fuzzOptions = Options{SeqLen: 8, Vocab: 300, Limits: Limits{RowBytes: 1 << 12, Tokens: 1 << 16}}

func FuzzJSONL(f *testing.F) {
	f.Add([]byte(`{"prompt":"ab","completion":"cd"}` + "\n" + `{"prompt":"","completion":"\ud83d\ude00"}`))
	f.Add([]byte(`{"input_ids":[1,2,3],"labels":[-100,2,3]}`))
	f.Add([]byte("{\"text\":\"\\\\\\udc00\"}\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzLoad(t, "a.jsonl", b, fuzzOptions) })
}

func FuzzJSONArray(f *testing.F) {
	f.Add([]byte(`[{"instruction":"a","input":null,"output":"}]\""} , {"instruction":"b","output":"c"}]`))
	f.Add([]byte("[\n{\"text\":\"ab\"}\n,]"))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzLoad(t, "a.json", append([]byte("["), b...), fuzzOptions) })
}

func FuzzConversations(f *testing.F) {
	f.Add([]byte(`{"messages":[` + twoTurns + `],"tools":"[]"}`))
	f.Add([]byte(`{"conversations":[{"from":"function_call","value":"[{\"name\":\"f\"}]"},{"from":"gpt","value":null}]}`))
	f.Add([]byte(`{"messages":[{"role":"assistant","content":[{"type":"text","text":"a"},"b"],"weight":1,"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]}`))
	opt := fuzzOptions
	opt.SeqLen, opt.Renderer = 256, chatML{}
	f.Fuzz(func(t *testing.T, b []byte) { fuzzLoad(t, "a.jsonl", b, opt) })
}

func FuzzPairs(f *testing.F) {
	f.Add([]byte(`{"prompt":[{"role":"user","content":"a"}],"chosen":"b","rejected":[{"role":"assistant","content":"c"}]}`))
	f.Add([]byte(`{"chosen":"\n\nHuman: a\n\nAssistant: b","rejected":"\n\nHuman: a\n\nAssistant: c"}`))
	opt := fuzzOptions
	opt.SeqLen, opt.Renderer, opt.Pairs = 256, chatML{}, true
	f.Fuzz(func(t *testing.T, b []byte) { fuzzLoad(t, "a.jsonl", b, opt) })
}

func FuzzText(f *testing.F) {
	f.Add([]byte("one##two\n\n###"))
	f.Add([]byte("a\n\xc3"))
	opt := fuzzOptions
	opt.Separator, opt.Overlap = "##", 1
	f.Fuzz(func(t *testing.T, b []byte) { fuzzLoad(t, "a.txt", b, opt) })
}

func FuzzGzip(f *testing.F) {
	f.Add(gzipped(f, []byte(`{"text":"abc"}`)))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzPacked(t, "a.jsonl.gz", b) })
}

func FuzzZstd(f *testing.F) {
	f.Add(zstded(f, []byte(`{"text":"abc"}`)))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\xff"))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzPacked(t, "a.jsonl.zst", b) })
}

func fuzzPacked(t *testing.T, name string, b []byte) {
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(context.Background(), byteEncoder{}, []File{{Path: name}}, fuzzOptions)
	if re := (*RowError)(nil); err != nil && !errors.As(err, &re) {
		t.Fatal(err)
	}
}
