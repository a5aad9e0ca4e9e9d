package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Sample is one line of samples.jsonl: what the model answers to a held-out prompt after a step. Texts are there where the model has a
// tokenizer, ids where it has none.
type Sample struct {
	Step   int64  `json:"step"`
	Row    int    `json:"row"` // of the held-out rows, from 0
	Source string `json:"source"`

	Prompt string `json:"prompt,omitempty"`
	Want   string `json:"want,omitempty"` // what the data has
	Got    string `json:"got,omitempty"`

	PromptIDs []int32 `json:"prompt_ids,omitempty"`
	WantIDs   []int32 `json:"want_ids,omitempty"`
	GotIDs    []int32 `json:"got_ids,omitempty"`
}

// AppendSamples adds lines to the file at path in one write and makes them durable.
func AppendSamples(path string, rows []Sample) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, r := range rows {
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("samples: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("samples: %w", err)
	}
	_, err = f.Write(b.Bytes())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("samples: %w", err)
	}
	return nil
}

// CutSamples removes the lines after step, the step of the checkpoint that a run goes on from, and a torn last line. There may be no file.
func CutSamples(path string, step int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("samples: %w", err)
	}
	var keep int64
	in := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := readLine(in)
		var s struct {
			Step *int64 `json:"step"`
		}
		// A line is whole when it ends and parses; what follows one that is not was written by no run.
		if err != nil || json.Unmarshal(line, &s) != nil || s.Step == nil || *s.Step > step {
			break
		}
		keep += int64(len(line))
	}
	if err := errors.Join(f.Truncate(keep), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("samples: %w", err)
	}
	return nil
}
