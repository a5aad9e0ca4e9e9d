package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/flash"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildAttention) }

// The key heads go in waves: those of a wave are packed together, then their tiles are computed.
const (
	attnWaveTiles  = 128     // tiles wanted in a wave, so that threads end together
	attnWaveFloats = 2 << 20 // packed keys and values of a wave, at most, unless it is one head
	attnPackKeys   = 256     // keys of a packing task
)

// attnForward computes tile by tile with running maxima and sums (Milakov & Gimelshein 2018, Dao et al. 2022).
type attnForward struct {
	*attention
	tiles  int // of a key head
	wave   int // heads of a wave
	first  int // head of the present wave
	chunks int // packing tasks of a head

	packFn, tileFn func(worker, task int)
}

func buildAttention(d *Device, op ops.Attention, s device.Spec) (*Kernel, error) {
	a, err := newAttention(d, op, s.In[0], s.In[1], s.In[2])
	if err != nil {
		return nil, err
	}
	if a.rows <= flash.MaxFew {
		return buildAttentionFew(a), nil
	}
	f := &attnForward{attention: a, tiles: ceilDiv(a.rows, a.tiler.Queries()), chunks: ceilDiv(a.Tk, attnPackKeys)}
	f.wave = min(max(min(ceilDiv(attnWaveTiles, f.tiles), attnWaveFloats/(2*a.tiler.PanelFloats(a.Tk))), 1), a.heads)
	a.laneFloats = a.tiler.TileFloats()
	f.packFn, f.tileFn = f.pack, f.tile
	return &Kernel{Label: "attention_flash", ScratchBytes: 4 * int64(a.lanes*a.laneFloats+f.wave*2*a.tiler.PanelFloats(a.Tk)), Run: f.run}, nil
}

func ceilDiv(n, by int) int { return (n + by - 1) / by }

func (f *attnForward) run(c *Call) error {
	f.begin(c, c.In[3:6])
	defer f.end()
	for f.first = 0; f.first < f.heads; f.first += f.wave {
		heads := min(f.wave, f.heads-f.first)
		if err := f.each(heads*f.chunks, f.packFn); err != nil {
			return err
		}
		if err := f.each(heads*f.tiles, f.tileFn); err != nil {
			return err
		}
	}
	return nil
}

// panels are the packed keys and values of head number i of the wave.
func (f *attnForward) panels(i int) (k, v []float32) {
	n := f.tiler.PanelFloats(f.Tk)
	both := f.shared()[2*i*n : 2*(i+1)*n]
	return both[:n], both[n:]
}

func (f *attnForward) pack(worker, task int) {
	head, chunk := task/f.chunks, task%f.chunks
	k, v := f.panels(head)
	head += f.first
	seen := f.seen[head/f.Hkv]
	lo, hi := max(seen[0], chunk*attnPackKeys), min(seen[1], (chunk+1)*attnPackKeys)
	if lo >= hi {
		return
	}
	t := f.tiler.Tile(f.lane(worker))
	f.tiler.Columns(k, f.keys(f.call.In[1], head), lo, hi, t.Temp)
	f.tiler.Strips(v, f.keys(f.call.In[2], head), lo, hi, f.Tk, t.Temp)
}

// tile computes one tile. The last tiles, which see the most keys when causal, come first.
func (f *attnForward) tile(worker, task int) {
	heads := min(f.wave, f.heads-f.first)
	k, v := f.panels(task % heads)
	head, i := f.first+task%heads, f.tiles-1-task/heads
	t, nr := f.tiler.Tile(f.lane(worker)), f.tiler.Queries()
	r0 := i * nr
	rows := min(nr, f.rows-r0)
	for j := range rows {
		lo, hi := f.mask.keys(head/f.Hkv, (r0+j)/f.Rep)
		t.Lo[j], t.Hi[j] = int32(lo), int32(hi)
	}
	t.Forward(f.queries(f.call.In[0], head), r0, rows, k, f.tiler.Packed(v, f.Tk))
	t.Store(f.queries(f.call.Out[0], head), r0, rows)
	f.numbers(tensor.View[float32](f.call.Out[1]), t.LSE(ops.NoKeys)[:rows], head, r0, true)
}
