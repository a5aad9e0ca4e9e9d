// Command quantize stores the linear layers of a model in six formats of few bits, and shows what each costs: bits a weight, the error
// of the weights, and the perplexity of the model on a text.
//
//	go run ./examples/quantize                                    # the built-in model on text of its own
//	go run ./examples/quantize -model DIR -text book.txt -out DIR
//	go run ./examples/quantize -formats nf4,nf4:block=256,int3:group=32,fp8_e4m3
//
// `trainer quantize` writes such a model to disk.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu" // a backend for device.Open to choose
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

func main() {
	var o options
	flag.StringVar(&o.model, "model", "builtin:tiny", "Hugging Face directory, llama2.c file, or built-in model")
	flag.StringVar(&o.text, "text", "", "file of text to measure perplexity on; of the built-in grammar if empty")
	flag.StringVar(&o.formats, "formats", "int8,cb6,nf4:double,fp4:double,int4:group=64,cb3:fit", "formats to compare, as quant.ParseFormat reads them;\na comma before a word without a format's name belongs to the format before it")
	flag.StringVar(&o.out, "out", "", "folder for quantize.png; a temporary one if empty")
	small := flag.Bool("small", false, "a little text only")
	flag.Parse()
	if o.windows = 48; *small {
		o.windows = 6
	}
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "quantize:", err)
		os.Exit(1)
	}
}

// options of a run.
type options struct {
	model, text, formats, out string
	windows                   int // pieces of the text
}

func run(ctx context.Context, o options) (err error) {
	formats, err := parseFormats(o.formats)
	if err != nil {
		return err
	}
	dev, err := device.Open("auto")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	m, err := openMeasure(ctx, dev, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	plain, err := m.perplexity(nil)
	if err != nil {
		return err
	}
	fmt.Printf("%-22s %9s %9s %9s %11s\n%-22s %9s %9s %9s %11.4f\n", "format", "bits", "error", "cosine", "perplexity", "as stored", "-", "-", "-", plain)
	points := report.Series{Dots: true}
	for _, f := range formats {
		var e weightError
		ppl, err := m.perplexity(func(w weight) (weight, error) { return e.pass(f, w) })
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		fmt.Printf("%-22s %9.3f %9.4f %9.5f %11.4f\n", f.Name(), e.bits/e.elements, e.relative(), e.cosine(), ppl)
		points.X, points.Y, points.Labels = append(points.X, e.bits/e.elements), append(points.Y, e.relative()), append(points.Labels, f.Name())
	}
	if o.out == "" {
		if o.out, err = os.MkdirTemp("", "quantize"); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(o.out, 0o777); err != nil {
		return err
	}
	path := filepath.Join(o.out, "quantize.png")
	fmt.Println("picture:", path)
	return report.Chart{Title: "Linear layers of " + o.model, XLabel: "bits a weight, scales included", YLabel: "relative error of the weights", LogY: true,
		Series: []report.Series{points}}.Write(path)
}

// parseFormats reads a list of formats whose own options may hold commas: a piece that is no format belongs to the one before it.
func parseFormats(list string) (out []quant.Format, err error) {
	var names []string
	for _, piece := range strings.Split(list, ",") {
		name, _, _ := strings.Cut(piece, ":")
		if _, err := quant.ParseFormat(name); err != nil && len(names) > 0 {
			names[len(names)-1] += "," + piece
			continue
		}
		names = append(names, piece)
	}
	for _, name := range names {
		f, err := quant.ParseFormat(name)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// weightError sums over weights what a format changes.
type weightError struct{ elements, bits, diff, before, after, product float64 }

func (e *weightError) relative() float64 { return math.Sqrt(e.diff / e.before) }
func (e *weightError) cosine() float64   { return e.product / math.Sqrt(e.before*e.after) }
