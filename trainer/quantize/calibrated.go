package quantize

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/calibrate"
)

// Calibration says how to quantize a model folder with the help of data. The zero value is none: round to nearest.
type Calibration struct {
	Data      string // file of rows or text to run the model on
	Method    string // of package calibrate; "" with Data = gptq
	Rows      int    // most rows to use; 0 = 128
	SeqLen    int    // longest row in tokens; 0 = 512, or the model's context if that is less
	Device    string // "" = auto
	Execution trainer.Execution
}

const calibrationRows = 128

// method is that of Calibration; there is none without data.
func (p *job) method(in *input) (calibrate.Method, error) {
	c := p.Calibration
	switch {
	case c.Data == "":
		return "", nil
	case in.dir == nil:
		return "", bad("calibrate", "data can only be run through a model folder; %s is a file of weights", p.In)
	case c.Method == "":
		return calibrate.GPTQ, nil
	}
	method, err := calibrate.ParseMethod(c.Method)
	if err != nil {
		return "", bad("method", "%s", strings.TrimPrefix(err.Error(), "calibrate: "))
	}
	return method, nil
}

// calibrate runs the model on data and takes over the weights that it quantized.
func (p *job) calibrate(ctx context.Context, in *input) (err error) {
	c := p.Calibration
	method, err := p.method(in)
	if err != nil {
		return err
	}
	dev, err := c.Execution.Open(c.Device)
	if err != nil {
		return err
	}
	store := plan.NewStore(dev)
	defer func() { err = errors.Join(err, store.Close(), dev.Close()) }()
	m, err := trainer.OpenModel(p.In, trainer.ModelOptions{FS: p.FS, Policy: layers.Policy{Compute: tensor.F32}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if n := m.Config().Mixture.Experts; n > 0 {
		return bad("method", "%s does not know mixtures of experts, and %s has %d experts in a layer; leave the method out", method, p.In, n)
	}
	if err := m.Source.Load(store); err != nil {
		return inputError{err}
	}
	if err := p.changeAll(m, store); err != nil {
		return err
	}
	rows := c.Rows
	if rows == 0 {
		rows = calibrationRows
	}
	o := calibrate.Options{Model: m.Model, Store: store, Launch: c.Execution.Launching(), Method: method, Format: p.format, Parallel: quant.Parallel, Progress: p.Progress, KeepZeros: p.Change != nil,
		Keep: func(name string) bool { return !p.weights[name] }}
	if o.Rows, err = m.TokenRows(ctx, c.Data, c.SeqLen, rows); err != nil {
		return err
	}
	r, err := calibrate.Run(ctx, o)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return inputError{err}
	}
	p.Method, p.states, p.dense, p.notes = string(method), r.States, r.Dense, map[string]calibrate.Layer{}
	for _, l := range r.Layers {
		p.notes[l.Name] = l
	}
	return nil
}

// changeAll applies Options.Change to the weights that calibration sees.
func (p *job) changeAll(m *trainer.Model, store *plan.Store) error {
	if p.Change == nil {
		return nil
	}
	for _, param := range layers.Params(m.Model) {
		if param.Var == nil || !p.weights[param.Name] {
			continue
		}
		w, err := store.Get(param.Var)
		if err != nil {
			return err
		}
		if w, err = p.Change(param.Name, w); err != nil {
			return err
		}
		if err := store.Set(param.Var, w); err != nil {
			return err
		}
	}
	return nil
}

// refuseUnplaced checks that everything that calibration changed has a tensor to go to: scales that went into a bias that the model does
// not store would be lost.
func (p *job) refuseUnplaced(in *input) error {
	names := in.reader().Names()
	for name := range p.dense {
		if !slices.Contains(names, name) {
			return inputError{&checkpoint.FormatError{File: p.In, Tensor: name, Reason: p.Method + " changed it, and the model does not store it",
				Remedy: "use another method"}}
		}
	}
	return nil
}

// calibrated takes from calibration what it alone can tell: errors on the layer's outputs, and the range of its inputs.
func (l *Layer) calibrated(c calibrate.Layer) {
	l.OutputError, l.Nearest, l.Note = c.OutputError, c.Nearest, c.Note
	if c.Ratio != 0 {
		l.Note = fmt.Sprintf("scaled, exponent %.2f", c.Ratio)
	}
	if a := c.Activation; a.Lo < a.Hi {
		l.Input = &Grid{Lo: a.Lo, Hi: a.Hi, Step: c.Params.Step, Zero: c.Params.Zero}
	}
}
