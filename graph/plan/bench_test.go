package plan_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// llama is a LoRA fine-tuning step of the shape of Llama's decoder, with narrow matrices: what is measured is planning.
type llama struct {
	g     *graph.Graph
	train []*graph.Var
}

const (
	llamaDim, llamaHeads, llamaKV, llamaHidden, llamaRank = 64, 4, 2, 128, 8
	llamaRows, llamaLen, llamaVocab                       = 2, 32, 256
)

func (l *llama) weight(name string, dims ...int) graph.Value {
	return l.g.Read(graph.NewVar(name, tensor.T(tensor.F32, dims...)))
}

// lora is x·Wᵀ + (2·x·Aᵀ)·Bᵀ with W frozen.
func (l *llama) lora(x graph.Value, in, out int) graph.Value {
	a, b := graph.NewVar("lora_A", tensor.T(tensor.F32, llamaRank, in)), graph.NewVar("lora_B", tensor.T(tensor.F32, out, llamaRank))
	l.train = append(l.train, a, b)
	y := ops.Linear(x, l.weight("weight", out, in))
	return ops.Add(y, ops.Linear(ops.Scale(ops.Linear(x, l.g.Read(a)), 2), l.g.Read(b)))
}

func (l *llama) block(x, cos, sin graph.Value) graph.Value {
	const d = llamaDim / llamaHeads
	h := ops.RMSNorm(x, l.weight("norm1", llamaDim), 1e-5)
	q := ops.RoPE(ops.Reshape(l.lora(h, llamaDim, llamaDim), llamaRows, llamaLen, llamaHeads, d), cos, sin, false)
	k := ops.RoPE(ops.Reshape(l.lora(h, llamaDim, llamaKV*d), llamaRows, llamaLen, llamaKV, d), cos, sin, false)
	v := ops.Reshape(l.lora(h, llamaDim, llamaKV*d), llamaRows, llamaLen, llamaKV, d)
	o := ops.Attend(q, k, v, ops.AttendOptions{Causal: true})
	x = ops.Add(x, l.lora(ops.Reshape(o, llamaRows, llamaLen, llamaDim), llamaDim, llamaDim))
	h = ops.RMSNorm(x, l.weight("norm2", llamaDim), 1e-5)
	h = ops.Mul(ops.SiLU(l.lora(h, llamaDim, llamaHidden)), l.lora(h, llamaDim, llamaHidden))
	return ops.Add(x, l.lora(h, llamaHidden, llamaDim))
}

// update puts the trained matrices, their gradients and the moments into slabs and updates them by one op.
func (l *llama) update(grads []graph.Value, lr graph.Value) {
	var sizes []int
	for _, v := range l.train {
		sizes = append(sizes, v.Type.Size())
	}
	layout := ops.NewLayout(sizes...)
	slab, m, s := graph.NewVar("p", layout.Type()), graph.NewVar("m", layout.Type()), graph.NewVar("v", layout.Type())
	for i, v := range l.train {
		v.Slab, v.Offset = slab, int64(layout.Offsets[i])
	}
	one := ops.Fill(l.g, tensor.F32, 1)
	op := ops.Update{Hyper: ops.Hyper{Rule: ops.AdamTorch, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01}, Layout: layout}
	out := op.Apply(l.g.Read(slab), ops.PackSlab(layout, grads...), []graph.Value{l.g.Read(m), l.g.Read(s)},
		ops.UpdateScalars{LR: lr, Step: one, GScale: one, OK: one})
	for i, v := range []*graph.Var{slab, m, s} {
		l.g.Write(v, out[i])
	}
}

// llamaStep builds forward, backward and update, and compiles them.
func llamaStep(dev *cpu.Device, layers int, split *[3]time.Duration) (*plan.Plan, error) {
	start := time.Now()
	lap := func(i int) {
		split[i] += time.Since(start)
		start = time.Now()
	}
	l := &llama{g: graph.New("llama")}
	ids := l.g.Input("ids", tensor.T(tensor.I32, llamaRows, llamaLen))
	labels := l.g.Input("labels", ids.Type())
	lr := l.g.Input("lr", tensor.T(tensor.F32))
	const half = llamaDim / llamaHeads / 2
	cos, sin := ops.RopeTables(l.g.Input("pos", ids.Type()), l.weight("inv_freq", half))
	x := ops.Embed(l.weight("embed", llamaVocab, llamaDim), ids)
	for i := range layers {
		undo := l.g.Scope(fmt.Sprintf("layers.%d", i))
		x = l.block(x, cos, sin)
		undo()
	}
	x = ops.RMSNorm(x, l.weight("norm", llamaDim), 1e-5)
	loss := ops.CrossEntropy(ops.Linear(x, l.weight("head", llamaVocab, llamaDim)), labels)
	lap(0)
	grads, err := autograd.Grad(loss, l.train...)
	if err != nil {
		return nil, err
	}
	l.update(grads, lr)
	lap(1)
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev})
	lap(2)
	return p, err
}

// BenchmarkCompile is the time to build, differentiate and compile a 32-layer LoRA step: at most 100 ms is wanted.
func BenchmarkCompile(b *testing.B) {
	dev := cpu.New(cpu.Options{Threads: 1})
	var split [3]time.Duration
	var nodes, launches int
	for b.Loop() {
		p, err := llamaStep(dev, 32, &split)
		if err != nil {
			b.Fatal(err)
		}
		r := p.Report()
		nodes, launches = r.Nodes, r.Launches
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
	}
	for i, name := range []string{"build-ms", "grad-ms", "compile-ms"} {
		b.ReportMetric(split[i].Seconds()*1e3/float64(b.N), name)
	}
	b.ReportMetric(float64(nodes), "nodes")
	b.ReportMetric(float64(launches), "launches")
}

// TestLlamaStep: the step of the benchmark compiles, and what it reads is never overwritten early.
func TestLlamaStep(t *testing.T) {
	var split [3]time.Duration
	p, err := llamaStep(cpu.New(cpu.Options{Threads: 1}), 3, &split)
	if err == nil {
		err = p.CheckArena()
	}
	if err != nil {
		t.Fatal(err)
	}
	_, inVars, copies := p.InPlace()
	t.Logf("%d updates in place, %d copies; %+v", inVars, copies, p.Report().Kernels)
}

// nothing is an op that does nothing, so that what surrounds a launch can be measured.
type nothing struct{}

func (nothing) Name() string                                  { return "nothing" }
func (nothing) Infer(in []tensor.Type) ([]tensor.Type, error) { return in[:1], nil }

func init() {
	cpu.Register(func(*cpu.Device, nothing, device.Spec) (*cpu.Kernel, error) {
		return &cpu.Kernel{Run: func(*cpu.Call) error { return nil }}, nil
	})
}

// BenchmarkLaunch is what a launch costs beside its kernel, and what a run costs beside its launches.
func BenchmarkLaunch(b *testing.B) {
	for _, n := range []int{1, 1001} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			g := graph.New("launches")
			x, y := g.Input("x", tensor.T(tensor.F32, 4)), g.Input("y", tensor.T(tensor.F32, 4))
			v := x
			for range n {
				v = g.Apply(nothing{}, v, y)[0]
			}
			p, err := plan.Compile([]graph.Value{v}, plan.Options{Device: cpu.New(cpu.Options{Threads: 1})})
			require.NoError(b, err)
			feed := plan.Feed{x: tensor.New(x.Type()), y: tensor.New(y.Type())}
			for b.Loop() {
				if _, err := p.Run(b.Context(), feed); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/launch")
		})
	}
}
