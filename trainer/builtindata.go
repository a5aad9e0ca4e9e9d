package trainer

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// builtinSeed is the seed of the built-in fine-tuning set: its held-out rows are fixed.
const builtinSeed = 1

// dataFiles returns the files to train on and, for the built-in set, those held out. The built-in rows are written into the run
// directory first, so that a user sees what was trained on.
func (j *job) dataFiles() (train, held []data.File, err error) {
	paths := j.cfg.Data.Path
	if len(paths) == 1 && paths[0].Path == config.BuiltinData {
		rows, heldOut := corpus.FineTune(builtinSeed)
		a, b := j.path("builtin_train.jsonl"), j.path("builtin_heldout.jsonl")
		if err := writeRows(j.fs, a, rows); err != nil {
			return nil, nil, err
		}
		if err := writeRows(j.fs, b, heldOut); err != nil {
			return nil, nil, err
		}
		return []data.File{{Path: a}}, []data.File{{Path: b}}, nil
	}
	if len(paths) == 0 {
		return nil, nil, badConfig("data.path", "is not set; name a file of rows to train on")
	}
	for _, p := range paths {
		train = append(train, data.File{Path: p.Path, Weight: p.Weight})
	}
	return train, nil, nil
}

func writeRows(fsys vfs.FS, path string, rows []corpus.Row) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, r := range rows {
		if err := enc.Encode(map[string]string{"prompt": r.Prompt, "completion": r.Completion}); err != nil {
			return err
		}
	}
	if err := vfs.WriteAtomic(fsys, path, b.Bytes()); err != nil {
		return withCode(config.ExitDisk, fmt.Errorf("built-in data: %w", err))
	}
	return nil
}
