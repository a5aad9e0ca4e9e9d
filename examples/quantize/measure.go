package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

const window = 128 // tokens that are scored together

// measure holds a model in float32, compiled to score windows of a text.
type measure struct {
	ctx          context.Context
	model        *trainer.Model
	session      *plan.Session
	plan         *plan.Plan
	tokens, loss graph.Value
	next         graph.Value
	ids          []int32
	windows      int
	linear       []weight // the weights that are quantized, as the file has them
}

// weight is a variable and its value.
type weight struct {
	v     *graph.Var
	value *tensor.Tensor
}

func openMeasure(ctx context.Context, dev device.Device, o options) (*measure, error) {
	mo := trainer.ModelOptions{Policy: layers.Policy{Param: tensor.F32}}
	model, err := trainer.OpenModel(o.model, mo)
	if err != nil {
		return nil, err
	}
	m := &measure{ctx: ctx, model: model, windows: o.windows, session: plan.NewSession(plan.NewStore(dev))}
	return m, errors.Join(m.readText(o.text), m.compile(dev), m.load())
}

func (m *measure) close() error {
	var err error
	if m.plan != nil {
		err = m.plan.Close()
	}
	return errors.Join(err, m.session.Close(), m.model.Close())
}

// readText encodes the text: a file, or documents of the built-in grammar.
func (m *measure) readText(path string) error {
	var text strings.Builder
	if path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text.Write(raw)
	} else {
		for doc := range corpus.Generate(5, 8*m.windows) {
			text.WriteString(doc + "\n")
		}
	}
	if m.model.Tokenizer == nil {
		return errors.New("the model has no tokenizer beside it")
	}
	var err error
	m.ids, err = m.model.Tokenizer.Encode(text.String())
	if err == nil && len(m.ids) <= window {
		err = fmt.Errorf("the text has %d tokens, at least %d are needed", len(m.ids), window+1)
	}
	return err
}

func (m *measure) compile(dev device.Device) error {
	g := graph.New("perplexity")
	t := tensor.T(tensor.I32, 1, window)
	m.tokens, m.next = g.Input("tokens", t), g.Input("next", t)
	hidden := m.model.Hidden(models.Inputs{Tokens: m.tokens, Pos: ops.Iota(g, t, 1)})
	m.loss = ops.Mean(m.model.TokenLoss(hidden, m.next))
	var err error
	m.plan, err = plan.Compile([]graph.Value{m.loss}, plan.Options{Device: dev, Session: m.session})
	return err
}

// load reads the weights and keeps those of linear layers.
func (m *measure) load() error {
	if err := m.model.Source.Load(m.session.Store()); err != nil {
		return err
	}
	var err error
	layers.Modules(m.model.Model, func(path string, p layers.Projection, _ func(layers.Projection)) {
		l, ok := p.(*layers.Linear)
		if !ok || path == "lm_head" || err != nil {
			return
		}
		w := weight{v: l.Weight}
		w.value, err = m.session.Store().Get(l.Weight)
		m.linear = append(m.linear, w)
	})
	return err
}

// perplexity is exp of the mean loss of the text, with every linear weight passed through f first; nil: as they are.
func (m *measure) perplexity(f func(weight) (weight, error)) (float64, error) {
	for _, w := range m.linear {
		if f != nil {
			var err error
			if w, err = f(w); err != nil {
				return 0, fmt.Errorf("%s: %w", w.v.Name, err)
			}
		}
		if err := m.session.Store().Set(w.v, w.value); err != nil {
			return 0, err
		}
	}
	n, sum := min(m.windows, (len(m.ids)-1)/window), 0.0
	for i := range n {
		x, err1 := tensor.Of(m.ids[i*window:(i+1)*window], 1, window)
		y, err2 := tensor.Of(m.ids[i*window+1:(i+1)*window+1], 1, window)
		if err := errors.Join(err1, err2); err != nil {
			return 0, err
		}
		out, err := m.plan.Run(m.ctx, plan.Feed{m.tokens: x, m.next: y})
		if err != nil {
			return 0, err
		}
		sum += out.Float(m.loss) / float64(n)
	}
	return math.Exp(sum), nil
}

// pass quantizes a weight, reads it back, and counts what changed.
func (e *weightError) pass(f quant.Format, w weight) (weight, error) {
	st, err := quant.QuantizeTensor(w.value, f, quant.Options{})
	if err != nil {
		return w, err
	}
	back, err := st.Dequantize(tensor.F32)
	if err != nil {
		return w, err
	}
	n := float64(w.value.Shape().Size())
	e.elements += n
	e.bits += n * f.BitsPerWeight(w.value.Shape())
	for i, a := range tensor.Data[float32](w.value) {
		p, q := float64(a), float64(tensor.Data[float32](back)[i])
		e.diff += (p - q) * (p - q)
		e.before += p * p
		e.after += q * q
		e.product += p * q
	}
	return weight{w.v, back}, nil
}
