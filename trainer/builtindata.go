package trainer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// builtinSeed is the seed of the built-in fine-tuning set: its held-out rows are fixed.
const builtinSeed = 1

// The files of the built-in fine-tuning set in a run directory.
const (
	builtinTrain = "builtin_train.jsonl"
	builtinHeld  = "builtin_heldout.jsonl"
)

// builtinFiles writes the files of the built-in fine-tuning set that are not there yet. made are those, even beside an error.
func builtinFiles(fsys vfs.FS, dir string) (train, held []data.File, made []string, err error) {
	rows, heldOut := corpus.FineTune(builtinSeed)
	a, b := filepath.Join(dir, builtinTrain), filepath.Join(dir, builtinHeld)
	for _, f := range []struct {
		path string
		rows []corpus.Row
	}{{a, rows}, {b, heldOut}} {
		wrote, err := writeRows(fsys, f.path, f.rows)
		if wrote {
			made = append(made, f.path)
		}
		if err != nil {
			return nil, nil, made, err
		}
	}
	return []data.File{{Path: a}}, []data.File{{Path: b}}, made, nil
}

// writeRows writes the rows unless they are there. wrote says that a new file may stand at path.
func writeRows(fsys vfs.FS, path string, rows []corpus.Row) (wrote bool, err error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, r := range rows {
		if err := enc.Encode(map[string]string{"prompt": r.Prompt, "completion": r.Completion}); err != nil {
			return false, err
		}
	}
	switch info, err := fsys.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, withCode(config.ExitDisk, fmt.Errorf("built-in data: %w", err))
	default:
		return false, sameRows(fsys, path, info.Size(), b.Bytes())
	}
	if err := vfs.WriteAtomic(fsys, path, b.Bytes()); err != nil {
		return true, withCode(config.ExitDisk, fmt.Errorf("built-in data: %w", err))
	}
	return true, nil
}

// sameRows refuses a file that holds something else.
func sameRows(fsys vfs.FS, path string, size int64, want []byte) error {
	if size == int64(len(want)) {
		have, err := vfs.ReadFile(fsys, path, size)
		if err != nil {
			return withCode(config.ExitDisk, fmt.Errorf("built-in data: %w", err))
		}
		if bytes.Equal(have, want) {
			return nil
		}
	}
	return badConfig("out", "the file %s holds other rows than the built-in set, which would be written there; move it away, or name another directory", path)
}
