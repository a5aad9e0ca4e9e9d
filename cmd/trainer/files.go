package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/verify"
)

// inputError is a bad file: exit code 3.
type inputError struct{ error }

// ExitCode is config.ExitInput.
func (inputError) ExitCode() int { return config.ExitInput }

// Unwrap returns the cause.
func (e inputError) Unwrap() error { return e.error }

const inspectUsage = `Show what a model, adapter, checkpoint or run holds: its kind and size, what its configuration says, and its tensors.

Takes a Hugging Face folder or the name of one in the local cache, a PEFT adapter, a safetensors, GGUF, llama2.c or gpt-nano file, a run,
or one checkpoint of it. Headers are read, no weights, but checkpoints are checked whole: what is damaged is named. --json has every
key of the configuration.

  trainer inspect runs/first
  trainer inspect model.gguf --json`

const verifyUsage = `Compare what a model computes with a file of stored values, made by another library: logits, losses, gradients, packed rows, routers, merged
adapters. Prints each tensor's largest absolute and relative difference beside its limit.

Exit code 0 within the limits; 1 beyond one, or for a tensor that is not known or cannot be computed; 3 for a bad file, or nothing compared.

  trainer verify --model ./model --against golden.safetensors`

func (p *program) inspect() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "inspect FILE|DIR",
		Short: "Show what a model, adapter, checkpoint or run holds",
		Long:  inspectUsage,
		Args:  takes(1, 1, ""),
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := checkpoint.Locate(vfs.OS{}, args[0])
			if err != nil {
				return inputError{err}
			}
			look := checkpoint.Inspect
			if gguf.Is(vfs.OS{}, path) {
				look = gguf.Inspect
			}
			info, err := look(vfs.OS{}, path)
			if err != nil {
				return inputError{err}
			}
			if asJSON {
				return p.json(info)
			}
			return info.WriteText(p.out)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (p *program) json(v any) error {
	enc := json.NewEncoder(p.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (p *program) verify() *cobra.Command {
	var o verify.Options
	var asJSON bool
	var dev string
	var x trainer.Execution
	c := &cobra.Command{
		Use:   "verify --model DIR --against golden.safetensors [--adapter DIR]",
		Short: "Compare logits, losses and gradients with stored ones",
		Long:  verifyUsage,
		Args:  takes(0, 0, "the model is given by --model, the stored values by --against"),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Device, err = x.Open(dev); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, o.Device.Close()) }()
			o.FS, o.Launch = vfs.OS{}, x.Launching()
			if !(o.Tol > 0) {
				return usage(fmt.Errorf("--tol is %v, it must be a positive factor", o.Tol))
			}
			r, err := verify.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				err = r.WriteJSON(p.out)
			} else {
				err = r.WriteTable(p.out)
			}
			if err == nil && !r.OK() {
				err = errSilent
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.Model, "model", "", "model directory or file")
	f.StringVar(&o.Adapter, "adapter", "", "adapter directory for merged_lora_logits; default MODEL/adapter_lora_final")
	f.StringVar(&o.Against, "against", "", "safetensors file of expected values")
	f.Float64Var(&o.Tol, "tol", 1, "scales the limits")
	executionFlags(f, &dev, &x)
	f.BoolVar(&asJSON, "json", false, "print JSON")
	for _, name := range []string{"model", "against"} {
		if err := c.MarkFlagRequired(name); err != nil {
			fmt.Fprintln(p.err, err)
		}
	}
	return c
}
