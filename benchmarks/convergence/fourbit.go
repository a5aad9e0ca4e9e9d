package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// fewBits are the formats compared, by the names that quant.ParseFormat reads.
var fewBits = []string{
	"nf4", "nf4:double", "fp4", "int4:group=64", "int4:group=64,asym", "int4:channel", "cb3", "int3:group=64", "cb3:fit", "cb2", "cb2:fit", "int2:group=64,asym",
	"cb5", "cb6", "int8", "fp8_e4m3", "fp8_e5m2", "blockwise8",
}

// weightError sums what quantization changes.
type weightError struct {
	bits, elements, diff, square, dot, back float64
}

func (w *weightError) add(f quant.Format, x, y *tensor.Tensor) {
	n := float64(x.Shape().Size())
	w.elements += n
	w.bits += n * f.BitsPerWeight(x.Shape())
	a, b := tensor.Data[float32](x), tensor.Data[float32](y)
	for i := range a {
		p, q := float64(a[i]), float64(b[i])
		w.diff += (p - q) * (p - q)
		w.square += p * p
		w.dot += p * q
		w.back += q * q
	}
}

func (w *weightError) relative() float64 { return math.Sqrt(w.diff / w.square) }

// passed is a tensor after it was quantized and read back.
func passed(f quant.Format, x *tensor.Tensor, w *weightError) (*tensor.Tensor, error) {
	st, err := quant.QuantizeTensor(x, f, quant.Options{})
	if err != nil {
		return nil, err
	}
	y, err := st.Dequantize(tensor.F32)
	if err == nil {
		w.add(f, x, y)
	}
	return y, err
}

// gaussian is a matrix of normal numbers, what NF4 is made for.
func gaussian(n int) *tensor.Tensor {
	t := tensor.New(tensor.T(tensor.F32, n, n))
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range tensor.Data[float32](t) {
		tensor.Data[float32](t)[i] = float32(rng.NormFloat64())
	}
	return t
}

func runFourBit(ctx context.Context, e *env, p *page) error {
	t, err := openText()
	if err != nil {
		return err
	}
	plain, err := evaluation{}.perplexity(ctx, e, t)
	if err != nil {
		return err
	}
	normal := gaussian(e.pick(1024, 128))
	p.say("The linear layers of the built-in model, quantized without calibration and read back; its perplexity on held-out text of its "+
		"grammar is %.4f in float32. The error is ‖W - W'‖/‖W‖, over those layers and over a matrix of normal numbers.", plain)
	chart := report.Chart{Title: "Error against storage", XLabel: "bits a weight, scales included", YLabel: "relative error of the weights", LogY: true}
	points := report.Series{Dots: true}
	var rows [][]string
	for _, name := range fewBits[:e.pick(len(fewBits), 3)] {
		f, err := quant.ParseFormat(name)
		if err != nil {
			return err
		}
		var model, random weightError
		if _, err := passed(f, normal, &random); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		ppl, err := evaluation{weights: func(tensorName string, x *tensor.Tensor) (*tensor.Tensor, error) {
			if !strings.HasSuffix(tensorName, "_proj.weight") {
				return x, nil
			}
			return passed(f, x, &model)
		}}.perplexity(ctx, e, t)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		bits := model.bits / model.elements
		e.log("%s: %.3f bits, error %.4f, perplexity %.4f", name, bits, model.relative(), ppl)
		rows = append(rows, []string{"`" + name + "`", fmt.Sprintf("%.3f", bits), fmt.Sprintf("%.4f", random.relative()), fmt.Sprintf("%.4f", model.relative()),
			fmt.Sprintf("%.4f", ppl), fmt.Sprintf("%+.2f%%", 100*(ppl/plain-1))})
		points.X, points.Y, points.Labels = append(points.X, bits), append(points.Y, model.relative()), append(points.Labels, name)
	}
	chart.Series = []report.Series{points}
	p.table([]string{"format", "bits a weight", "error, normal numbers", "error, model", "perplexity", "against float32"}, rows)
	return p.picture("error", chart)
}
