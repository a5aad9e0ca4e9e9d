// Package flash multiplies the tiles of attention: scores, the running softmax, the sum of values, and the five products of the
// backward pass, for one key head at a time.
//
// A tile has queries side by side in the lanes of vector registers, keys below each other: (keys, queries). So the maxima and
// sums of the softmax run down the lanes without shuffling, a mask is two numbers a lane, and the probabilities come out as the
// panel that the next product takes; no matrix is rearranged between them. Keys and values are packed once for all tiles, as
// strips of mr keys (Columns) or of mr elements of the head (Strips), which the inner loops read by broadcasts.
//
// Scores are kept in units of ln 2: the factor log2(e) is in the packed queries, and exponentials are powers of two. What a task
// computes depends on its shapes, never on the thread. There is a Go twin of every inner loop, see kernel_go.go.
package flash

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// blockKeys is how many keys a tile takes at a time: its scores and one operand stay in the first cache.
const blockKeys = 128

const log2e = math.Log2E

// Rows are vectors of the head's extent in memory. Row r begins at element (r/Rep)*Stride + (r%Rep)*Step.
type Rows struct {
	Data              []byte
	Rep, Stride, Step int
}

// Shape is what all tiles of an attention have in common.
type Shape struct {
	DType   tensor.DType // F32, BF16 or F16
	D       int          // extent of a head
	Scale   float32      // factor on q·k
	SoftCap float32      // 0: none
}

// Tiler makes tiles of one shape.
type Tiler struct {
	Shape
	k      *kernel
	few    fewKernel
	widen  widenRows // of DType, nil where rows are converted one by one
	dp, dn int       // D rounded up to pad, and to whole registers of a row
	gain   float32   // Scale, times log2(e) unless capped
	query  float32   // what packed queries are multiplied by: gain, or that over the cap
	unit   float32   // ln 2, or 1 with a cap: the factor on dp that undoes it
}

// New returns a Tiler that uses the fastest loops.
func New(s Shape) *Tiler { return newTiler(s, best()) }

func newTiler(s Shape, k *kernel) *Tiler {
	t := &Tiler{Shape: s, k: k, dp: roundUp(s.D, pad), dn: roundUp(s.D, k.nr), gain: s.Scale, unit: 1}
	if s.SoftCap == 0 {
		t.gain, t.unit = s.Scale*math.Log2E, math.Ln2
		t.query = t.gain
	} else {
		t.query = t.gain / s.SoftCap
	}
	for _, few := range k.few {
		if t.dp%few.lanes == 0 {
			t.few = few
			break
		}
	}
	if t.D == t.dp {
		t.widen = map[tensor.DType]widenRows{tensor.BF16: t.few.bf16, tensor.F16: t.few.f16}[s.DType]
	}
	return t
}

// Queries is how many rows a tile has.
func (t *Tiler) Queries() int { return t.k.nr }

// PanelFloats is the extent of the packed form of so many keys.
func (t *Tiler) PanelFloats(keys int) int { return roundUp(keys, pad)*t.dp + t.dp/t.k.mr*stripGap }

// Columns packs keys [lo, hi) of x for products that sum over the head, lo rounded down to a multiple of 8. temp holds
// TempFloats.
func (t *Tiler) Columns(panel []float32, x Rows, lo, hi int, temp []float32) {
	for at := lo / pad * pad; at < hi; at += pad {
		to := &panel[at*t.dp]
		if t.DType == tensor.F32 && t.D == t.dp && at+pad <= hi {
			f := tensor.View[float32](x.Data)[at*x.Stride:]
			t.k.strips(to, t.dp*t.k.mr, &f[0], x.Stride, t.dp/8)
			continue
		}
		t.gather(temp, t.dp, x, at, min(at+pad, hi), pad)
		t.k.strips(to, t.dp*t.k.mr, &temp[0], t.dp, t.dp/8)
	}
}

// Panel are keys or values packed by Strips, for products that sum over keys: element i of strip s of key k is at s*step + k*ld + i.
type Panel struct {
	f        []float32
	ld, step int
}

func (p Panel) at(key int) *float32 { return &p.f[key*p.ld] }

// Strips packs keys [lo, hi) of x, lo rounded down to a multiple of 8, as a Panel for keys in all.
func (t *Tiler) Strips(panel []float32, x Rows, lo, hi, keys int, temp []float32) Panel {
	p := t.Packed(panel, keys)
	lo = lo / pad * pad
	if t.DType == tensor.F32 && t.D == t.dp && lo < hi {
		t.k.cut(hi-lo, t.dp/t.k.mr, p.at(lo), p.step, &tensor.View[float32](x.Data)[lo*x.Stride], x.Stride)
		return p
	}
	for ; lo < hi; lo += pad {
		end := min(lo+pad, hi)
		t.gather(temp, t.dp, x, lo, end, pad)
		t.k.cut(end-lo, t.dp/t.k.mr, p.at(lo), p.step, &temp[0], t.dp)
	}
	return p
}

// Packed is what Strips makes of panel. Its strips are not a power of two apart, so that rows are cut into many cache sets.
func (t *Tiler) Packed(panel []float32, keys int) Panel {
	return Panel{panel, t.k.mr, roundUp(keys, pad)*t.k.mr + stripGap}
}

const stripGap = 16

// TempFloats is the storage that packing needs.
func (t *Tiler) TempFloats() int { return pad * t.dp }

// plain returns rows [r0, r0+n) of x where they lie, if they are float32, whole and evenly spaced.
func (t *Tiler) plain(x Rows, r0, n int) (f []float32, ld int) {
	if t.DType != tensor.F32 || t.D != t.dp || n != t.k.nr || x.Rep > 1 && x.Stride != x.Rep*x.Step {
		return nil, 0
	}
	ld = x.Stride
	if x.Rep > 1 {
		ld = x.Step
	}
	return tensor.View[float32](x.Data)[r0*ld:], ld
}

// gather widens rows [r0, r1) of x into dst, ld apart, and clears what is missing of count rows of ld.
func (t *Tiler) gather(dst []float32, ld int, x Rows, r0, r1, count int) {
	size := t.DType.Size()
	if t.widen != nil && x.Rep == 1 && r0 < r1 {
		t.widen(r1-r0, t.D/t.few.lanes, &dst[0], ld, &tensor.View[uint16](x.Data)[r0*x.Stride], x.Stride)
		for r := 0; t.D < ld && r < r1-r0; r++ {
			clear(dst[r*ld+t.D : (r+1)*ld])
		}
		clear(dst[(r1-r0)*ld : count*ld])
		return
	}
	for r := r0; r < r1; r++ {
		row := dst[(r-r0)*ld : (r-r0+1)*ld]
		at := (r/x.Rep*x.Stride + r%x.Rep*x.Step) * size
		vec.Widen(row[:t.D], x.Data[at:at+t.D*size], t.DType)
		clear(row[t.D:])
	}
	clear(dst[(r1-r0)*ld : count*ld])
}

// scatter rounds rows of src, ld apart, to rows [r0, r1) of x.
func (t *Tiler) scatter(x Rows, r0, r1 int, src []float32, ld int) {
	size := t.DType.Size()
	for r := r0; r < r1; r++ {
		at := (r/x.Rep*x.Stride + r%x.Rep*x.Step) * size
		vec.Narrow(x.Data[at:at+t.D*size], src[(r-r0)*ld:][:t.D], t.DType)
	}
}

// sideways turns queries (nr, ld) into a panel (dp, nr) times by.
func (t *Tiler) sideways(panel, rows []float32, ld int, by float32, factors []float32) {
	for g := 0; g < t.k.nr; g += 8 {
		t.k.transpose(&panel[g], t.k.nr, &rows[g*ld], ld, t.dp/8)
	}
	t.times(panel, t.dp, by, factors)
}

// times multiplies rows of a panel by one number; factors is storage for nr floats.
func (t *Tiler) times(panel []float32, rows int, by float32, factors []float32) {
	if by == 1 {
		return
	}
	for i := range factors {
		factors[i] = by
	}
	t.k.scale(rows, &panel[0], &factors[0])
}

// store rounds a panel (dp, nr) to rows [r0, r0+n) of x; rows is storage for (nr, dp).
func (t *Tiler) store(x Rows, r0, n int, panel, rows []float32) {
	to, ld := t.plain(x, r0, n)
	if to == nil {
		to, ld = rows, t.dp
	}
	for d := 0; d < t.dp; d += 8 {
		t.k.transpose(&to[d], ld, &panel[d*t.k.nr], t.k.nr, t.k.nr/8)
	}
	if &to[0] == &rows[0] {
		t.scatter(x, r0, r0+n, rows, t.dp)
	}
}

// silence clears lane i of a panel: a query that sees no key gets zeros even where zero times a value is a NaN.
func (t *Tiler) silence(panel []float32, i int) {
	for ; i < t.dp*t.k.nr; i += t.k.nr {
		panel[i] = 0
	}
}

// Mask says which keys the queries of a tile see: query i those in [Lo[i], Hi[i]).
type Mask struct {
	Lo, Hi []int32

	seen        []int32 // Lo, then Hi
	first, last int     // the keys that any query sees lie in [first, last)
	all0, all1  int     // those in [all0, all1) are seen by all
}

// look finds the extremes over so many queries; the lanes behind them, whose limits are what the scratch held, see nothing.
func (m *Mask) look(rows int) {
	clear(m.Lo[rows:])
	clear(m.Hi[rows:])
	m.first, m.last, m.all0, m.all1 = math.MaxInt, 0, 0, math.MaxInt
	for i := range rows {
		lo, hi := int(m.Lo[i]), int(m.Hi[i])
		m.all0, m.all1 = max(m.all0, lo), min(m.all1, hi)
		if lo < hi {
			m.first, m.last = min(m.first, lo), max(m.last, hi)
		}
	}
	m.first = min(m.first, m.last)
}

// hide marks what is hidden of the scores s of keys [from, to).
func (m *Mask) hide(k *kernel, s []float32, from, to int) {
	if m.all0 >= m.all1 {
		k.hide(to-from, &s[0], from, &m.seen[0])
		return
	}
	if end := min(m.all0, to); from < end {
		k.hide(end-from, &s[0], from, &m.seen[0])
	}
	if at := max(m.all1, from); at < to {
		k.hide(to-at, &s[(at-from)*k.nr], at, &m.seen[0])
	}
}

// carver cuts scratch into slices that begin on cache lines.
type carver struct{ f []float32 }

func (c *carver) take(n int) []float32 {
	out := c.f[:n:n]
	c.f = c.f[roundUp(n, 16):]
	return out
}

func (c *carver) mask(nr int) Mask {
	seen := tensor.View[int32](tensor.AsBytes(c.take(2 * nr)))
	return Mask{Lo: seen[:nr], Hi: seen[nr:], seen: seen}
}
