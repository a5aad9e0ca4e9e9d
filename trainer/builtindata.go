package trainer

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// builtinSeed is the seed of the built-in fine-tuning set: its held-out rows are fixed.
const builtinSeed = 1

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
