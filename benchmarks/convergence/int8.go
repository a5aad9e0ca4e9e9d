package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// outlierDims are the features that get large activations, in every layer as in large models (arXiv 2208.07339, section 4).
var outlierDims = []int{5, 40, 77, 101}

// plant makes the features outlierDims of each normalised input `by` times as large, and the weights that read them as much smaller: the
// model's function stays, its activations get columns that stand out.
func plant(by float32) func(name string, t *tensor.Tensor) (*tensor.Tensor, error) {
	return func(name string, t *tensor.Tensor) (*tensor.Tensor, error) {
		x := tensor.Data[float32](t)
		switch {
		case strings.HasSuffix(name, "_layernorm.weight"):
			for _, d := range outlierDims {
				x[d] *= by
			}
		case readsNorm(name):
			cols := t.Type().Dim(1)
			for i := 0; i < len(x); i += cols {
				for _, d := range outlierDims {
					x[i+d] /= by
				}
			}
		}
		return t, nil
	}
}

func readsNorm(name string) bool {
	for _, p := range []string{"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"} {
		if strings.HasSuffix(name, p+".weight") {
			return true
		}
	}
	return false
}

// rounded is a linear layer whose input and weight are rounded to 8 bits with one scale a tensor or one a row.
type rounded struct {
	*layers.Linear
	inputRows, weightRows bool
}

// Forward implements layers.Projection.
func (l *rounded) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return ops.Linear(round8(x, l.inputRows), round8(x.Graph().Read(l.Weight), l.weightRows))
}

// round8 is x rounded to 255 even levels up to the largest magnitude of the tensor, or of each row.
func round8(x graph.Value, rows bool) graph.Value {
	top := ops.MaxOf(ops.Abs(x))
	if rows {
		dims := x.Shape().Dims()
		dims[len(dims)-1] = 1
		top = ops.Reshape(ops.MaxOf(ops.Abs(x), -1), dims...)
	}
	step := ops.Scale(ops.Where(ops.Greater(top, ops.Scalar(top, 0)), top, ops.Scalar(top, 1)), 1.0/127) // zeros stay zero
	return ops.Mul(ops.Floor(ops.AddScalar(ops.Div(x, step), 0.5)), step)
}

// int8Ways are the rows of table 1 of arXiv 2208.07339 that this experiment has.
func int8Ways() []struct {
	name string
	eval evaluation
} {
	simulated := func(inputRows, weightRows bool) evaluation {
		return evaluation{replace: func(_ string, p layers.Projection) layers.Projection {
			if l, ok := p.(*layers.Linear); ok {
				return &rounded{l, inputRows, weightRows}
			}
			return p
		}}
	}
	library := func(threshold float32) evaluation {
		return evaluation{options: layers.Options{Quantize: func(string) (quant.Config, bool) {
			return quant.Config{Scheme: quant.Int8, Threshold: threshold}, true
		}}}
	}
	return []struct {
		name string
		eval evaluation
	}{
		{"float32", evaluation{}},
		{"int8 absmax (a scale a tensor)", simulated(false, false)},
		{"int8 row-wise (a scale a row of the input)", simulated(true, false)},
		{"int8 vector-wise (`Linear8bitLt`, threshold 0)", library(0)},
		{"LLM.int8() (`Linear8bitLt`, threshold 6)", library(6)},
	}
}

func runInt8(ctx context.Context, e *env, p *page) error {
	t, err := openText()
	if err != nil {
		return err
	}
	factors := []float32{1, 10, 30, 100, 300}[:e.pick(5, 2)]
	p.say("Table 1 of the paper of LLM.int8() (arXiv 2208.07339) in spirit. Small models have no outlier features, so they are planted: features %v "+
		"of every normalised input are multiplied by the factor and the weights that read them divided by it, which leaves the model's function as "+
		"it is. Perplexity of the built-in model on held-out text of its grammar.", outlierDims)
	head := []string{"products in"}
	for _, f := range factors {
		head = append(head, fmt.Sprintf("outliers × %g", f))
	}
	chart := report.Chart{Title: "Perplexity with planted outlier features", XLabel: "size of the outliers", YLabel: "perplexity", LogX: true, LogY: true,
		LegendLeft: true}
	var rows [][]string
	for _, w := range int8Ways() {
		row, s := []string{w.name}, report.Series{Name: strings.ReplaceAll(w.name, "`", "")}
		for _, f := range factors {
			v := w.eval
			v.weights = plant(f)
			ppl, err := v.perplexity(ctx, e, t)
			if err != nil {
				return fmt.Errorf("%s at %g: %w", w.name, f, err)
			}
			e.log("%s × %g: perplexity %.4f", w.name, f, ppl)
			row = append(row, fmt.Sprintf("%.3f", ppl))
			s.X, s.Y = append(s.X, float64(f)), append(s.Y, ppl)
		}
		rows, chart.Series = append(rows, row), append(chart.Series, s)
	}
	p.table(head, rows)
	return p.picture("perplexity", chart)
}
