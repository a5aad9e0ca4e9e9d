package lora

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/linalg"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// source returns random numbers that depend on the seed and a name alone.
func source(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name)) //nolint:errcheck // a hash cannot fail
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// orthogonal begins A with combinations of the odd rows of a random orthogonal matrix and B with combinations of the even ones, so that
// B·A is zero and neither is.
func (m *Module) orthogonal(s Store, seed uint64) error {
	r, in, out := m.Rank(), m.A.Type.Dim(1), m.B.Type.Dim(0)
	if r%2 != 0 {
		return fmt.Errorf("orthogonal initialisation needs an even rank, not %d", r)
	}
	random := source(seed, m.A.Name)
	normal := func(rows, cols int) linalg.Matrix {
		x := linalg.New(rows, cols)
		for i := range x.Data {
			x.Data[i] = random.NormFloat64()
		}
		return x
	}
	q, _, err := linalg.QR(normal(r, r), r)
	if err != nil {
		return err
	}
	odd, even := linalg.New(r/2, r), linalg.New(r/2, r)
	for i := range r / 2 {
		copy(odd.Row(i), q.Row(2*i))
		copy(even.Row(i), q.Row(2*i+1))
	}
	const spread = 0.1
	a, b := linalg.Mul(normal(in, r/2), odd).T(), linalg.Mul(normal(out, r/2), even)
	return m.setPair(s, scaled(a, spread), scaled(b, spread))
}

func scaled(m linalg.Matrix, f float64) linalg.Matrix {
	for i := range m.Data {
		m.Data[i] *= f
	}
	return m
}

// setPair stores A and B.
func (m *Module) setPair(s layers.Values, a, b linalg.Matrix) error {
	return set(s, map[*graph.Var]*tensor.Tensor{m.A: narrow(m.A, a), m.B: narrow(m.B, b)})
}

func narrow(v *graph.Var, m linalg.Matrix) *tensor.Tensor {
	t := tensor.New(v.Type)
	for i, x := range m.Data {
		t.Set(i, x)
	}
	return t
}

// taken is a module's share of its base weight: A, B and what is left in the base.
type taken struct {
	a, b *tensor.Tensor // in the dtypes of the variables
	rest *tensor.Tensor // (out, in) float32, not yet quantized
	err  error
}

// takeOver moves a part of each base weight into the adapter, and when it has done so already gives A and B the values that they had then.
func (a *Adapter) takeOver(s Store, original func(name string) (*tensor.Tensor, error)) error {
	if a.start == nil {
		return a.takeOverWeights(s, original)
	}
	i := 0
	for _, m := range a.Modules {
		if m.Embedding() {
			continue
		}
		if err := set(s, map[*graph.Var]*tensor.Tensor{m.A: a.start[i], m.B: a.start[i+1]}); err != nil {
			return err
		}
		i += 2
	}
	return nil
}

// takeOverWeights moves a part of each base weight into the adapter. Matrices are taken apart on all processors, each by one, so that the
// result does not depend on their number, and stored in order.
func (a *Adapter) takeOverWeights(s Store, original func(name string) (*tensor.Tensor, error)) error {
	var list []*Module
	for _, m := range a.Modules {
		if !m.Embedding() {
			list = append(list, m)
		}
	}
	var start []*tensor.Tensor
	for at := 0; at < len(list); {
		n := min(runtime.GOMAXPROCS(0), len(list)-at)
		batch := make([]taken, n)
		var wait sync.WaitGroup
		for i, m := range list[at : at+n] {
			w, err := m.fullWeight(s, original)
			if err != nil {
				batch[i].err = err
				continue
			}
			wait.Add(1)
			go func() {
				defer wait.Done()
				batch[i] = m.take(w)
			}()
		}
		wait.Wait()
		for i, m := range list[at : at+n] {
			t := batch[i]
			if t.err == nil {
				t.err = set(s, map[*graph.Var]*tensor.Tensor{m.A: t.a, m.B: t.b})
			}
			if t.err == nil {
				t.err = m.writeBase(s, t.rest)
			}
			if t.err != nil {
				return fmt.Errorf("lora: %s: initialisation %q: %w", m.Path, a.Config.Init, t.err)
			}
			start = append(start, t.a, t.b)
		}
		at += n
	}
	a.start = start
	return nil
}

// fullWeight is the base weight in full precision: that of before quantization where it can be had.
func (m *Module) fullWeight(s Store, original func(name string) (*tensor.Tensor, error)) (*tensor.Tensor, error) {
	name := ""
	switch l := m.linear.Base.(type) {
	case *layers.Linear4bit:
		name = l.Weight.Name
	case *layers.Linear8bitLt:
		if l.Weight != nil {
			name = l.Weight.Name
		}
	}
	loftq := m.set.Config.Init == InitLoftQ
	switch {
	case name == "" && loftq:
		return nil, fmt.Errorf("the base is not quantized, so there is no error of quantization to make up for; quantize it (nf4, fp4 or int8), or choose another initialisation")
	case name == "" || original == nil && !loftq:
		return m.readBase(s)
	case original == nil:
		return nil, fmt.Errorf("the weights before quantization are needed, and only quantized ones are there; load the full-precision model and quantize it")
	}
	w, err := original(name)
	if err != nil {
		if loftq {
			return nil, err
		}
		return m.readBase(s)
	}
	return w.Convert(tensor.F32)
}

// take splits a weight as the configuration says.
func (m *Module) take(w *tensor.Tensor) taken {
	c := m.set.Config
	r := m.Rank()
	full, err := linalg.FromFloat32(w.Shape().Dim(0), w.Shape().Dim(1), w.Float32s())
	if err != nil {
		return taken{err: err}
	}
	if most := min(full.Rows, full.Cols); r > most {
		return taken{err: fmt.Errorf("the rank %d is larger than the smaller side of the weight, %d; lower it with rank_pattern", r, most)}
	}
	if c.Init == InitLoftQ {
		return m.loftq(full, c.LoftQSteps)
	}
	var a, b linalg.Matrix
	if c.Init == InitOLoRA {
		b, a, err = linalg.QR(full, r)
	} else {
		var svd linalg.SVD
		if n, random := c.Init.Steps(); random {
			svd, err = linalg.LowRank(full, r, n, source(c.Seed, m.A.Name).NormFloat64)
		} else {
			svd, err = linalg.TopSVD(full, r)
		}
		a, b = m.halves(svd)
	}
	if err != nil {
		return taken{err: err}
	}
	t := taken{a: narrow(m.A, a), b: narrow(m.B, b)}
	t.rest = m.without(full, t.a, t.b)
	return t
}

// halves are √(S/s)·V and U·√(S/s), whose product times the adapter's scale s is U·S·V.
func (m *Module) halves(svd linalg.SVD) (a, b linalg.Matrix) {
	a, b = svd.V, svd.U
	for i, x := range svd.S {
		f := math.Sqrt(x / m.Scale)
		for k := range a.Row(i) {
			a.Row(i)[k] *= f
		}
		for k := range b.Rows {
			b.Data[k*b.Cols+i] *= f
		}
	}
	return a, b
}

// without is w - s·B·A for the rounded A and B.
func (m *Module) without(w linalg.Matrix, at, bt *tensor.Tensor) *tensor.Tensor {
	r, in := at.Shape().Dim(0), at.Shape().Dim(1)
	out := tensor.New(tensor.T(tensor.F32, w.Rows, w.Cols))
	data := tensor.Data[float32](out)
	row, a := make([]float64, in), make([]float64, r*in)
	for i := range a {
		a[i] = at.At(i)
	}
	for o := range w.Rows {
		copy(row, w.Row(o))
		for k := range r {
			f := m.Scale * bt.At(o*r+k)
			for i, x := range a[k*in : (k+1)*in] {
				row[i] -= float64(f * x)
			}
		}
		for i, x := range row {
			data[o*in+i] = float32(x)
		}
	}
	return out
}

// loftq alternates between quantizing what the adapter leaves of the weight and taking the error's largest part into the adapter (Li et al. 2023,
// algorithm 1). PEFT leaves the adapter's scale out, and so needs α = r; here s·B·A makes up for the error with any.
func (m *Module) loftq(w linalg.Matrix, steps int) taken {
	cfg, err := m.quantConfig()
	if err != nil {
		return taken{err: err}
	}
	t := taken{rest: tensor.New(tensor.T(tensor.F32, w.Rows, w.Cols))}
	data := tensor.Data[float32](t.rest)
	for i, x := range w.Data {
		data[i] = float32(x)
	}
	for step := range steps {
		if step > 0 {
			t.rest = m.without(w, t.a, t.b)
		}
		q, err := quantized(t.rest, cfg)
		if err != nil {
			return taken{err: err}
		}
		residual := linalg.New(w.Rows, w.Cols)
		for i, x := range q.Float32s() {
			residual.Data[i] = w.Data[i] - float64(x)
		}
		svd, err := linalg.TopSVD(residual, m.Rank())
		if err != nil {
			return taken{err: err}
		}
		a, b := m.halves(svd)
		t.a, t.b = narrow(m.A, a), narrow(m.B, b)
	}
	return t
}

// quantConfig is how the base is quantized.
func (m *Module) quantConfig() (quant.Config, error) {
	switch l := m.linear.Base.(type) {
	case *layers.Linear4bit:
		return l.Weight.Config(), nil
	case *layers.Linear8bitLt:
		return l.Weight.Config(), nil
	}
	return quant.Config{}, fmt.Errorf("a %T is not quantized", m.linear.Base)
}

// quantized rounds a weight as the base does, and reads it back.
func quantized(w *tensor.Tensor, cfg quant.Config) (*tensor.Tensor, error) {
	if cfg.Scheme == quant.Int8 { // which rounds to float16 first
		var err error
		if w, err = w.Narrow(tensor.F16); err != nil {
			return nil, err
		}
	}
	st, err := quant.Quantize(w, cfg)
	if err != nil {
		return nil, err
	}
	return st.Dequantize(tensor.F32)
}
