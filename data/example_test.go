package data_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/chat"
	"github.com/bitsandbyes/bitsandbyes/data"
)

// letters stands in for a tokenizer.
type letters struct{}

// Encode implements data.Encoder.
func (letters) Encode(text string) ([]int32, error) {
	var ids []int32
	for _, r := range text {
		ids = append(ids, r)
	}
	return ids, nil
}

// Prompts are masked, and several examples are packed into a row, each with its own positions.
func ExampleLoad() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Println(err)
		}
	}()
	path := filepath.Join(dir, "rows.jsonl")
	rows := `{"prompt": "2+2=", "completion": "4"}` + "\n" + `{"prompt": "up", "completion": "down"}` + "\n"
	if err := os.WriteFile(path, []byte(rows), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	set, err := data.Load(context.Background(), letters{}, []data.File{{Path: path}}, data.Options{SeqLen: 16, EOS: []int32{0}})
	if err != nil {
		fmt.Println(err)
		return
	}
	loader, err := data.NewLoader(set, data.LoaderOptions{SeqLen: 16, Batch: 1, Pack: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	batches, err := loader.Step(0)
	if err != nil {
		fmt.Println(err)
		return
	}
	b := batches[0]
	fmt.Println(set.Len(), "examples,", loader.Steps(), "step,", b.Targets, "trained tokens")
	fmt.Println(b.Pos)
	fmt.Println(b.Labels)
	// Output:
	// 2 examples, 1 step, 7 trained tokens
	// [0 1 2 3 4 5 0 1 2 3 4 5 6 0 1 2]
	// [-100 -100 -100 -100 52 0 -100 -100 100 111 119 110 0 -100 -100 -100]
}

// A conversation is rendered by a chat template; what the assistant says, and the token that ends it, are trained.
func ExampleNewRenderer() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Println(err)
		}
	}()
	path := filepath.Join(dir, "rows.jsonl")
	row := `{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}` + "\n"
	if err := os.WriteFile(path, []byte(row), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	template, err := data.BuiltinTemplate("zephyr", chat.Options{Special: map[string]string{"eos_token": "."}})
	if err != nil {
		fmt.Println(err)
		return
	}
	set, err := data.Load(context.Background(), letters{}, []data.File{{Path: path}}, data.Options{Renderer: data.NewRenderer(template)})
	if err != nil {
		fmt.Println(err)
		return
	}
	e, err := set.Example(0)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, id := range e.IDs {
		if e.Labels[i] != data.Ignore {
			fmt.Printf("%c", id)
		}
	}
	fmt.Println()
	// Output: 4.
}
