package optim

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// EMAOptions of an EMA.
type EMAOptions struct {
	Name   string  // begins the variables' names; "" is "ema"
	Decay  float64 // what is kept of the average at an update, in (0, 1), such as 0.999
	Warmup bool    // update t, from 0, keeps min(Decay, (1+t)/(10+t)), so that early weights are soon forgotten
	// Biased begins the average as the first weights, which then weigh Decay^t. Otherwise the weights of all updates have the
	// weights of Adam's bias-corrected moments: (1-Decay)·Decay^age, divided by their sum.
	Biased bool
}

// EMA is an exponential moving average of a group's parameters (Polyak and Juditsky 1992), in float32 slabs of the parameters'
// layout. The average is kept already corrected for its bias, so that it can take the parameters' place as it is.
type EMA struct {
	o       EMAOptions
	params  []*graph.Var // slabs
	average []*graph.Var
	aside   []*graph.Var // the parameters meanwhile, where the average is of another dtype; nil where the two are exchanged
	updates *graph.Var
	weight  *graph.Var // sum of the weights so far, 1 - the product of the decays
}

// NewEMA averages the parameters of a group.
func NewEMA(gr *Group, o EMAOptions) (*EMA, error) {
	if gr == nil || len(gr.ParamSlabs()) == 0 || gr.ParamSlabs()[0] == nil {
		return nil, errors.New("optim: an average needs a group made by NewGroup, whose parameters lie in slabs")
	}
	if !(o.Decay > 0 && o.Decay < 1) {
		return nil, fmt.Errorf("optim: the decay %v of the average must be above 0 and below 1, such as 0.999", o.Decay)
	}
	if o.Name == "" {
		o.Name = "ema"
	}
	e := &EMA{o: o, params: gr.ParamSlabs(), updates: graph.NewVar(o.Name+".updates", tensor.T(tensor.F32)),
		weight: graph.NewVar(o.Name+".weight", tensor.T(tensor.F32))}
	for _, p := range e.params {
		e.average = append(e.average, graph.NewVar(o.Name+"."+p.Name, tensor.Type{DType: tensor.F32, Shape: p.Type.Shape}))
		var aside *graph.Var
		if p.Type.DType != tensor.F32 {
			aside = graph.NewVar(o.Name+".aside."+p.Name, p.Type)
		}
		e.aside = append(e.aside, aside)
	}
	return e, nil
}

// Vars returns the variables to save. They must not be saved between Enter and Leave.
func (e *EMA) Vars() []*graph.Var {
	return append(append([]*graph.Var{}, e.average...), e.updates, e.weight)
}

// Update takes the parameters' present values into the average: put it in a graph that runs after that of the optimizer's update. The result is the number
// of updates with this one, a float32 scalar.
func (e *EMA) Update(g *graph.Graph) graph.Value {
	defer within(g, graph.Update, "average")()
	n, w := g.Read(e.updates), g.Read(e.weight)
	one := ops.Fill(g, tensor.F32, 1)
	keep, take := ops.Scalar(n, e.o.Decay), ops.Scalar(n, 1-e.o.Decay)
	if e.o.Warmup {
		early := ops.Div(ops.AddScalar(n, 1), ops.AddScalar(n, 10))
		take = ops.Where(ops.Less(early, keep), ops.Sub(one, early), take)
		keep = ops.Min(keep, early)
	}
	w1 := ops.Add(ops.Mul(keep, w), take)
	rate := ops.Div(take, w1)
	if e.o.Biased {
		w1, rate = one, ops.Where(ops.Equal(n, ops.Scalar(n, 0)), one, take)
	}
	for i, p := range e.params {
		avg := g.Read(e.average[i])
		g.Write(e.average[i], ops.Add(avg, ops.Mul(rate, ops.Sub(ops.Cast(g.Read(p), tensor.F32), avg))))
	}
	n1 := ops.Add(n, one)
	g.Write(e.updates, n1)
	g.Write(e.weight, w1)
	return n1
}

// Enter puts the average in the parameters' place, and the parameters aside. Before the first update there is no average, so the
// parameters stay; enter and leave are still a pair. The result is the number of updates.
func (e *EMA) Enter(g *graph.Graph) graph.Value {
	defer within(g, graph.Update, "average")()
	n := g.Read(e.updates)
	has := ops.Greater(n, ops.Scalar(n, 0))
	for i, p := range e.params {
		was, avg := g.Read(p), g.Read(e.average[i])
		some := ops.BroadcastTo(has, p.Type.Shape.Dims()...)
		g.Write(p, ops.Where(some, ops.Cast(avg, p.Type.DType), was))
		if e.aside[i] != nil {
			g.Write(e.aside[i], was)
		} else {
			g.Write(e.average[i], ops.Where(some, was, avg))
		}
	}
	return n
}

// Leave undoes Enter, bit for bit. The result is the number of updates.
func (e *EMA) Leave(g *graph.Graph) graph.Value {
	defer within(g, graph.Update, "average")()
	n := g.Read(e.updates)
	has := ops.Greater(n, ops.Scalar(n, 0))
	for i, p := range e.params {
		if e.aside[i] != nil {
			g.Write(p, g.Read(e.aside[i]))
			continue
		}
		avg, was := g.Read(p), g.Read(e.average[i])
		some := ops.BroadcastTo(has, p.Type.Shape.Dims()...)
		g.Write(p, ops.Where(some, was, avg))
		g.Write(e.average[i], ops.Where(some, avg, was))
	}
	return n
}
