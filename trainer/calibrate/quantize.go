package calibrate

import (
	"context"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/quant/calib"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// quantize chooses scales for the layers of a stage and quantizes those that wait for nothing else.
func (r *run) quantize(ctx context.Context, s *stage) error {
	samples := s.samples.Matrix()
	weights := make([]calib.Matrix, len(s.linears))
	for i, l := range s.linears {
		var err error
		if weights[i], err = r.weight(l); err != nil {
			return err
		}
		l.report.Nearest, err = r.nearestError(samples, weights[i])
		if err != nil {
			return err
		}
	}
	factors, err := r.scale(s, samples, weights)
	if err != nil {
		return err
	}
	for i, l := range s.linears {
		l.stage = s
		l.report.columns, l.pending = factors, weights[i]
		if r.Method == AWQ && !r.NoClip {
			if l.pending, err = r.clip(samples, l.pending); err != nil {
				return err
			}
		}
	}
	if f := r.folds[s.linears[0].path]; f != nil && factors != nil {
		if err := r.divide(f, factors); err != nil {
			return err
		}
	}
	for _, l := range s.ready(r) {
		if err := r.finish(ctx, l); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}

// ready lists the layers that can be quantized once a stage has its scales: those of its layers that no later fold will divide, and the
// producer of its own fold.
func (s *stage) ready(r *run) []*linear {
	var out []*linear
	if f := r.folds[s.linears[0].path]; f != nil && f.producer != nil && f.producer.pending.Data != nil {
		f.producer.heldFor = nil
		out = append(out, f.producer)
	}
	for _, l := range s.linears {
		if l.heldFor == nil {
			out = append(out, l)
		}
	}
	return out
}

// scale searches the factors of a stage, multiplies weights and divides samples by them. nil: none.
func (r *run) scale(s *stage, samples calib.Matrix, weights []calib.Matrix) ([]float32, error) {
	if r.Method != SmoothQuant && r.Method != AWQ {
		return nil, nil
	}
	f := r.folds[s.linears[0].path]
	if f == nil || len(f.consumers) != len(s.linears) {
		for _, l := range s.linears {
			l.report.Note = "not scaled: nothing before it can take the scales over"
		}
		return nil, nil
	}
	found, err := r.search(s, samples, weights)
	if err != nil {
		return nil, err
	}
	if f.norm != nil {
		if err := r.representable(f.norm, found.Factors); err != nil {
			return nil, err
		}
	}
	inverse := make([]float32, len(found.Factors))
	for j, v := range found.Factors {
		inverse[j] = 1 / v
	}
	if err := samples.ScaleColumns(inverse); err != nil {
		return nil, err
	}
	for i, l := range s.linears {
		l.report.Ratio = found.Ratio
		if err := weights[i].ScaleColumns(found.Factors); err != nil {
			return nil, err
		}
	}
	return found.Factors, nil
}

func (r *run) search(s *stage, samples calib.Matrix, weights []calib.Matrix) (calib.Scales, error) {
	rt := calib.ByFormat(r.Format, r.Parallel)
	if r.Method == AWQ {
		return calib.AWQSearch(samples, s.stats.MeanAbs(), weights, rt, r.Parallel)
	}
	var alphas []float64
	switch {
	case r.Alpha == 0:
		alphas = []float64{0.5}
	case r.Alpha > 0:
		alphas = []float64{r.Alpha}
	}
	return calib.SmoothSearch(samples, s.stats.AbsMax(), weights, alphas, calib.PerToken(calib.Affine{Bits: 8, Symmetric: true}), rt, r.Parallel)
}

// widestClip bounds the groups that AWQ's clipping is searched for: its cost grows with their width.
const widestClip = 1024

// clip cuts off extremes where that makes outputs more exact. Formats with wider groups are left alone, as their authors' code does with
// whole rows.
func (r *run) clip(samples, w calib.Matrix) (calib.Matrix, error) {
	st, err := r.Format.New(tensor.T(tensor.F32, w.Rows, w.Cols))
	if err != nil {
		return w, err
	}
	size := min(st.Blocksize, w.Cols)
	if size > widestClip || !st.ByRow && w.Cols%st.Blocksize != 0 {
		return w, nil
	}
	return calib.ClipSearch(samples, w, size, calib.ByFormat(r.Format, r.Parallel), r.Parallel)
}

// finish quantizes a layer's weight and reports on it.
func (r *run) finish(ctx context.Context, l *linear) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.Progress != nil {
		r.Progress(r.done, len(r.linears), l.name)
	}
	r.done++
	original, err := r.weight(l)
	if err != nil {
		return err
	}
	w := l.pending
	if w.Data == nil {
		w = original.Clone()
	}
	l.pending = calib.Matrix{}
	st, err := r.state(l, w)
	if err != nil {
		return err
	}
	r.result.States[l.name] = st
	if err := r.measure(l, st, original); err != nil {
		return err
	}
	if l.stage != nil {
		l.stage.done(l)
	}
	return nil
}

// state quantizes by the method.
func (r *run) state(l *linear, w calib.Matrix) (*quant.State, error) {
	s := l.stage
	dtype := l.layer.Weight.Type.DType
	if c, ok := r.Format.(quant.Config); ok && c.Scheme == quant.Int8 { // as the library, which rounds weights to float16 first
		for i, v := range w.Data {
			w.Data[i] = tensor.ToF16(v).Float32()
		}
	}
	if r.Method == GPTQ && s != nil {
		res, err := calib.GPTQ(w, s.hessian, r.Format, calib.GPTQOptions{ActOrder: !r.NoActOrder, LeastError: !r.NoClip,
			KeepZeros: r.KeepZeros, Damping: r.Damping, Parallel: r.Parallel, DType: dtype})
		if err != nil {
			return nil, err
		}
		l.report.Note = res.Note()
		return res.State, nil
	}
	if s != nil && s.observer != nil {
		var err error
		if l.report.Activation, err = s.observer.Range(); err != nil {
			return nil, err
		}
		l.report.Params = activationGrid.Params(l.report.Activation)
		if w, err = r.clipBlocks(w); err != nil {
			return nil, err
		}
	}
	return r.Format.Quantize(w.Source(dtype), quant.Options{Parallel: r.Parallel})
}

// clipBlocks cuts off the extremes of blocks of weights as an observing method has it.
func (r *run) clipBlocks(w calib.Matrix) (calib.Matrix, error) {
	switch r.Method {
	case MSE:
		return calib.ClipLeastError(w, r.Format, r.Parallel)
	case Percentile:
		return calib.ClipBlocks(w, r.Format, func(block []float32) (calib.Range, error) {
			p, err := calib.NewPercentile(r.Percent, 0)
			return observed(p, err, block)
		}, r.Parallel)
	case Entropy:
		return calib.ClipBlocks(w, r.Format, func(block []float32) (calib.Range, error) {
			if len(block) < calib.DefaultBins {
				return observed(calib.NewMinMax(), nil, block)
			}
			e, err := calib.NewEntropy(8, 0)
			return observed(e, err, block)
		}, r.Parallel)
	}
	return w, nil
}

func observed(o calib.Observer, err error, block []float32) (calib.Range, error) {
	if err != nil {
		return calib.Range{}, err
	}
	if err := o.Observe(block); err != nil {
		return calib.Range{}, err
	}
	return o.Range()
}

// nearestError is the error on outputs of round-to-nearest.
func (r *run) nearestError(samples, w calib.Matrix) (float64, error) {
	q, err := calib.ByFormat(r.Format, r.Parallel)(w.Clone())
	if err != nil {
		return 0, err
	}
	return r.outputError(samples, w, q)
}

// outputError is ‖X·(W-Q)ᵀ‖/‖X·Wᵀ‖.
func (r *run) outputError(samples, w, q calib.Matrix) (float64, error) {
	share, err := calib.OutputError(samples, w, q, r.Parallel)
	return math.Sqrt(share), err
}

// measure compares what the codes stand for with what was quantized, scales taken out again, and puts it into the store where later
// layers are to see it.
func (r *run) measure(l *linear, st *quant.State, original calib.Matrix) error {
	q := calib.NewMatrix(original.Rows, original.Cols)
	if err := quant.DequantizeRange(st, q.Data, 0, len(q.Data)); err != nil {
		return err
	}
	if r.Sequential {
		t := tensor.New(l.layer.Weight.Type)
		for i, v := range q.Data {
			t.Set(i, float64(v))
		}
		if err := r.Store.Set(l.layer.Weight, t); err != nil {
			return err
		}
	}
	rep := &l.report
	rep.cols = q.Cols
	rep.Unscale(q.Data, 0)
	rep.Name, rep.Bits = l.name, 8*float64(st.Bytes())/float64(max(st.Size(), 1))
	rep.RelError, rep.Cosine, rep.MaxAbs = compare(original.Data, q.Data)
	if l.stage != nil {
		var err error
		if rep.OutputError, err = r.outputError(l.stage.samples.Matrix(), original, q); err != nil {
			return err
		}
	}
	r.result.Layers = append(r.result.Layers, *rep)
	return nil
}

// compare returns ‖a-b‖/‖a‖, the cosine of the angle between a and b, and the largest |a-b|.
func compare(a, b []float32) (rel, cosine, most float64) {
	var diff, aa, bb, ab float64
	for i, v := range a {
		x, y := float64(v), float64(b[i])
		diff += (x - y) * (x - y)
		aa, bb, ab = aa+x*x, bb+y*y, ab+x*y
		most = max(most, math.Abs(x-y))
	}
	if aa == 0 {
		return 0, 1, most
	}
	return math.Sqrt(diff / aa), ab / math.Sqrt(aa*max(bb, 1e-300)), most
}
