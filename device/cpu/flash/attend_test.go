package flash

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// problem is attention of one key head: rows of q, of which query i sees keys [lo[i], hi[i]).
type problem struct {
	Shape
	rows, keys, stride int
	q, k, v, do        []float64
	lo, hi             []int
}

func newProblem(r *rand.Rand, dt tensor.DType, d, rows, keys int, cap float32) *problem {
	p := &problem{Shape: Shape{DType: dt, D: d, Scale: float32(1 / math.Sqrt(float64(d))), SoftCap: cap}, rows: rows, keys: keys, stride: d + r.IntN(2)*d}
	for _, x := range []*[]float64{&p.q, &p.k, &p.v, &p.do} {
		n := keys
		if x == &p.q || x == &p.do {
			n = rows
		}
		*x = make([]float64, n*d)
		for i := range *x {
			(*x)[i] = float64(r.IntN(129)-64) / 32 // exact in every type
		}
	}
	for i := range rows {
		lo, hi := r.IntN(keys+1), r.IntN(keys+1)
		switch r.IntN(4) {
		case 0:
			lo, hi = 0, keys
		case 1:
			lo, hi = 0, min(i*keys/rows+1, keys)
		}
		p.lo, p.hi = append(p.lo, min(lo, hi)), append(p.hi, hi)
	}
	return p
}

// stored rounds x to rows that lie p.stride apart.
func (p *problem) stored(x []float64) Rows {
	n := len(x) / p.D
	t := tensor.New(tensor.T(p.DType, n, p.stride))
	for i, v := range x {
		t.Set(i/p.D*p.stride+i%p.D, v)
	}
	return Rows{Data: t.Bytes(), Rep: 1, Stride: p.stride}
}

// read returns the first D of each row.
func (p *problem) read(x Rows) []float64 {
	wide := make([]float32, len(x.Data)/p.DType.Size())
	vec.Widen(wide, x.Data, p.DType)
	var out []float64
	for at := 0; at < len(wide); at += p.stride {
		for _, v := range wide[at : at+p.D] {
			out = append(out, float64(v))
		}
	}
	return out
}

// solution is what the textbook formulas give in float64.
type solution struct{ o, lse, dq, dk, dv []float64 }

func (p *problem) solve() (s solution) {
	d := p.D
	s = solution{make([]float64, len(p.q)), make([]float64, p.rows), make([]float64, len(p.q)), make([]float64, len(p.k)), make([]float64, len(p.k))}
	for i := range p.rows {
		q, do, o := p.q[i*d:(i+1)*d], p.do[i*d:(i+1)*d], s.o[i*d:(i+1)*d]
		var score, slope []float64
		sum := 0.0
		for j := p.lo[i]; j < p.hi[i]; j++ {
			x, by := dot64(q, p.k[j*d:])*float64(p.Scale), 1.0
			if c := float64(p.SoftCap); c > 0 {
				x = c * math.Tanh(x/c)
				by = 1 - x/c*x/c
			}
			score, slope = append(score, x), append(slope, by)
			sum += math.Exp(x)
		}
		s.lse[i] = math.Log(sum)
		for n, x := range score {
			for e := range d {
				o[e] += math.Exp(x) / sum * p.v[(p.lo[i]+n)*d+e]
			}
		}
		shift := dot64(do, o)
		for n, x := range score {
			j, prob := (p.lo[i]+n)*d, math.Exp(x)/sum
			ds := prob * (dot64(do, p.v[j:]) - shift) * slope[n] * float64(p.Scale)
			for e := range d {
				s.dv[j+e] += prob * do[e]
				s.dk[j+e] += ds * q[e]
				s.dq[i*d+e] += ds * p.k[j+e]
			}
		}
	}
	return s
}

func dot64(x, y []float64) (sum float64) {
	for i, v := range x {
		sum += v * y[i]
	}
	return sum
}

func close64(t *testing.T, want, got []float64, tol float64, what string) {
	t.Helper()
	for i, w := range want {
		if !(math.Abs(w-got[i]) <= tol*max(1, math.Abs(w))) {
			require.Failf(t, "differs", "%s: element %d is %v, want %v", what, i, got[i], w)
		}
	}
}

func problems() []*problem {
	r := rand.New(rand.NewPCG(7, 7))
	var all []*problem
	for _, d := range []int{1, 4, 7, 8, 16, 24, 40, 64, 80, 100, 128, 256} {
		for _, n := range []struct{ rows, keys int }{{1, 1}, {3, 13}, {70, 71}, {33, 300}} {
			for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
				all = append(all, newProblem(r, dt, d, n.rows, n.keys, float32(r.IntN(2))*1.5))
			}
		}
	}
	return all
}

var tolerance = map[tensor.DType]float64{tensor.F32: 1e-5, tensor.BF16: 2e-2, tensor.F16: 3e-3}

// TestAttend compares tiles and single queries of every kernel with float64.
func TestAttend(t *testing.T) {
	all := problems()
	for i, p := range all {
		want := p.solve()
		eachKernel(t, func(t *testing.T, k, _ *kernel) {
			what := fmt.Sprintf("problem %d: %v, head %d, %d rows, %d keys, stride %d", i, p.DType, p.D, p.rows, p.keys, p.stride)
			o, lse := p.forward(newTiler(p.Shape, k))
			close64(t, want.o, o, tolerance[p.DType], what+": o")
			p.checkLSE(t, want.lse, lse, what)
			if p.rows <= MaxFew {
				o, lse = p.few(newTiler(p.Shape, k))
				close64(t, want.o, o, tolerance[p.DType], what+": o of few")
				p.checkLSE(t, want.lse, lse, what)
			}
			dq, dk, dv := p.backward(newTiler(p.Shape, k), want)
			close64(t, want.dq, dq, 2*tolerance[p.DType], what+": dq")
			close64(t, want.dk, dk, 2*tolerance[p.DType], what+": dk")
			close64(t, want.dv, dv, 2*tolerance[p.DType], what+": dv")
		})
	}
}

func (p *problem) checkLSE(t *testing.T, want, got []float64, what string) {
	for i, w := range want {
		if p.lo[i] == p.hi[i] {
			w = -7
		}
		require.InDelta(t, w, got[i], 1e-5*max(1, math.Abs(w)), "%s: lse of %d", what, i)
	}
}

// forward returns o and lse; that of a query without keys is -7.
func (p *problem) forward(t *Tiler) (o, lse []float64) {
	out := p.stored(make([]float64, len(p.q)))
	x, k := t.Tile(make([]float32, t.TileFloats())), make([]float32, t.PanelFloats(p.keys))
	t.Columns(k, p.stored(p.k), 0, p.keys, x.Temp)
	v := t.Strips(make([]float32, t.PanelFloats(p.keys)), p.stored(p.v), 0, p.keys, p.keys, x.Temp)
	for r0 := 0; r0 < p.rows; r0 += t.Queries() {
		rows := min(t.Queries(), p.rows-r0)
		for i := range rows {
			x.Lo[i], x.Hi[i] = int32(p.lo[r0+i]), int32(p.hi[r0+i])
		}
		x.Forward(p.stored(p.q), r0, rows, k, v)
		x.Store(out, r0, rows)
		for i := range rows {
			lse = append(lse, float64(x.LSE(-7)[i]))
		}
	}
	return p.read(out), lse
}

// few does the same in three parts.
func (p *problem) few(t *Tiler) (o, lse []float64) {
	x, out := t.Few(make([]float32, t.FewFloats())), p.stored(make([]float64, len(p.q)))
	for i := range p.rows {
		x.Lo[i], x.Hi[i] = int32(p.lo[i]), int32(p.hi[i])
	}
	parts := make([]Part, 3)
	for i := range parts {
		parts[i] = t.Part(make([]float32, t.PartFloats()))
		x.Attend(parts[i], p.stored(p.q), p.rows, p.stored(p.k), p.stored(p.v), p.keys*i/3, p.keys*(i+1)/3)
	}
	x.Merge(parts[0], parts[1], p.rows)
	x.Merge(parts[0], parts[2], p.rows)
	x.Store(out, parts[0], p.rows)
	for i := range p.rows {
		lse = append(lse, float64(parts[0].LSE(i, -7)))
	}
	return p.read(out), lse
}

func (p *problem) backward(t *Tiler, s solution) (dq, dk, dv []float64) {
	x, n := t.GradTile(make([]float32, t.GradTileFloats())), t.PanelFloats(p.keys)
	outs := [3]Rows{p.stored(make([]float64, len(p.q))), p.stored(make([]float64, len(p.k))), p.stored(make([]float64, len(p.k)))}
	in := GradIn{Q: p.stored(p.q), O: p.stored(s.o), DO: p.stored(p.do), K: make([]float32, n), V: make([]float32, n)}
	t.Columns(in.K, p.stored(p.k), 0, p.keys, x.Temp)
	t.Columns(in.V, p.stored(p.v), 0, p.keys, x.Temp)
	in.KPanel = t.Strips(make([]float32, n), p.stored(p.k), 0, p.keys, p.keys, x.Temp)
	sums := Sums{make([]float32, t.SumFloats(p.keys)), make([]float32, t.SumFloats(p.keys))}
	for in.R0 = 0; in.R0 < p.rows; in.R0 += t.GradQueries() {
		in.Rows, in.LSE = min(t.GradQueries(), p.rows-in.R0), nil
		for i := range in.Rows {
			lse := s.lse[in.R0+i]
			if math.IsInf(lse, -1) {
				lse = -1e30
			}
			in.LSE = append(in.LSE, float32(lse))
			x.See(i, p.lo[in.R0+i], p.hi[in.R0+i])
		}
		x.Backward(&in, outs[0], sums)
	}
	x.StoreSums(outs[1], outs[2], sums, p.keys)
	return p.read(outs[0]), p.read(outs[1]), p.read(outs[2])
}
