package cpu

import (
	"sync"
	"sync/atomic"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Extents of a score tile. A tile is attnTileQ query rows by attnTileK keys; the query heads that share a key head lie in one
// tile, so that each key is read once for all of them. The keys that a query sees are one interval, so a mask is two numbers a
// row, and each tile shrinks to the rows and keys that meet.
const (
	attnTileQ = 96
	attnTileK = 128
)

// attention is what the forward and the backward kernel share.
type attention struct {
	ops.AttentionDims
	op    ops.Attention
	dev   *Device
	dtype tensor.DType
	elem  int // bytes of an element of q, k and v

	keyRow, keyHead, keyBatch int // strides of k and v in elements
	tokens, tiles             int // queries of a tile of one head, and tiles along Tq
	rows                      int // rows of a full tile: tokens·Rep

	lanes     int // tasks that run at once, each with scratch of its own
	laneBytes int

	next atomic.Int64
	mu   sync.Mutex
	err  error
}

func newAttention(d *Device, op ops.Attention, q, k, v tensor.Type) (*attention, error) {
	dims, err := op.Dims(q, k, v)
	if err != nil {
		return nil, err
	}
	if q.DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	a := &attention{AttentionDims: dims, op: op, dev: d, dtype: q.DType, elem: q.DType.Size(), lanes: d.threads}
	a.keyRow, a.keyHead, a.keyBatch = a.Hkv*a.D, a.D, a.Tk*a.Hkv*a.D
	if op.HeadMajor {
		a.keyRow, a.keyHead = a.D, a.Tk*a.D
	}
	a.tokens = min(max(attnTileQ/a.Rep, 1), a.Tq)
	a.tiles = (a.Tq + a.tokens - 1) / a.tokens
	a.rows = a.tokens * a.Rep
	return a, nil
}

// mulScratch is what the largest product of a tile needs, in bytes.
func (a *attention) mulScratch() int64 {
	return max(gemm.ScratchBytes(a.rows, attnTileK, a.D, 1), gemm.ScratchBytes(a.rows, a.D, attnTileK, 1),
		gemm.ScratchBytes(attnTileK, a.D, a.rows, 1))
}

// each runs f for tasks 0..n-1 on the pool, every call with the scratch of its lane. Which lane a task falls to depends on
// timing, what it computes does not.
func (a *attention) each(scratch []byte, n int, f func(lane []byte, task int) error) error {
	a.next.Store(0)
	a.err = nil
	err := a.dev.parallel(min(n, a.lanes), func(lane int) {
		mine := scratch[lane*a.laneBytes : (lane+1)*a.laneBytes]
		for {
			task := int(a.next.Add(1)) - 1
			if task >= n {
				return
			}
			if err := f(mine, task); err != nil {
				a.mu.Lock()
				a.err = err
				a.mu.Unlock()
				return
			}
		}
	})
	if err == nil {
		err = a.err
	}
	return err
}

// carver cuts scratch into slices whose first byte is on a cache line.
type carver struct{ b []byte }

const carveAlign = 64

func carved(bytes int) int { return (bytes + carveAlign - 1) / carveAlign * carveAlign }

func (c *carver) bytes(n int) []byte {
	out := c.b[:n:n]
	c.b = c.b[carved(n):]
	return out
}

func (c *carver) floats(n int) []float32 { return tensor.View[float32](c.bytes(4 * n)) }

func (c *carver) ints(n int) []int32 { return tensor.View[int32](c.bytes(4 * n)) }

// attnTile is one tile of queries: tokens [t0, t1) of the query heads that share key head h, in row b. Row i of the tile is
// token t0 + i/Rep of head h·Rep + i%Rep.
type attnTile struct {
	b, h   int
	t0, t1 int
	rows   int
	lo, hi []int32 // the keys each row sees
	first  int     // the least lo and the greatest hi of all rows that see a key; first = last if none does
	last   int
}

// tile prepares tile number i of row b and key head h. lo and hi are storage for a.rows numbers each.
func (a *attention) tile(m *attnMask, b, h, i int, lo, hi []int32) attnTile {
	t := attnTile{b: b, h: h, t0: i * a.tokens, t1: min((i+1)*a.tokens, a.Tq), lo: lo, hi: hi, first: a.Tk}
	t.rows = (t.t1 - t.t0) * a.Rep
	for row := range t.rows {
		if row%a.Rep > 0 {
			lo[row], hi[row] = lo[row-1], hi[row-1]
			continue
		}
		from, to := m.keys(b, t.t0+row/a.Rep)
		lo[row], hi[row] = int32(from), int32(to)
		if from < to {
			t.first, t.last = min(t.first, from), max(t.last, to)
		}
	}
	if t.last == 0 {
		t.first = 0
	}
	return t
}

// meet returns the rows [r0, r1) and keys [k0, k1) between which anything is visible within keys [from, to); r0 = r1 if nothing
// is.
func (t *attnTile) meet(from, to int) (r0, r1, k0, k1 int) {
	r0, k0, k1 = t.rows, to, from
	for i := range t.rows {
		lo, hi := max(int(t.lo[i]), from), min(int(t.hi[i]), to)
		if lo < hi {
			r0, r1 = min(r0, i), i+1
			k0, k1 = min(k0, lo), max(k1, hi)
		}
	}
	return min(r0, r1), r1, k0, k1
}

// span returns which of the scores of row i, which belong to keys k0.., are visible; the rest is cleared.
func (t *attnTile) span(i, k0 int, row []float32) (lo, hi int) {
	lo, hi = max(int(t.lo[i])-k0, 0), min(int(t.hi[i])-k0, len(row))
	if lo >= hi {
		clear(row)
		return 0, 0
	}
	clear(row[:lo])
	clear(row[hi:])
	return lo, hi
}

// row returns where row i of the tile begins in a (B, Tq, Hq, D) tensor, in units of D.
func (a *attention) row(t *attnTile, i int) int {
	return (t.b*a.Tq+t.t0+i/a.Rep)*a.Hq + t.h*a.Rep + i%a.Rep
}

// number returns where the number of row i lies in a (B, Hq, Tq) tensor.
func (a *attention) number(t *attnTile, i int) int {
	return (t.b*a.Hq+t.h*a.Rep+i%a.Rep)*a.Tq + t.t0 + i/a.Rep
}

// queries returns the rows of a tile of a (B, Tq, Hq, D) tensor as an operand, in place when their distance is constant, else
// gathered into buf.
func (a *attention) queries(t *attnTile, x, buf []byte) gemm.Mat {
	unit := a.D * a.elem
	switch {
	case a.Rep == 1:
		return gemm.Mat{Data: x[a.row(t, 0)*unit:], DType: a.dtype, LD: a.Hq * a.D}
	case a.Hkv == 1:
		return gemm.Mat{Data: x[a.row(t, 0)*unit:], DType: a.dtype, LD: a.D}
	}
	for i := range t.rows {
		at := a.row(t, i) * unit
		copy(buf[i*unit:(i+1)*unit], x[at:at+unit])
	}
	return gemm.Mat{Data: buf, DType: a.dtype, LD: a.D}
}

// gathered is the storage that queries needs.
func (a *attention) gathered() int {
	if a.Rep == 1 || a.Hkv == 1 {
		return 0
	}
	return a.rows * a.D * a.elem
}

// keys returns the keys or values of a key head from key k0 on as an operand.
func (a *attention) keys(t *attnTile, x []byte, k0 int) gemm.Mat {
	at := t.b*a.keyBatch + t.h*a.keyHead + k0*a.keyRow
	return gemm.Mat{Data: x[at*a.elem:], DType: a.dtype, LD: a.keyRow}
}

// from drops the first rows of an operand.
func from(m gemm.Mat, row int) gemm.Mat {
	m.Data = m.Data[row*m.LD*m.DType.Size():]
	return m
}

// transposed marks an operand as transposed.
func transposed(m gemm.Mat) gemm.Mat {
	m.Trans = true
	return m
}

// dense is a float32 operand in scratch.
func dense(x []float32, ld int) gemm.Mat {
	return gemm.Mat{Data: tensor.AsBytes(x), DType: tensor.F32, LD: ld}
}

// mul computes c = alpha·a·b, or adds it to c.
func mul(scratch []byte, m, n, k int, alpha float64, a, b gemm.Mat, c []float32, ldc int, add bool) error {
	return gemm.Gemm(nil, scratch, alpha, gemm.Args{M: m, N: n, K: k, A: a, B: b,
		C: gemm.Out{Data: tensor.AsBytes(c), DType: tensor.F32, LD: ldc}, Accumulate: add})
}

// attnMask tells which keys a query sees.
type attnMask struct {
	doc, offset, length []int32 // nil when absent
	causal              bool
	window, tq, tk      int
}

func (a *attention) mask(in [][]byte) attnMask {
	return attnMask{doc: tensor.View[int32](in[0]), offset: tensor.View[int32](in[1]), length: tensor.View[int32](in[2]),
		causal: a.op.Causal, window: int(a.op.Window), tq: a.Tq, tk: a.Tk}
}

// keys returns the keys [lo, hi) that query t of row b sees.
func (m *attnMask) keys(b, t int) (lo, hi int) {
	hi = m.tk
	if m.length != nil {
		hi = min(hi, int(m.length[b]))
	}
	if m.doc != nil {
		lo = int(m.doc[b*m.tq+t])
	}
	if m.causal {
		pos := t
		if m.offset != nil {
			pos += int(m.offset[b])
		}
		hi = min(hi, pos+1)
		if m.window > 0 {
			lo = max(lo, pos-m.window+1)
		}
	}
	lo, hi = max(lo, 0), max(hi, 0)
	return min(lo, hi), hi
}
