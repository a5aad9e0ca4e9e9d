package calibrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant/calib"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// stage is one activation and the layers that read it, with what is gathered of it.
type stage struct {
	cols     int
	linears  []*linear
	finished int

	samples  *calib.Reservoir
	stats    *calib.ChannelStats
	hessian  *calib.Hessian
	observer calib.Observer
}

func (s *stage) names() string {
	var out []string
	for _, l := range s.linears {
		out = append(out, l.path)
	}
	return strings.Join(out, ", ")
}

// done lets go of what was gathered when the last layer is quantized.
func (s *stage) done(l *linear) {
	l.stage = nil
	if s.finished++; s.finished == len(s.linears) {
		s.samples, s.stats, s.hessian, s.observer = nil, nil, nil, nil
	}
}

// tap stands in for a linear layer while a graph is built and remembers its input.
type tap struct {
	*layers.Linear
	x graph.Value
}

// Forward implements layers.Projection.
func (t *tap) Forward(x graph.Value) graph.Value {
	t.x = x
	return t.Linear.Forward(x)
}

// forward is a graph of the model for one row of tokens.
type forward struct {
	tokens, pos graph.Value
	taps        map[string]*tap // by path
}

// build makes the graph of a row of t tokens, with the calibrated layers tapped, and puts the layers back.
func (r *run) build(t int) *forward {
	f := &forward{taps: map[string]*tap{}}
	var restore []func()
	layers.Modules(r.Model, func(path string, p layers.Projection, replace func(layers.Projection)) {
		if l, ok := p.(*layers.Linear); ok && !r.Keep(path+".weight") {
			f.taps[path] = &tap{Linear: l}
			replace(f.taps[path])
			restore = append(restore, func() { replace(l) })
		}
	})
	defer func() {
		for _, back := range restore {
			back()
		}
	}()
	g := graph.New("calibration")
	f.tokens, f.pos = g.Input("tokens", tensor.T(tensor.I32, 1, t)), g.Input("pos", tensor.T(tensor.I32, 1, t))
	hidden := r.Model.Hidden(models.Inputs{Tokens: f.tokens, Pos: f.pos})
	if f.taps["lm_head"] != nil {
		r.Model.Logits(hidden)
	}
	return f
}

// stages groups the layers by their inputs, in the order in which the model computes them.
func (r *run) stages() ([]*stage, error) {
	f := r.build(1)
	byValue := map[graph.Value]*stage{}
	var out []*stage
	for _, l := range r.linears {
		x := f.taps[l.path].x
		if !x.Valid() {
			return nil, errors.Join(fmt.Errorf("calibrate: %s is not part of the model's forward pass", l.path), f.tokens.Graph().Err())
		}
		s := byValue[x]
		if s == nil {
			in, _ := l.layer.Features()
			s = &stage{cols: in}
			byValue[x] = s
			out = append(out, s)
		}
		s.linears = append(s.linears, l)
	}
	slices.SortStableFunc(out, func(a, b *stage) int {
		return f.taps[a.linears[0].path].x.Node().ID - f.taps[b.linears[0].path].x.Node().ID
	})
	return out, nil
}

// bytes is what is gathered of a stage.
func (r *run) bytes(s *stage) int64 {
	n := 4 * int64(r.SampleRows+r.longest) * int64(s.cols) // the sample, and a row's inputs
	if r.Method == GPTQ {
		n += (8 + 4) * int64(s.cols) * int64(s.cols) // the sum, and a row's products on the device
	}
	return n
}

// parts cuts the stages into runs that fit in memory.
func (r *run) parts(stages []*stage) [][]*stage {
	var out [][]*stage
	var held int64
	for _, s := range stages {
		if len(out) == 0 || r.Sequential || held+r.bytes(s) > r.Memory {
			out, held = append(out, nil), 0
		}
		held += r.bytes(s)
		out[len(out)-1] = append(out[len(out)-1], s)
	}
	return out
}

// bucket is the step of row lengths that graphs are compiled for.
const bucket = 32

// padded is the length of the graph that a row runs in.
func (r *run) padded(row *tensor.Tensor) int {
	return min((row.Type().Size()+bucket-1)/bucket*bucket, r.Model.Config().MaxPositions)
}

// gather runs the model on every row, up to the last of the stages, and collects their inputs. Rows are padded on the right to a few
// lengths, which causal attention does not see, and only what belongs to tokens is collected.
func (r *run) gather(ctx context.Context, part []*stage) error {
	for _, s := range part {
		if err := r.collectors(s); err != nil {
			return err
		}
	}
	rows := map[int][]*tensor.Tensor{}
	var lengths []int
	for _, t := range r.Rows {
		n := r.padded(t)
		if rows[n] == nil {
			lengths = append(lengths, n)
		}
		rows[n] = append(rows[n], t)
	}
	slices.Sort(lengths)
	for _, n := range lengths {
		if err := r.gatherLength(ctx, part, n, rows[n]); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) gatherLength(ctx context.Context, part []*stage, n int, rows []*tensor.Tensor) (err error) {
	f := r.build(n)
	o := newOutputs(f, part, n)
	p, err := plan.Compile(o.all(), plan.Options{Context: ctx, Device: r.Store.Device(), Store: r.Store, Launch: r.Launch})
	if err != nil {
		return fmt.Errorf("calibrate: rows of %d tokens: %w", n, err)
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	feed := plan.Feed{}
	tokens, pos := tensor.New(f.tokens.Type()), tensor.New(f.pos.Type())
	feed[f.tokens], feed[f.pos] = tokens, pos
	for _, row := range rows {
		clear(tensor.Data[int32](tokens))
		real := copy(tensor.Data[int32](tokens), tensor.Data[int32](row))
		for i := range n { // padding stays at the last position: rotary positions may depend on the length of the row
			tensor.Data[int32](pos)[i] = int32(max(min(i, real-1), 0))
		}
		if o.length.Valid() {
			feed[o.length] = real
		}
		res, err := p.Run(ctx, feed)
		if err != nil {
			return fmt.Errorf("calibrate: %w", err)
		}
		for i, s := range part {
			if err := r.add(s, real, res.Tensor(o.x[i]), res.Tensor(o.xx[i])); err != nil {
				return fmt.Errorf("calibrate: the input of %s: %w", s.names(), err)
			}
		}
	}
	return nil
}

// outputs are what a plan gives for the stages.
type outputs struct {
	x      []graph.Value // inputs f32 (T, cols)
	xx     []graph.Value // sums of their products over the tokens that are no padding, f32 (cols, cols); absent without a Hessian
	length graph.Value   // input: tokens of the row, i32
}

func newOutputs(f *forward, part []*stage, t int) *outputs {
	o := &outputs{x: make([]graph.Value, len(part)), xx: make([]graph.Value, len(part))}
	g := f.tokens.Graph()
	for i, s := range part {
		x := ops.Reshape(ops.Cast(f.taps[s.linears[0].path].x, tensor.F32), t, s.cols)
		if o.x[i] = x; s.hessian == nil {
			continue
		}
		if !o.length.Valid() {
			o.length = g.Input("length", tensor.T(tensor.I32))
		}
		real := ops.Less(ops.Iota(g, tensor.T(tensor.I32, t, 1), 0), o.length)
		x = ops.Where(real, x, ops.Scalar(x, 0))
		o.xx[i] = g.Apply(ops.MatMul{TransA: true}, x, x)[0]
	}
	return o
}

func (o *outputs) all() []graph.Value {
	out := slices.Clone(o.x)
	for _, v := range o.xx {
		if !v.Absent() {
			out = append(out, v)
		}
	}
	return out
}

// collectors makes what the method gathers of a stage.
func (r *run) collectors(s *stage) (err error) {
	s.samples = calib.NewReservoir(s.cols, r.SampleRows, 0)
	switch r.Method {
	case SmoothQuant, AWQ:
		s.stats = calib.NewChannelStats(s.cols)
	case GPTQ:
		s.hessian, err = calib.NewHessian(s.cols)
	case MinMax:
		s.observer = calib.NewMinMax()
	case MovingAverage:
		s.observer, err = calib.NewMovingAverage(0)
	case Percentile:
		s.observer, err = calib.NewPercentile(r.Percent, 0)
	case MSE:
		s.observer, err = calib.NewMSE(activationGrid, 0)
	case Entropy:
		s.observer, err = calib.NewEntropy(activationGrid.Bits, 0)
	}
	return err
}

// activationGrid is what ranges of activations are found for.
var activationGrid = calib.Affine{Bits: 8}

// add reduces what a row of n tokens gave.
func (r *run) add(s *stage, n int, inputs, products *tensor.Tensor) error {
	x := calib.Matrix{Rows: n, Cols: s.cols, Data: tensor.Data[float32](inputs)[:n*s.cols]}
	err := s.samples.Add(x)
	switch {
	case err != nil:
	case s.stats != nil:
		err = s.stats.Add(x)
	case s.hessian != nil:
		err = s.hessian.AddProduct(calib.Matrix{Rows: s.cols, Cols: s.cols, Data: tensor.Data[float32](products)}, n, r.Parallel)
	case s.observer != nil:
		err = s.observer.Observe(x.Data)
	}
	return err
}
