package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// encoder encodes text without the tokens that a tokenizer adds around it: package data puts them where a document begins and ends.
type encoder struct{ tokenizer.Tokenizer }

// Encode implements data.Encoder.
func (e encoder) Encode(text string) ([]int32, error) {
	return e.EncodeWith(text, tokenizer.EncodeOptions{NoSpecial: true})
}

// openRows reads the rows, masks their prompts and packs them into rows of o.tokens tokens. The built-in rows are written to the
// output folder first, to be looked at.
func openRows(ctx context.Context, m *trainer.Model, o *options) (*data.Loader, error) {
	if m.Tokenizer == nil {
		return nil, fmt.Errorf("%s has no tokenizer beside it", o.model)
	}
	var err error
	if o.out == "" {
		if o.out, err = os.MkdirTemp("", "qlora"); err != nil {
			return nil, err
		}
	}
	if o.data == "" {
		if o.data, err = writeRows(o.out); err != nil {
			return nil, err
		}
	}
	eos := m.EOS()
	opt := data.Options{SeqLen: o.tokens, Vocab: m.Config().Vocab, EOS: eos[:min(1, len(eos))]}
	if id, ok := m.BOS(); ok {
		opt.BOS = []int32{id}
	}
	set, err := data.Load(ctx, encoder{m.Tokenizer}, []data.File{{Path: o.data}}, opt)
	if err != nil {
		return nil, err
	}
	fmt.Printf("%d rows, %d tokens\n", set.Report().Rows, set.Report().Tokens)
	return data.NewLoader(set, data.LoaderOptions{SeqLen: o.tokens, Batch: o.rows, Pack: true, Shuffle: true, Seed: 1, Steps: o.steps})
}

func writeRows(dir string) (path string, err error) {
	var b bytes.Buffer
	rows, _ := corpus.FineTune(1)
	for _, r := range rows {
		line, err := json.Marshal(r)
		if err != nil {
			return "", err
		}
		b.Write(append(line, '\n'))
	}
	path = filepath.Join(dir, "rows.jsonl")
	return path, errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, b.Bytes(), 0o644))
}
