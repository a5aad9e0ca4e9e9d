package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bitsandbyes/bitsandbyes/checkpoint/llamacpp"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

const exportLong = `Write a model as a GGUF file, which llama.cpp and what is built on it load.

The file has the weights in one of the formats below (norms, biases and routers in F32), the tokenizer and the chat template. With --adapter,
the adapter is merged into the weights first; with --lora beside it, the adapter alone is written, for llama.cpp to put on the model.
What llama.cpp would compute differently from the model is refused by name, or told where it concerns long texts only.`

func (p *program) export() *cobra.Command {
	var o trainer.ExportOptions
	var asJSON bool
	c := &cobra.Command{
		Use:     "export --model PATH --out FILE.gguf",
		Short:   "Write a model or an adapter as a GGUF file",
		Long:    exportLong,
		Example: "  trainer export --model llama --adapter runs/a/adapter --out llama.gguf --type q8_0\n  trainer export --model llama --adapter runs/a/adapter --lora --out adapter.gguf",
		Args:    takes(0, 0, "the model is given by --model, the file by --out"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := trainer.Export(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				return p.json(r)
			}
			for _, w := range r.Warnings {
				fmt.Fprintln(p.err, "warning:", w)
			}
			fmt.Fprintf(p.out, "%s: architecture %s, %d tensors, %d elements, %s\n", o.Out, r.Architecture, r.Tensors, r.Elements, report.Bytes(r.Bytes))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.Model, "model", "", "Hugging Face directory or name, GGUF file, llama2.c file or its folder, builtin:tiny")
	f.Var(&once{to: &o.Adapter, why: "one adapter is written at a time; merge both with `trainer merge` first"}, "adapter", "directory of a LoRA adapter in PEFT's layout, to be merged")
	f.StringVar(&o.Out, "out", "", "file to make; it must not exist")
	f.StringVar(&o.Type, "type", "", "format of the matrices: "+strings.ToLower(ggml.Names(llamacpp.ExportTypes()))+" (default f16; of an adapter f32)")
	f.StringVar(&o.Name, "name", "", "name of the model in the file (default: that of its file or folder)")
	f.BoolVar(&o.LoRA, "lora", false, "write the adapter alone")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	for _, name := range []string{"model", "out"} {
		if err := c.MarkFlagRequired(name); err != nil {
			fmt.Fprintln(p.err, err)
		}
	}
	return c
}
