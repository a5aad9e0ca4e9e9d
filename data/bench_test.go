package data

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/chat"
)

func benchLengths(n, longest int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = 2 + int(draw(1, uint64(i))%uint64(longest-1))
	}
	return out
}

func BenchmarkBestFit(b *testing.B) {
	lengths := benchLengths(100_000, 1024)
	order := Permutation(1, 0, len(lengths))
	for b.Loop() {
		bestFit(order, func(id int32) int { return lengths[id] }, 2048)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(order)), "ns/doc")
}

func BenchmarkStepInto(b *testing.B) {
	l, err := NewLoader(setOf(2048, benchLengths(2000, 1024)), LoaderOptions{Pack: true, Shuffle: true, Batch: 8, MicroBatch: 2})
	if err != nil {
		b.Fatal(err)
	}
	var buf []Batch
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if buf, err = l.StepInto(i%l.Steps(), buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*8*2048), "ns/token")
}

func BenchmarkLoadJSONL(b *testing.B) {
	var rows strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&rows, `{"prompt":"question %d ?","completion":"%s"}`+"\n", i, strings.Repeat("answer ", 20))
	}
	path := write(b, "a.jsonl", rows.String())
	b.SetBytes(int64(rows.Len()))
	for b.Loop() {
		load(b, Options{}, path)
	}
}

// BenchmarkConversations has rows of two exchanges through a template without generation blocks, which is taken apart by comparing renderings.
func BenchmarkConversations(b *testing.B) {
	var rows strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&rows, `{"messages":[{"role":"user","content":"question %d ?"},{"role":"assistant","content":"%s"},{"role":"user","content":"and"},{"role":"assistant","content":"more"}]}`+"\n",
			i, strings.Repeat("answer ", 20))
	}
	const source = `{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`
	t, err := chat.Parse(source, chat.Options{})
	if err != nil {
		b.Fatal(err)
	}
	path := write(b, "a.jsonl", rows.String())
	b.SetBytes(int64(rows.Len()))
	for b.Loop() {
		load(b, Options{Renderer: NewRenderer(t)}, path)
	}
}
