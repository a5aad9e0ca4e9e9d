package flash

import "math"

// lowest stands for "no score yet": finite, so that the difference of two is no NaN.
const lowest = -math.MaxFloat32

// Tile is the storage of one thread for the forward pass.
type Tile struct {
	Mask
	*Tiler
	q, acc     []float32 // (dp, nr)
	s          []float32 // (blockKeys, nr)
	rows       []float32 // (nr, dp)
	state      []float32 // of the softmax: top, sum and shrink, nr each
	factors    []float32
	begun      bool // acc holds something
	Temp       []float32
	shrinkPart *float32
}

// TileFloats is the scratch of a Tile.
func (t *Tiler) TileFloats() int {
	nr := t.k.nr
	return 2*roundUp(t.dp*nr, 16) + blockKeys*nr + roundUp(nr*t.dp, 16) + 3*nr + 2*roundUp(2*nr, 16) + roundUp(t.TempFloats(), 16) + 64
}

// Tile carves a Tile out of scratch.
func (t *Tiler) Tile(scratch []float32) Tile {
	c, nr := carver{scratch}, t.k.nr
	x := Tile{Tiler: t, Mask: c.mask(nr), q: c.take(t.dp * nr), acc: c.take(t.dp * nr), s: c.take(blockKeys * nr), rows: c.take(nr * t.dp),
		state: c.take(3 * nr), factors: c.take(nr), Temp: c.take(t.TempFloats())}
	x.shrinkPart = &x.state[2*nr]
	return x
}

// Forward attends with rows [r0, r0+rows) of q to keys packed by Columns and values. The mask must be set.
func (t *Tile) Forward(q Rows, r0, rows int, k []float32, v Panel) {
	nr := t.k.nr
	for i := range nr {
		t.state[i], t.state[nr+i] = lowest, 0
	}
	t.begun = false
	t.look(rows)
	if t.first == t.last {
		return
	}
	x, ld := t.plain(q, r0, rows)
	if x == nil {
		x, ld = t.rows, t.dp
		t.gather(x, ld, q, r0, r0+rows, nr)
	}
	t.sideways(t.q, x, ld, t.query, t.factors)
	for at := t.first / t.k.mr * t.k.mr; at < t.last; at += blockKeys {
		t.block(k, v, at, min(at+blockKeys, t.last))
	}
}

// block takes keys [from, to); from is at the start of a strip.
func (t *Tile) block(k []float32, v Panel, from, to int) {
	kern, mr := t.k, t.k.mr
	padded := roundUp(to-from, mr)
	kern.outer(t.D, padded/mr, &k[from*t.dp], mr, t.dp*mr, &t.q[0], &t.s[0], nil)
	if t.SoftCap > 0 {
		t.capScores(t.s, padded, t.factors)
	}
	t.hide(kern, t.s, from, from+padded)
	kern.softmax(padded, &t.s[0], &t.state[0])
	shrink := t.shrinkPart
	if !t.begun {
		shrink, t.begun = nil, true
	}
	kern.outer(to-from, t.dp/mr, v.at(from), v.ld, v.step, &t.s[0], &t.acc[0], shrink)
}

// Store divides by the sums and rounds the tile to rows [r0, r0+rows) of o. A query that saw no key gives zeros.
func (t *Tile) Store(o Rows, r0, rows int) {
	nr := t.k.nr
	if !t.begun {
		clear(t.rows)
		t.scatter(o, r0, r0+rows, t.rows, t.dp)
		return
	}
	for i, sum := range t.state[nr : 2*nr] {
		t.factors[i] = 1
		if sum != 0 {
			t.factors[i] = 1 / sum
		} else {
			t.silence(t.acc, i)
		}
	}
	t.k.scale(t.dp, &t.acc[0], &t.factors[0])
	t.store(o, r0, rows, t.acc, t.rows)
}

// LSE returns, query by query, the logarithm of the sum of the exponentials of the scores, none for a query that saw no key. It is
// in scratch that the next call of any method reuses.
func (t *Tile) LSE(none float32) []float32 {
	t.k.lse(&t.state[0], &t.factors[0])
	for i, sum := range t.state[t.k.nr : 2*t.k.nr] {
		if sum == 0 {
			t.factors[i] = none
		}
	}
	return t.factors
}
