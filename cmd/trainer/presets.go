package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

func (p *program) presets() *cobra.Command {
	return &cobra.Command{
		Use:   "presets [NAME [FILE]]",
		Short: "List the commented configurations, print one, or copy it to a new file",
		Long: `List the commented configurations, print one, or copy it to a new file to be edited. preset:NAME in the place of a file uses one as it is.

  trainer presets
  trainer presets qlora run.yaml && trainer finetune run.yaml --model ./model
  trainer finetune preset:qlora --model ./model --data.path rows.jsonl`,
		Args: takes(0, 2, ""),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				for _, pr := range config.Presets() {
					fmt.Fprintf(p.out, "%-24s %s\n", pr.Name, pr.Summary)
				}
				return nil
			}
			pr, ok := config.FindPreset(args[0])
			if !ok {
				return usage(fmt.Errorf("there is no preset %q; `trainer presets` lists them", args[0]))
			}
			if len(args) == 1 {
				_, err := p.out.Write(pr.YAML)
				return err
			}
			return copyPreset(pr.YAML, args[1])
		},
	}
}

// copyPreset writes a file that must not exist yet: it may hold somebody's settings.
func copyPreset(yaml []byte, name string) error {
	fsys := vfs.OS{}
	if _, err := fsys.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			return usage(fmt.Errorf("%s exists already; name another file, or remove it", name))
		}
		return &diskError{err}
	}
	if err := vfs.WriteAtomic(fsys, name, yaml); err != nil {
		return &diskError{err}
	}
	return nil
}
