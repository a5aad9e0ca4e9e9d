package cuda

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// attnTile is a block's share of an attention: queries and keys of a tile; forward, groups of 16 rows of a warp, for the keys' gradient,
// tiles of queries in memory at a time, of which two hide how long one takes to come.
type attnTile struct{ queries, keys, groups int }

// The rows of shared memory that the passes need.
func (t attnTile) forwardRows() int { return t.queries + 2*t.keys }
func (t attnTile) dqRows() int      { return 2*t.queries + 2*t.keys }
func (t attnTile) dkvRows() int     { return 2*t.queries*t.groups + 2*t.keys }

// Tiles in order of preference; the first that the device's shared memory holds is taken.
var (
	attnTilesForward = []attnTile{{128, 64, 2}, {64, 64, 1}, {64, 32, 1}, {64, 16, 1}}
	attnTilesWide    = []attnTile{{64, 32, 1}, {64, 16, 1}} // heads of more than 128: sums need the registers
	attnTilesDQ      = []attnTile{{64, 64, 1}, {64, 32, 1}, {64, 16, 1}, {32, 16, 1}}
	attnTilesDKV     = []attnTile{{64, 64, 2}, {64, 64, 1}, {32, 64, 1}, {16, 64, 1}, {16, 32, 1}}
)

const (
	attnFlashMax    = 256     // head size
	attnFlashStatic = 4 << 10 // shared memory that the kernels have beside the tiles
)

// Programs of gradients have one kernel each: they are compiled beside each other, and none for the tiles of another.
const (
	passDQ    = "PASS 1"
	passDKV   = "PASS 2"
	passDelta = "PASS 3"
)

// flashHead is the head size that tensor-core kernels compute with, a multiple of 16.
func (a *attention) flashHead() int { return (a.D + 15) / 16 * 16 }

// flashFits tells whether the tensor-core kernels can take this attention, its operands being aligned.
func (a *attention) flashFits() bool {
	old := a.dev.Capability() < 80 && (a.dtype != tensor.F16 || a.dev.Capability() < 75)
	return (a.dtype == tensor.BF16 || a.dtype == tensor.F16) && !old && a.D%8 == 0 && a.D <= attnFlashMax && a.op.Scale > 0 &&
		int64(a.B)*int64(a.Hq)*int64(a.Tq/16+1) < math.MaxInt32 && int64(a.B)*int64(a.Hkv)*int64(a.Tk/16+1) < math.MaxInt32
}

// tile picks the first tile for which rows(tile) rows fit into shared memory: those of two blocks, for heads that leave two the
// registers, if there is a later choice.
func (a *attention) tile(from []attnTile, rows func(attnTile) int) (attnTile, error) {
	for i, t := range from {
		blocks := 1
		if i == 0 && a.D <= 128 {
			blocks = 2
		}
		if blocks*(a.flashBytes(rows(t))+attnFlashStatic) <= a.dev.SharedMax() {
			return t, nil
		}
	}
	return attnTile{}, fmt.Errorf("a head size of %d needs more than the %d bytes of shared memory of this device", a.D, a.dev.SharedMax())
}

// flashBytes is the size of rows of a tile.
func (a *attention) flashBytes(rows int) int { return rows * (a.flashHead() + 8) * 2 }

func (a *attention) flashFunction(file string, t attnTile, name string, define ...string) (*Function, error) {
	p := a.program(file, fmt.Sprintf("D %d", a.flashHead()), fmt.Sprintf("BM %d", t.queries), fmt.Sprintf("BK %d", t.keys), fmt.Sprintf("M %d", t.groups))
	if a.gated {
		p.Define = append(p.Define, "LOOP")
	}
	p.Define = append(append(p.Define, a.cappedDefine()), define...)
	p.Files = []string{"attention.cuh", "tensor_core.cuh", "attention_tiles.cuh", "attention_rows.cuh", file}
	return a.dev.Function(p, name)
}

// cappedDefine tells kernels whether there is a soft cap: it costs the others registers, even where it is skipped.
func (a *attention) cappedDefine() string {
	if a.op.SoftCap > 0 {
		return "CAPPED 1"
	}
	return "CAPPED 0"
}

// flashForward is the tensor-core kernel.
func (a *attention) flashForward() (attnRun, error) {
	from := attnTilesForward
	switch {
	case a.D > 128:
		from = attnTilesWide
	case a.Tq <= 64:
		from = from[1:]
	}
	t, err := a.tile(from, attnTile.forwardRows)
	if err != nil {
		return attnRun{}, err
	}
	return a.flashTiled(t)
}

func (a *attention) flashTiled(t attnTile) (attnRun, error) {
	f, err := a.flashFunction("attention_flash.cu", t, "attend_flash")
	if err != nil {
		return attnRun{}, err
	}
	g := a.blocks(a.Tq, t.queries, a.Hq, t.queries/t.groups*2, t.forwardRows())
	return attnRun{label: "attention_flash", enqueue: func(c *Call, io *attnIO, _ Addr) error {
		return c.Launch(f, g, &a.args, io.q, io.k, io.v, io.o, io.lse)
	}}, nil
}

// blocks is a grid of a block for every `each` positions of every head; few blocks, which loop, where a launch is unlikely to do
// anything: it should cost little then.
func (a *attention) blocks(positions, each, heads, threads, rows int) Geometry {
	n := (positions + each - 1) / each * a.B * heads
	if a.gated {
		n = min(n, 2*a.dev.Multiprocessors())
	}
	g := Rows(n, threads)
	g.Shared = a.flashBytes(rows)
	return g
}

// flashBackward is its gradient.
func (a *attention) flashBackward() (attnRun, error) {
	tq, err := a.tile(attnTilesDQ, attnTile.dqRows)
	if err != nil {
		return attnRun{}, err
	}
	tk, err := a.tile(attnTilesDKV, attnTile.dkvRows)
	if err != nil {
		return attnRun{}, err
	}
	return a.flashGradTiled(tq, tk)
}

func (a *attention) flashGradTiled(tq, tk attnTile) (attnRun, error) {
	const file = "attention_flash_grad.cu"
	delta, err := a.flashFunction(file, tq, "attend_flash_delta", passDelta)
	if err != nil {
		return attnRun{}, err
	}
	dq, err := a.flashFunction(file, tq, "attend_flash_dq", passDQ)
	if err != nil {
		return attnRun{}, err
	}
	dkv, err := a.flashFunction(file, tk, "attend_flash_dkv", passDKV)
	if err != nil {
		return attnRun{}, err
	}
	byRow := Over(int64(a.B)*int64(a.Tq)*int64(a.Hq)*8, 256, 1)
	if a.gated {
		byRow.Grid[0] = min(byRow.Grid[0], 2*a.dev.Multiprocessors())
	}
	byQuery := a.blocks(a.Tq, tq.queries, a.Hq, tq.queries*2, tq.dqRows())
	byKey := a.blocks(a.Tk, tk.keys, a.Hkv, tk.keys*2, tk.dkvRows())
	return attnRun{label: "attention_flash_grad", scratch: a.numbers(), enqueue: func(c *Call, io *attnIO, numbers Addr) error {
		if err := c.Launch(delta, byRow, &a.args, io.o, io.dout, io.dlse, numbers); err != nil {
			return err
		}
		if err := c.Launch(dq, byQuery, &a.args, io.q, io.k, io.v, io.dout, io.lse, numbers, io.dq); err != nil {
			return err
		}
		return c.Launch(dkv, byKey, &a.args, io.q, io.k, io.v, io.dout, io.lse, numbers, io.dk, io.dv)
	}}, nil
}
