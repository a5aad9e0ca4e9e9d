package main

import (
	"context"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// stateFormat is how a simulated Adam keeps its moments between steps.
type stateFormat struct {
	name      string
	linear    bool // evenly spaced codes instead of the dynamic map
	block     int  // elements a scale; 0: one scale a tensor
	full      bool // 32 bits
	stableEmb bool // stable embedding, whose states are in 32 bits
}

// ablated follows table 3 of arXiv 2110.02861.
var ablated = []stateFormat{
	{name: "32-bit", full: true},
	{name: "32-bit + stable embedding", full: true, stableEmb: true},
	{name: "8-bit linear", linear: true},
	{name: "8-bit linear + stable embedding", linear: true, stableEmb: true},
	{name: "8-bit dynamic"},
	{name: "8-bit dynamic + stable embedding", stableEmb: true},
	{name: "8-bit dynamic, blockwise", block: 256},
	{name: "8-bit dynamic, blockwise + stable embedding", block: 256, stableEmb: true},
}

// adamPoint is one choice of hyperparameters.
type adamPoint struct{ lr, beta1, beta2, eps float64 }

func adamGrid(e *env) (out []adamPoint) {
	for _, lr := range []float64{2e-3, 6e-3, 2e-2} {
		for _, b := range [][2]float64{{0.9, 0.999}, {0.87, 0.99}, {0.93, 0.98}} {
			for _, eps := range []float64{1e-8, 1e-6} {
				out = append(out, adamPoint{lr, b[0], b[1], eps})
			}
		}
	}
	return out[:e.pick(len(out), 1)]
}

// simulatedAdam is Adam whose moments pass through a format after each step, as they do in the 8-bit kernels: the update itself uses
// the moments before they are rounded.
func simulatedAdam(f stateFormat, h adamPoint) updater {
	return func(g *graph.Graph, params []*graph.Var, grads []graph.Value, lr graph.Value) error {
		count := graph.NewVar("sim.step", tensor.T(tensor.F32))
		step := ops.AddScalar(g.Read(count), 1)
		g.Write(count, step)
		correction := func(beta float64) graph.Value {
			return ops.Sub(ops.Scalar(step, 1), ops.Pow(ops.Scalar(step, beta), step))
		}
		c1, c2 := correction(h.beta1), ops.Sqrt(correction(h.beta2))
		for i, v := range params {
			m, s := graph.NewVar("sim.m."+v.Name, v.Type), graph.NewVar("sim.v."+v.Name, v.Type)
			m1 := ops.Add(ops.Scale(g.Read(m), h.beta1), ops.Scale(grads[i], 1-h.beta1))
			s1 := ops.Add(ops.Scale(g.Read(s), h.beta2), ops.Scale(ops.Square(grads[i]), 1-h.beta2))
			move := ops.Div(ops.Div(m1, c1), ops.AddScalar(ops.Div(ops.Sqrt(s1), c2), h.eps))
			g.Write(v, ops.Sub(g.Read(v), ops.Mul(lr, move)))
			ff := f
			ff.full = f.full || (f.stableEmb && v.Type.Rank() == 2 && v == params[0])
			g.Write(m, ff.round(m1, false))
			g.Write(s, ff.round(s1, true))
		}
		return g.Err()
	}
}

// round is x after it was stored and read back.
func (f stateFormat) round(x graph.Value, unsigned bool) graph.Value {
	if f.full {
		return x
	}
	if !f.linear {
		block := f.block
		if block == 0 {
			block = max(x.Type().Size(), 1)
		}
		codes, absmax := ops.QuantizeTo8(ops.Quantize8{Blocksize: block, Unsigned: unsigned, Moment: !unsigned}, x)
		return ops.DequantizeFrom8(codes, absmax, block, unsigned)
	}
	levels := 127.0
	if unsigned {
		levels = 255
	}
	top := ops.MaxOf(ops.Abs(x))
	safe := ops.Where(ops.Greater(top, ops.Scalar(top, 0)), top, ops.Scalar(top, 1))
	code := ops.Floor(ops.AddScalar(ops.Scale(ops.Div(x, safe), levels), 0.5))
	return ops.Mul(ops.Scale(code, 1/levels), safe)
}

// unstable says whether a run failed: its loss is not finite, or it ends half a nat or more above its best stretch.
func unstable(r lmResult) bool {
	const window, limit = 10, 0.5
	if math.IsNaN(r.held) || math.IsInf(r.held, 0) {
		return true
	}
	best, last := math.Inf(1), 0.0
	for i := window; i <= len(r.losses); i += window {
		last, _ = stats(r.losses[i-window : i])
		best = min(best, last)
	}
	return last > best+limit || r.held > best+limit
}

func runAblation(ctx context.Context, e *env, p *page) error {
	t, err := openText()
	if err != nil {
		return err
	}
	grid, steps := adamGrid(e), e.pick(200, 20)
	p.say("Table 3 of the paper of 8-bit optimizers (arXiv 2110.02861) on a small scale: the model and text of [optimizers](optimizers.md), %d "+
		"steps, Adam with %d choices of learning rate, betas and epsilon. The moments pass through the named format after each step. A run is "+
		"*unstable* when its loss is not finite or ends half a nat or more above its best stretch. The embedding of the stable variants has Xavier "+
		"initialisation, layer normalisation and 32-bit states.", steps, len(grid))
	chart := report.Chart{Title: fmt.Sprintf("Training loss at lr %g, betas (%g, %g), eps %g", grid[0].lr, grid[0].beta1, grid[0].beta2, grid[0].eps),
		XLabel: "step", YLabel: "loss, nats a token"}
	var rows [][]string
	for _, f := range ablated {
		bad := 0
		var held []float64
		for i, h := range grid {
			r := lmRun{text: t, seed: 1, steps: steps, lr: h.lr, stable: f.stableEmb, update: simulatedAdam(f, h)}
			res, err := r.train(ctx, e.dev)
			if err != nil {
				return fmt.Errorf("%s, %+v: %w", f.name, h, err)
			}
			if unstable(res) {
				bad++
			} else {
				held = append(held, res.held)
			}
			if i == 0 && len(res.losses) > 2*8 {
				chart.Series = append(chart.Series, meanCurve(f.name, [][]float64{capped(res.losses)}))
			}
			e.log("%s %+v: held-out loss %.4f unstable %v", f.name, h, res.held, unstable(res))
		}
		mean, best := "", ""
		if len(held) > 0 {
			mean, best = plusMinus(held, 3), fmt.Sprintf("%.3f", smallest(held))
		}
		rows = append(rows, []string{f.name, fmt.Sprintf("%.0f%% (%d of %d)", 100*float64(bad)/float64(len(grid)), bad, len(grid)), mean, best})
	}
	p.table([]string{"optimizer", "unstable runs", "held-out loss of the stable runs, mean ± std", "best"}, rows)
	return p.picture("loss", chart)
}

// capped bounds losses so that a diverged run leaves the others visible.
func capped(losses []float64) []float64 {
	const top = 12
	out := make([]float64, len(losses))
	for i, l := range losses {
		if out[i] = l; !(l < top) {
			out[i] = top
		}
	}
	return out
}

func smallest(v []float64) float64 {
	best := math.Inf(1)
	for _, x := range v {
		best = min(best, x)
	}
	return best
}
