package layers

import (
	"fmt"
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// OutlierRule says which features are outliers. The zero value is the library's: features whose standard deviation lies 4 of its own
// standard deviations above the mean of all (3 for activations), and features with an activation above 6.
type OutlierRule struct {
	WeightZ   float64 // z-score of a column's standard deviation over the rows of a weight; 0 = 4
	InputZ    float64 // z-score of a feature's standard deviation over tokens; 0 = 3
	Magnitude float64 // |x| that makes a feature an outlier; 0 = 6
}

func (r OutlierRule) withDefaults() OutlierRule {
	for p, d := range map[*float64]float64{&r.WeightZ: 4, &r.InputZ: 3, &r.Magnitude: 6} {
		if *p == 0 {
			*p = d
		}
	}
	return r
}

// OutlierTracer watches what goes into the linear layers of a model and tells which input features are outliers (bitsandbytes'
// OutlierTracer; Dettmers et al. 2022, arXiv 2208.07339, §4).
//
//	tr := layers.TraceOutliers(model, layers.OutlierRule{})
//	y := model.Forward(x)
//	p, err := plan.Compile(append(tr.Values(), y), ...)
//	for each batch { res, err := p.Run(...); err = tr.Observe(res.Tensor) }
//	tr.Detach()
//	for _, o := range tr.Outliers() { fmt.Println(o.Path, o.Columns) }
type OutlierTracer struct {
	rule   OutlierRule
	layers []*traced
	undo   []func()
}

// Outliers are the outlier features of one layer, ascending.
type Outliers struct {
	Path    string
	Columns []int
}

// traced is a projection that notes what goes in.
type traced struct {
	Base Projection `name:"."`
	path string

	sum, square, top graph.Value // f32 (in) of the last Forward
	rows             int         // vectors in it
	seen             moments
}

// moments are what has been observed of the features of a layer.
type moments struct {
	n           float64
	sum, square []float64
	top         []float64
}

// TraceOutliers puts an observer before every projection of a model. The graphs built until Detach compute, beside everything else, three
// numbers for each input feature of each layer.
func TraceOutliers(model any, rule OutlierRule) *OutlierTracer {
	t := &OutlierTracer{rule: rule.withDefaults()}
	Modules(model, func(path string, p Projection, replace func(Projection)) {
		l := &traced{Base: p, path: path}
		t.layers = append(t.layers, l)
		t.undo = append(t.undo, func() { replace(p) })
		replace(l)
	})
	return t
}

// Detach takes the observers out of the model. What they observed stays.
func (t *OutlierTracer) Detach() {
	for _, f := range t.undo {
		f()
	}
	t.undo = nil
}

// Forward implements Projection.
func (l *traced) Forward(x graph.Value) graph.Value {
	if x.Valid() && x.Rank() > 0 {
		in := x.Dim(-1)
		l.rows = x.Type().Size() / max(in, 1)
		m := ops.Cast(ops.Reshape(x, l.rows, in), tensor.F32)
		l.sum, l.square, l.top = ops.Sum(m, 0), ops.Sum(ops.Square(m), 0), ops.MaxOf(ops.Abs(m), 0)
	}
	return l.Base.Forward(x)
}

// Features implements Projection.
func (l *traced) Features() (in, out int) { return l.Base.Features() }

// Values are what a plan must return besides its own outputs for Observe. Layers that the last graph did not use have none.
func (t *OutlierTracer) Values() []graph.Value {
	var out []graph.Value
	for _, l := range t.layers {
		if l.top.Valid() {
			out = append(out, l.sum, l.square, l.top)
		}
	}
	return out
}

// Observe adds a run to the statistics; read returns the value of an output, as plan.Result.Tensor does. A run in which a feature is not
// finite is an error: no threshold can be told from it.
func (t *OutlierTracer) Observe(read func(v graph.Value) *tensor.Tensor) error {
	for _, l := range t.layers {
		if !l.top.Valid() {
			continue
		}
		sum, square, top := read(l.sum), read(l.square), read(l.top)
		if sum == nil || square == nil || top == nil {
			return fmt.Errorf("outliers of %s: the run did not return what Values lists; add it to the outputs of the plan", l.path)
		}
		for i := range square.Type().Size() {
			if v := square.At(i); !finite(v) {
				return fmt.Errorf("outliers of %s: the sum of squares of input feature %d is %v: look for NaN or infinity in the weights or the data",
					l.path, i, v)
			}
		}
		l.seen.add(float64(l.rows), sum, square, top)
	}
	return nil
}

func (m *moments) add(n float64, sum, square, top *tensor.Tensor) {
	if m.sum == nil {
		in := sum.Type().Size()
		m.sum, m.square, m.top = make([]float64, in), make([]float64, in), make([]float64, in)
	}
	m.n += n
	for i := range m.sum {
		m.sum[i] += sum.At(i)
		m.square[i] += square.At(i)
		m.top[i] = max(m.top[i], top.At(i))
	}
}

// deviations are the standard deviations of the features (with n-1), zero for fewer than two vectors.
func (m *moments) deviations() []float64 {
	out := make([]float64, len(m.sum))
	for i, s := range m.sum {
		if m.n > 1 {
			out[i] = math.Sqrt(max(m.square[i]-s*s/m.n, 0) / (m.n - 1))
		}
	}
	return out
}

// Outliers returns the outlier features of every layer that was observed: by magnitude and by the z-score of their standard deviation.
func (t *OutlierTracer) Outliers() []Outliers {
	var out []Outliers
	for _, l := range t.layers {
		if l.seen.n == 0 {
			continue
		}
		columns := highest(l.seen.deviations(), t.rule.InputZ)
		for c, top := range l.seen.top {
			if top > t.rule.Magnitude {
				columns = append(columns, c)
			}
		}
		out = append(out, Outliers{l.path, ascending(columns)})
	}
	return out
}

// WeightOutliers returns the columns of the weights of a model's Linear layers that stand out, without running it: those whose standard
// deviation over the rows has a z-score above rule.WeightZ. In trained transformers they are largely the features of activation outliers.
func WeightOutliers(model any, values Reader, rule OutlierRule) ([]Outliers, error) {
	rule = rule.withDefaults()
	var out []Outliers
	var err error
	Modules(model, func(path string, p Projection, _ func(Projection)) {
		l, ok := p.(*Linear)
		if !ok || err != nil {
			return
		}
		var w *tensor.Tensor
		if w, err = values.Get(l.Weight); err != nil {
			err = fmt.Errorf("outliers of %s: %w", path, err)
			return
		}
		deviations := columnDeviations(w)
		for i, v := range deviations {
			if !finite(v) {
				err = fmt.Errorf("outliers of %s: column %d of the weight has the standard deviation %v: it holds NaN or infinity", path, i, v)
				return
			}
		}
		out = append(out, Outliers{path, highest(deviations, rule.WeightZ)})
	})
	return out, err
}

// columnDeviations are the standard deviations of the columns of a matrix.
func columnDeviations(w *tensor.Tensor) []float64 {
	rows, cols := w.Shape().Dim(0), w.Shape().Dim(1)
	mean, out := make([]float64, cols), make([]float64, cols)
	for i := range rows * cols {
		mean[i%cols] += w.At(i) / float64(rows)
	}
	for i := range rows * cols {
		d := w.At(i) - mean[i%cols]
		out[i%cols] += d * d / float64(max(rows-1, 1))
	}
	for i, v := range out {
		out[i] = math.Sqrt(v)
	}
	return out
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// highest returns the indices of values more than z standard deviations above the mean.
func highest(x []float64, z float64) []int {
	n := float64(len(x))
	mean, square := 0.0, 0.0
	for _, v := range x {
		mean += v / n
	}
	for _, v := range x {
		square += (v - mean) * (v - mean)
	}
	limit := mean + z*math.Sqrt(square/max(n-1, 1))
	var out []int
	for i, v := range x {
		if v > limit {
			out = append(out, i)
		}
	}
	return slices.Clip(out)
}
