package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/flash"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildAttention) }

// With many key heads a task is one of them: what a thread packs stays in its own cache. With few, heads go in waves: those of a wave
// are packed together by all threads, then their tiles are computed. Both give the same bits.
const (
	attnLaneHeads  = 8       // key heads a thread, for a head to be a task
	attnWaveTiles  = 128     // tiles wanted in a wave, so that threads end together
	attnWaveFloats = 2 << 20 // packed keys and values of a wave, at most, unless it is one head
	attnPackKeys   = 256     // keys of a packing task
)

// attnForward computes tile by tile with running maxima and sums (Milakov & Gimelshein 2018, Dao et al. 2022).
type attnForward struct {
	*attention
	tiles  int // of a key head
	wave   int // heads of a wave; 0: a head is a task
	first  int // head of the present wave
	chunks int // packing tasks of a head

	packFn, tileFn, headFn func(worker, task int)
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
	panels := a.lanes
	if a.heads < attnLaneHeads*a.lanes && a.lanes > 1 {
		f.wave = min(max(min(ceilDiv(attnWaveTiles, f.tiles), attnWaveFloats/(2*a.tiler.PanelFloats(a.Tk))), 1), a.heads)
		panels = f.wave
	}
	a.laneFloats = a.tiler.TileFloats()
	f.packFn, f.tileFn, f.headFn = f.waveChunk, f.waveTile, f.head
	return &Kernel{Label: "attention_flash", ScratchBytes: 4 * int64(a.lanes*a.laneFloats+panels*2*a.tiler.PanelFloats(a.Tk)), Run: f.run}, nil
}

func ceilDiv(n, by int) int { return (n + by - 1) / by }

func (f *attnForward) run(c *Call) error {
	f.begin(c, c.In[3:6])
	defer f.end()
	if f.wave == 0 {
		return f.each(f.heads, f.headFn)
	}
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

// panels is the storage of packed keys and values number i, of a head of the wave or of a worker.
func (f *attnForward) panels(i int) (k, v []float32) {
	n := f.tiler.PanelFloats(f.Tk)
	both := f.shared()[2*i*n : 2*(i+1)*n]
	return both[:n], both[n:]
}

// head computes a whole key head.
func (f *attnForward) head(worker, head int) {
	seen := f.seen[head/f.Hkv]
	f.pack(worker, worker, head, seen[0], seen[1])
	for i := range f.tiles {
		f.tile(worker, worker, head, i)
	}
}

// waveChunk packs some keys of a head of the wave.
func (f *attnForward) waveChunk(worker, task int) {
	head, chunk := task/f.chunks, task%f.chunks
	seen := f.seen[(f.first+head)/f.Hkv]
	f.pack(worker, head, f.first+head, max(seen[0], chunk*attnPackKeys), min(seen[1], (chunk+1)*attnPackKeys))
}

// waveTile computes a tile of the wave. The last tiles, which see the most keys when causal, come first.
func (f *attnForward) waveTile(worker, task int) {
	heads := min(f.wave, f.heads-f.first)
	f.tile(worker, task%heads, f.first+task%heads, f.tiles-1-task/heads)
}

// pack packs keys and values [lo, hi) of a head into panels number at.
func (f *attnForward) pack(worker, at, head, lo, hi int) {
	if lo >= hi {
		return
	}
	t := f.tiler.Tile(f.lane(worker))
	k, v := f.panels(at)
	f.tiler.Columns(k, f.keys(f.call.In[1], head), lo, hi, t.Temp)
	f.tiler.Strips(v, f.keys(f.call.In[2], head), lo, hi, f.Tk, t.Temp)
}

// tile computes tile i of a head from panels number at.
func (f *attnForward) tile(worker, at, head, i int) {
	k, v := f.panels(at)
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
