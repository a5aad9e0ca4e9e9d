package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/flash"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// attention is what the forward and the backward kernel share. The query heads that share a key head are taken together: their
// rows, token by token and within a token head by head, are cut into tiles, so each key is read once for all of them.
type attention struct {
	ops.AttentionDims
	op    ops.Attention
	dev   *Device
	dtype tensor.DType
	tiler *flash.Tiler

	keyRow, keyHead, keyBatch int // strides of k and v in elements
	rows                      int // of one key head: Tq·Rep
	heads                     int // key heads of all rows: B·Hkv
	lanes                     int // workers, each with scratch of its own
	laneFloats                int

	// Of the present call.
	call    *Call
	mask    attnMask
	scratch []float32
	seen    [][2]int // the keys that any query of a row of the batch sees
}

// attnTiny is the work, in FLOPs with nothing hidden, that one thread does in some ten microseconds.
const attnTiny = 1 << 20

func newAttention(d *Device, op ops.Attention, q, k, v tensor.Type) (*attention, error) {
	dims, err := op.Dims(q, k, v)
	if err != nil {
		return nil, err
	}
	if q.DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	a := &attention{AttentionDims: dims, op: op, dev: d, dtype: q.DType, lanes: d.threads, rows: dims.Tq * dims.Rep, heads: dims.B * dims.Hkv}
	a.keyRow, a.keyHead, a.keyBatch = a.Hkv*a.D, a.D, a.Tk*a.Hkv*a.D
	if op.HeadMajor {
		a.keyRow, a.keyHead = a.D, a.Tk*a.D
	}
	if 4*float64(a.heads)*float64(a.rows)*float64(a.Tk)*float64(a.D) < attnTiny {
		a.lanes = 1
	}
	a.tiler = flash.New(flash.Shape{DType: a.dtype, D: a.D, Scale: op.Scale, SoftCap: op.SoftCap})
	a.seen = make([][2]int, a.B)
	return a, nil
}

// begin prepares a call; extra are doc_start, q_offset and kv_len.
func (a *attention) begin(c *Call, extra [][]byte) {
	a.call, a.scratch = c, tensor.View[float32](c.Scratch)
	a.mask = attnMask{doc: tensor.View[int32](extra[0]), offset: tensor.View[int32](extra[1]), length: tensor.View[int32](extra[2]),
		causal: a.op.Causal, window: int(a.op.Window), tq: a.Tq, tk: a.Tk}
	for b := range a.seen {
		a.seen[b] = a.mask.union(b)
	}
}

// end drops the call's memory.
func (a *attention) end() { a.call, a.scratch, a.mask = nil, nil, attnMask{} }

// each runs tasks 0..n-1. Which worker a task falls to depends on timing, what it computes does not.
func (a *attention) each(n int, f func(worker, task int)) error {
	if a.lanes > 1 {
		return a.dev.pool.RunWorker(n, f)
	}
	return a.alone(n, f)
}

// alone runs them on the calling thread.
func (a *attention) alone(n int, f func(worker, task int)) error {
	for task := range n {
		f(0, task)
	}
	return nil
}

// lane is the scratch of a worker.
func (a *attention) lane(worker int) []float32 {
	return a.scratch[worker*a.laneFloats : (worker+1)*a.laneFloats]
}

// shared is the scratch after the lanes.
func (a *attention) shared() []float32 { return a.scratch[a.lanes*a.laneFloats:] }

// queries are the rows of a key head in a (B, Tq, Hq, D) tensor.
func (a *attention) queries(x []byte, head int) flash.Rows {
	at := (head/a.Hkv*a.Tq*a.Hq + head%a.Hkv*a.Rep) * a.D
	return flash.Rows{Data: x[at*a.dtype.Size():], Rep: a.Rep, Stride: a.Hq * a.D, Step: a.D}
}

// keys are the keys or values of a key head.
func (a *attention) keys(x []byte, head int) flash.Rows {
	at := head/a.Hkv*a.keyBatch + head%a.Hkv*a.keyHead
	return flash.Rows{Data: x[at*a.dtype.Size():], Rep: 1, Stride: a.keyRow}
}

// number returns where the number of a row of a key head lies in a (B, Hq, Tq) tensor.
func (a *attention) number(head, row int) int {
	return (head/a.Hkv*a.Hq+head%a.Hkv*a.Rep+row%a.Rep)*a.Tq + row/a.Rep
}

// numbers copies those of rows [r0, r0+len(x)) of a key head from a (B, Hq, Tq) tensor to x, or back.
func (a *attention) numbers(tensor, x []float32, head, r0 int, back bool) {
	if a.Rep == 1 {
		at := a.number(head, r0)
		if back {
			copy(tensor[at:], x)
		} else {
			copy(x, tensor[at:])
		}
		return
	}
	for j := range x {
		if at := a.number(head, r0+j); back {
			tensor[at] = x[j]
		} else {
			x[j] = tensor[at]
		}
	}
}

// attnMask tells which keys a query sees.
type attnMask struct {
	doc, offset, length []int32 // nil when absent
	causal              bool
	window, tq, tk      int
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

// union returns the least interval that holds the keys of all queries of row b.
func (m *attnMask) union(b int) [2]int {
	first, last := m.tk, 0
	for t := range m.tq {
		if lo, hi := m.keys(b, t); lo < hi {
			first, last = min(first, lo), max(last, hi)
		}
	}
	return [2]int{min(first, last), last}
}
