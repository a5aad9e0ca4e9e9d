package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/merge"
)

const mergeUsage = `Make one model of a base and a LoRA adapter.

Sums are formed in float32 and rounded once, to the dtype of the base or --dtype; a base that is stored quantized is dequantized first, and the
report says so. One weight at a time is in memory. How far rounding moved the weights is printed, and for --quantize the error of each
layer. The result is a Hugging Face folder with the adapter's tokenizer and chat template, else the base's.

  trainer merge --model ./model --adapter runs/first/adapter --out ./merged
  trainer merge --model ./model --adapter runs/first/adapter --out ./merged-nf4 --quantize nf4`

func (p *program) merge() *cobra.Command {
	var o merge.Options
	var dtype, size string
	var asJSON bool
	c := &cobra.Command{
		Use:   "merge --model PATH --adapter DIR --out DIR",
		Short: "Make one model of a base and a LoRA adapter, in full precision or quantized again",
		Long:  mergeUsage,
		Args:  takes(0, 0, "the model is given by --model, the result by --out"),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if dtype != "" {
				d, ok := tensor.ParseDType(dtype)
				if !ok {
					return usage(fmt.Errorf("--dtype is %q, expected f32, bf16 or f16", dtype))
				}
				o.DType = d
			}
			if size != "" {
				if o.ShardSize, err = config.ParseBytes(size); err != nil {
					return usage(fmt.Errorf("--shard-size: %w", err))
				}
			}
			if p.terminal() {
				o.Progress = func(done, total int, name string) { fmt.Fprintf(p.err, "\r\x1b[K%d of %d  %.80q", done+1, total, name) }
			}
			r, err := merge.Run(cmd.Context(), o)
			if p.terminal() {
				fmt.Fprint(p.err, "\r\x1b[K")
			}
			if err != nil {
				return err
			}
			if asJSON {
				return p.json(r)
			}
			return r.WriteText(p.out)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Model, "model", "", "the base, as in trainer finetune")
	f.Var(&once{to: &o.Adapter, why: "one adapter is merged at a time; merge the other into the result"}, "adapter", "directory of a LoRA adapter in PEFT's layout")
	f.StringVar(&o.Out, "out", "", "folder to make")
	f.StringVar(&dtype, "dtype", "", "f32, bf16 or f16; by default as the base is stored")
	f.StringVar(&size, "shard-size", "", "size from which on the weights are cut into several files (default 5GB)")
	f.StringVar(&o.Quantize.Scheme, "quantize", "", "quantize the merged model: a scheme of trainer quantize")
	f.IntVar(&o.Quantize.Blocksize, "blocksize", 0, "of nf4 and fp4 (default 64)")
	f.BoolVar(&o.Quantize.Double, "double", true, "quantize the scales of nf4 and fp4 too")
	f.BoolVar(&asJSON, "json", false, "print JSON, with every weight")
	return c
}
