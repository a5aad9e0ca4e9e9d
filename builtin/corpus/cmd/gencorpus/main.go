// Command gencorpus writes the built-in model's pretraining text and fine-tuning set as JSON lines:
//
//	go run ./builtin/corpus/cmd/gencorpus -docs 20000 -seed 1 -out corpus.jsonl
//
// writes {"text": ...} to corpus.jsonl and {"prompt": ..., "completion": ...} to finetune_train.jsonl and finetune_heldout.jsonl.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
)

func main() {
	err := run(os.Args[1:], os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2) // the flag package has printed the reason
	default:
		fmt.Fprintln(os.Stderr, "gencorpus:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("bad arguments")

// document is one line of the pretraining text.
type document struct {
	Text string `json:"text"`
}

func run(args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("gencorpus", flag.ContinueOnError)
	fs.SetOutput(stderr)
	docs := fs.Int("docs", 20000, "number of documents")
	seed := fs.Uint64("seed", 1, "seed of the text and of the fine-tuning set")
	out := fs.String("out", "corpus.jsonl", "pretraining text; empty: not written")
	train := fs.String("train", "finetune_train.jsonl", "fine-tuning rows; empty: not written")
	held := fs.String("heldout", "finetune_heldout.jsonl", "held-out rows; empty: not written")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errors.Join(errUsage, err)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: every setting is a flag, see -help", fs.Arg(0))
	}
	texts := func(yield func(document) bool) {
		for doc := range corpus.Generate(*seed, *docs) {
			if !yield(document{doc}) {
				return
			}
		}
	}
	trainRows, heldRows := corpus.FineTune(*seed)
	return errors.Join(
		writeLines(*out, texts),
		writeLines(*train, slices.Values(trainRows)),
		writeLines(*held, slices.Values(heldRows)),
	)
}

// writeLines writes one JSON object a line to a new file; an empty path writes nothing.
func writeLines[T any](path string, rows iter.Seq[T]) (err error) {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for row := range rows {
		if err := enc.Encode(row); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return w.Flush()
}
