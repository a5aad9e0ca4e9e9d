package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/quantize"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// quantizeFlags are the flags of trainer quantize.
type quantizeFlags struct {
	quantize.Options
	storage, compute string
	threshold        float64
	ownThreshold     bool // --threshold is given
	data, prune      string
	report, json     bool
}

const quantizeLong = `Quantize a model: a safetensors file, or a Hugging Face folder as transformers with bitsandbytes loads it.

Schemes of bitsandbytes: nf4, fp4, int8. Its layout is written, quantization_config included, and the output head stays in full
precision. Other schemes, in a layout of this program that its commands read: int2 to int8 with group=N, channel or tensor and asym
(int4:group=128,asym), fp8_e4m3, fp8_e5m2, cb2 to cb6 (code books), blockwise8.`

func (p *program) quantize() *cobra.Command {
	var o quantizeFlags
	c := &cobra.Command{
		Use:     "quantize IN OUT --scheme nf4",
		Short:   "Quantize a safetensors file or a model folder",
		Long:    quantizeLong,
		Example: "  trainer quantize builtin:tiny tiny-nf4 --scheme nf4 --double --report\n  trainer quantize llama llama-int4 --scheme int4:group=128 --exclude o_proj --data text.txt",
		Args:    takes(2, 2, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.In, o.Out = args[0], args[1]
			o.ownThreshold = cmd.Flags().Changed("threshold")
			return p.runQuantize(cmd.Context(), &o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Scheme, "scheme", "", "nf4, fp4, int8, or another with its options, such as int4:group=128")
	f.IntVar(&o.Blocksize, "blocksize", 0, "elements that share a scale, for nf4 and fp4: 32 to 4096 (default 64)")
	f.BoolVar(&o.Double, "double", false, "quantize the scales of nf4 and fp4 too")
	f.StringVar(&o.storage, "storage", "u8", "element type under which 4-bit codes are stored: u8, f16, bf16, f32")
	f.StringVar(&o.compute, "compute", "", "bnb_4bit_compute_dtype to write: f32, bf16, f16 (default: that of the model)")
	f.Float64Var(&o.threshold, "threshold", 6, "llm_int8_threshold to write for int8; 0 = no outlier columns")
	f.StringArrayVar(&o.Exclude, "exclude", nil, "pattern of modules to keep in full precision: an ending, a path, or an expression; repeatable")
	f.BoolVar(&o.report, "report", false, "print bits and errors of every weight")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	f.StringVar(&o.data, "data", "", "file of rows or text: report the perplexity before and after")
	f.StringVar(&o.Calibration.Data, "calibrate", "", "file of rows or text: find the codes with the help of the model's activations on it")
	f.StringVar(&o.Calibration.Method, "method", "", "how: rtn, minmax, average, percentile, mse, entropy, smoothquant, awq, gptq (default with --calibrate: gptq)")
	f.StringVar(&o.prune, "prune", "", "set weights to zero first: magnitude:SHARE, row:SHARE, or N:M such as 2:4")
	executionFlags(f, &o.Calibration.Device, &o.Calibration.Execution)
	if err := c.MarkFlagRequired("scheme"); err != nil {
		fmt.Fprintln(p.err, err)
	}
	return c
}

func (p *program) runQuantize(ctx context.Context, o *quantizeFlags) error {
	var err error
	if o.Storage, err = dtypeFlag("storage", o.storage); err != nil {
		return err
	}
	if o.Compute, err = dtypeFlag("compute", o.compute); err != nil {
		return err
	}
	switch {
	case !o.ownThreshold:
	case !(o.threshold >= 0):
		return usage(fmt.Errorf("--threshold is %v, it must not be negative", o.threshold))
	case o.threshold == 0:
		o.Options.Threshold = -1
	default:
		o.Options.Threshold = float32(o.threshold)
	}
	if o.prune != "" {
		if o.Change, err = quantize.Prune(o.prune); err != nil {
			return err
		}
	}
	if p.terminal() {
		o.Progress = func(done, total int, name string) { fmt.Fprintf(p.err, "\r\x1b[K%d of %d  %.80q", done+1, total, name) }
	}
	if o.data != "" { // before the model is run for nothing
		folder, err := quantize.Check(o.Options)
		if err != nil {
			return err
		}
		if !folder {
			return usage(fmt.Errorf("--data can only be run through a model folder; %s is a file of weights", o.In))
		}
	}
	before, err := p.perplexity(ctx, o, o.In)
	if err != nil {
		return err
	}
	r, err := quantize.Run(ctx, o.Options)
	if p.terminal() {
		fmt.Fprint(p.err, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	r.Before = before
	if r.After, err = p.perplexity(ctx, o, o.Out); err != nil {
		return err
	}
	switch {
	case o.json:
		return p.json(r)
	case o.report || o.data != "":
		return r.WriteTable(p.out)
	}
	_, err = fmt.Fprintf(p.out, "%d weights in %s, %.3f bits each, %s -> %s\nwritten to %s\n", len(r.Layers), r.Scheme, r.Total.Bits,
		report.Bytes(r.Total.BytesBefore), report.Bytes(r.Total.BytesAfter), r.Out)
	return err
}

// perplexity evaluates a model on --data; nil without it.
func (p *program) perplexity(ctx context.Context, o *quantizeFlags, model string) (*quantize.Evaluation, error) {
	if o.data == "" {
		return nil, nil
	}
	m, err := trainer.MeasurePerplexity(ctx, trainer.PerplexityOptions{Model: model, Data: o.data, Device: o.Calibration.Device,
		Execution: o.Calibration.Execution})
	if err != nil {
		return nil, err
	}
	return &quantize.Evaluation{Loss: m.Loss, Perplexity: m.Perplexity, Tokens: m.Tokens}, nil
}

func (p *program) dequantize() *cobra.Command {
	var o quantize.DequantizeOptions
	var dtype string
	var asJSON bool
	c := &cobra.Command{
		Use:   "dequantize IN OUT",
		Short: "Write a quantized safetensors file or model folder in full precision",
		Long: `Write a quantized safetensors file or model folder in full precision.

Reads what trainer quantize and transformers with bitsandbytes write. The weights get the dtype that they were quantized from, or --dtype; what
quantizing lost does not come back.

  trainer dequantize ./model-nf4 ./model-bf16 --dtype bf16`,
		Args: takes(2, 2, ""),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.In, o.Out = args[0], args[1]
			if o.DType, err = dtypeFlag("dtype", dtype); err != nil {
				return err
			}
			d, err := quantize.Dequantize(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				return p.json(d)
			}
			_, err = fmt.Fprintf(p.out, "%d weights dequantized, %s -> %s\nwritten to %s\n", d.Weights, report.Bytes(d.BytesBefore),
				report.Bytes(d.BytesAfter), d.Out)
			return err
		},
	}
	c.Flags().StringVar(&dtype, "dtype", "", "of the weights: bf16, f16, f32 (default: what they were quantized from)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// dtypeFlag reads an element type; Invalid for an empty text.
func dtypeFlag(name, text string) (tensor.DType, error) {
	if text == "" {
		return tensor.Invalid, nil
	}
	d, ok := tensor.ParseDType(text)
	if !ok || d != tensor.U8 && !d.IsFloat() || d == tensor.F64 || d == tensor.U8 && name != "storage" {
		return d, usage(fmt.Errorf("--%s is %q, expected f32, bf16 or f16%s", name, text, map[bool]string{true: ", or u8"}[name == "storage"]))
	}
	return d, nil
}
