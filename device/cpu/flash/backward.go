package flash

import "math"

// gradGroups is how many tiles of queries the backward pass does together, so that the sums of dk and dv are read and written
// half as often.
const gradGroups = 2

// GradQueries is how many rows a GradTile has.
func (t *Tiler) GradQueries() int { return gradGroups * t.k.nr }

// GradTile is the storage of one thread for the backward pass.
type GradTile struct {
	*Tiler
	groups      [gradGroups]gradGroup
	s, ds       []float32 // (gradGroups, blockKeys, nr): scores, then probabilities; and the gradient of these, then of the scores
	qRows       []float32 // (gradGroups·nr, dn)
	doRows      []float32 // (gradGroups·nr, dn)
	rows, ones  []float32
	factors     []float32
	Temp        []float32
	blockFloats int // of s of a group
}

// gradGroup is one tile of queries.
type gradGroup struct {
	Mask
	q, do, dq []float32 // (dp, nr)
	state     []float32 // lse and shift, nr each
	capShift  []float32 // with a cap, the shift: what is in state is zero then
	from, to  int       // keys of the present block; from = to if none
	begun     bool
}

// GradTileFloats is the scratch of a GradTile.
func (t *Tiler) GradTileFloats() int {
	nr := t.k.nr
	group := 3*roundUp(t.dp*nr, 16) + 2*roundUp(2*nr, 16) + roundUp(nr, 16)
	return gradGroups*(group+2*blockKeys*nr+2*roundUp(nr*t.dn, 16)) + roundUp(nr*t.dp, 16) + 2*roundUp(nr, 16) + roundUp(t.TempFloats(), 16)
}

// GradTile carves a GradTile out of scratch.
func (t *Tiler) GradTile(scratch []float32) GradTile {
	c, nr := carver{scratch}, t.k.nr
	x := GradTile{Tiler: t, blockFloats: blockKeys * nr}
	for i := range x.groups {
		x.groups[i] = gradGroup{Mask: c.mask(nr), q: c.take(t.dp * nr), do: c.take(t.dp * nr), dq: c.take(t.dp * nr),
			state: c.take(2 * nr), capShift: c.take(nr)}
	}
	x.s, x.ds = c.take(gradGroups*x.blockFloats), c.take(gradGroups*x.blockFloats)
	x.qRows, x.doRows = c.take(gradGroups*nr*t.dn), c.take(gradGroups*nr*t.dn)
	x.rows, x.ones, x.factors, x.Temp = c.take(nr*t.dp), c.take(nr), c.take(nr), c.take(t.TempFloats())
	for i := range x.ones {
		x.ones[i] = 1
	}
	return x
}

// See sets the keys that query i of the tile sees.
func (t *GradTile) See(i, lo, hi int) {
	g, lane := &t.groups[i/t.k.nr], i%t.k.nr
	g.Lo[lane], g.Hi[lane] = int32(lo), int32(hi)
}

// GradIn are the operands of the backward pass: q, o and do, of which the tile takes rows [R0, R0+Rows), keys and values.
type GradIn struct {
	Q, O, DO Rows
	R0, Rows int
	K, V     []float32 // packed by Columns
	KPanel   Panel
	// LSE and Shift of query i of the tile are read from these: lse, and what is subtracted from rowsum(do∘o), or nil.
	LSE, DLSE []float32
}

// Sums are dk and dv of one key head, (keys rounded up to 8, Width).
type Sums struct{ K, V []float32 }

// Width is how far the rows of Sums are apart.
func (t *Tiler) Width() int { return t.dn }

// SumFloats is the extent of each of them.
func (t *Tiler) SumFloats(keys int) int { return roundUp(keys, pad) * t.dn }

// Backward writes dq of the rows and adds their share to sums.
func (t *GradTile) Backward(in *GradIn, dq Rows, sums Sums) {
	nr := t.k.nr
	first, last := math.MaxInt, 0
	for i := range t.groups {
		g := &t.groups[i]
		rows := min(max(in.Rows-i*nr, 0), nr)
		g.look(rows)
		g.begun = false
		if g.first < g.last {
			first, last = min(first, g.first), max(last, g.last)
			t.operand(g.q, t.qRows[i*nr*t.dn:], in.Q, in.R0+i*nr, rows, t.query)
			t.operand(g.do, t.doRows[i*nr*t.dn:], in.DO, in.R0+i*nr, rows, t.unit)
			t.prepare(in, g, i*nr, rows)
		}
	}
	for at := first / t.k.mr * t.k.mr; at < last; at += blockKeys {
		t.block(in, at, sums)
	}
	for i := range t.groups {
		t.store(&t.groups[i], dq, in.R0+i*nr, min(in.R0+(i+1)*nr, in.R0+in.Rows))
	}
}

// operand packs rows [r0, r0+n) of x both ways: as a panel times by, and as rows of dn. Where the rows are float32 the panel
// is made from them first, as that reads ahead.
func (t *GradTile) operand(panel, rows []float32, x Rows, r0, n int, by float32) {
	f, ld := t.plain(x, r0, n)
	if f != nil {
		t.sideways(panel, f, ld, by, t.factors)
	}
	t.gather(rows, t.dn, x, r0, r0+n, t.k.nr)
	if f == nil {
		t.sideways(panel, rows, t.dn, by, t.factors)
	}
}

// prepare sets lse, in units of ln 2, and shift = rowsum(do∘o) - dlse. Lanes without a query get an lse that makes every
// probability zero.
func (t *GradTile) prepare(in *GradIn, g *gradGroup, row0, rows int) {
	nr := t.k.nr
	lse, shift := g.state[:nr], g.state[nr:]
	o, ld := t.plain(in.O, in.R0+row0, rows)
	if o == nil {
		o, ld = t.rows, t.dp
		t.gather(o, ld, in.O, in.R0+row0, in.R0+row0+rows, nr)
	}
	t.k.dotRows(nr, t.dp/8, &o[0], ld, &t.doRows[row0*t.dn], t.dn, &shift[0])
	for i := range nr {
		if i >= rows {
			lse[i], shift[i] = math.MaxFloat32, 0
			continue
		}
		if in.DLSE != nil {
			shift[i] -= in.DLSE[row0+i]
		}
		lse[i], shift[i] = in.LSE[row0+i]*math.Log2E, shift[i]*t.unit
	}
	if t.SoftCap > 0 {
		copy(g.capShift, shift)
		clear(shift)
	}
}

// block works on keys [at, at+blockKeys).
func (t *GradTile) block(in *GradIn, at int, sums Sums) {
	k, mr := t.k, t.k.mr
	for i := range t.groups {
		g := &t.groups[i]
		g.from, g.to = max(at, g.first/mr*mr), min(at+blockKeys, g.last)
		if g.from >= g.to {
			g.from, g.to = at, at
			continue
		}
		padded := roundUp(g.to-g.from, mr)
		lead := i*t.blockFloats + (g.from-at)*k.nr
		s, ds := t.s[lead:], t.ds[lead:]
		k.outer(t.D, padded/mr, &in.K[g.from*t.dp], mr, t.dp*mr, &g.q[0], &s[0], nil)
		k.outer(t.D, padded/mr, &in.V[g.from*t.dp], mr, t.dp*mr, &g.do[0], &ds[0], nil)
		if t.SoftCap > 0 {
			t.capScoresGrad(s, ds, g.capShift, padded, t.factors)
		}
		g.hide(k, s, g.from, g.from+padded)
		k.slopes(padded, &s[0], &ds[0], &g.state[0])
		shrink := &t.ones[0]
		if !g.begun {
			shrink, g.begun = nil, true
		}
		k.outer(g.to-g.from, t.dp/mr, in.KPanel.at(g.from), in.KPanel.ld, in.KPanel.step, &ds[0], &g.dq[0], shrink)
	}
	t.addUp(at, sums)
}

// addUp adds the block to the sums: keys that both groups have in one go, the others group by group.
func (t *GradTile) addUp(at int, sums Sums) {
	a, b := &t.groups[0], &t.groups[1]
	a0, a1 := a.from-at, roundUp(a.to-at, t.k.mr)
	b0, b1 := b.from-at, roundUp(b.to-at, t.k.mr)
	lo, hi := max(a0, b0), min(a1, b1)
	if lo >= hi {
		t.add(at, 0, 1, a0, a1, sums)
		t.add(at, 1, 1, b0, b1, sums)
		return
	}
	t.add(at, 0, 2, lo, hi, sums)
	t.add(at, 0, 1, a0, lo, sums)
	t.add(at, 0, 1, hi, a1, sums)
	t.add(at, 1, 1, b0, lo, sums)
	t.add(at, 1, 1, hi, b1, sums)
}

// add adds keys [at+from, at+to) of groups, the first being group g.
func (t *GradTile) add(at, g, groups, from, to int, sums Sums) {
	if from >= to {
		return
	}
	k := t.k
	lead, row := g*t.blockFloats+from*k.nr, (at+from)*t.dn
	for j := 0; j < t.dn; j += k.nr {
		k.inner(groups, t.blockFloats, (to-from)/k.mr, &t.s[lead], &t.doRows[g*k.nr*t.dn+j], t.dn, &sums.V[row+j], t.dn)
		k.inner(groups, t.blockFloats, (to-from)/k.mr, &t.ds[lead], &t.qRows[g*k.nr*t.dn+j], t.dn, &sums.K[row+j], t.dn)
	}
}

// store rounds dq of a group to rows [r0, r1).
func (t *GradTile) store(g *gradGroup, dq Rows, r0, r1 int) {
	if r0 >= r1 {
		return
	}
	if !g.begun {
		clear(t.rows)
		t.scatter(dq, r0, r1, t.rows, t.dp)
		return
	}
	for i := range r1 - r0 {
		if g.Lo[i] >= g.Hi[i] {
			t.silence(g.dq, i)
		}
	}
	t.times(g.dq, t.dp, t.gain, t.factors)
	t.Tiler.store(dq, r0, r1-r0, g.dq, t.rows)
}

// StoreSums rounds keys [0, keys) of the sums to rows of dk and dv. The sums of dk are multiplied in place by what queries are in
// panels, and are not in rows.
func (t *GradTile) StoreSums(dk, dv Rows, sums Sums, keys int) {
	t.times(sums.K, roundUp(keys, pad)*t.dn/t.k.nr, t.gain, t.factors)
	t.scatter(dk, 0, keys, sums.K, t.dn)
	t.scatter(dv, 0, keys, sums.V, t.dn)
}
