package cuda

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// simtTile is a block's share of an attention in float32 arithmetic: rows it owns, and columns that it goes over at a time.
type simtTile struct{ rows, columns int }

// simtTiles in order of preference: the first of which two blocks fit a multiprocessor's shared memory, else the first that fits.
var simtTiles = []simtTile{{64, 64}, {64, 32}, {32, 32}, {32, 16}}

const (
	simtMax   = 128 // head size
	simtRow   = 8   // rows of a thread, of which 16 share them
	simtDepth = 64  // the head size is a multiple of it in shared memory
)

func (a *attention) simtHead() int { return (a.D + simtDepth - 1) / simtDepth * simtDepth }

// simtFits tells whether the kernels that compute tiles in float32 can take this attention.
func (a *attention) simtFits() bool {
	const least = 32 // rows of a tile
	return a.dtype != tensor.F64 && a.D <= simtMax && int64(a.B)*int64(a.Hq)*int64(a.Tq/least+1) < math.MaxInt32 &&
		int64(a.B)*int64(a.Hkv)*int64(a.Tk/least+1) < math.MaxInt32
}

// simtBytes is the shared memory of a tile with so many rows of D columns.
func (a *attention) simtBytes(t simtTile, rows int) int {
	return 4 * (rows*(a.simtHead()+4) + t.rows*(t.columns+4))
}

func (a *attention) simtTile(rows func(simtTile) int) (simtTile, error) {
	for _, blocks := range []int{2, 1} {
		for _, t := range simtTiles {
			if blocks*(a.simtBytes(t, rows(t))+attnFlashStatic) <= a.dev.SharedMax() {
				return t, nil
			}
		}
	}
	return simtTile{}, fmt.Errorf("a head size of %d needs more than the %d bytes of shared memory of this device", a.D, a.dev.SharedMax())
}

func (a *attention) simtFunction(file string, t simtTile, name string) (*Function, error) {
	p := a.program(file, fmt.Sprintf("D %d", a.simtHead()), fmt.Sprintf("ROWS %d", t.rows), fmt.Sprintf("COLS %d", t.columns))
	p.Files = []string{"attention.cuh", "attention_simt.cuh", file}
	return a.dev.Function(p, name)
}

// simtBlocks is a grid of a block for each tile of `positions` rows of every head.
func (a *attention) simtBlocks(t simtTile, positions, heads, rows int) Geometry {
	g := Rows((positions+t.rows-1)/t.rows*a.B*heads, t.rows/simtRow*16)
	g.Shared = a.simtBytes(t, rows)
	return g
}

// simtForward is the kernel for float32, and for 16-bit values where tensor cores do not take them.
func (a *attention) simtForward() (attnRun, error) {
	rows := func(t simtTile) int { return t.rows + 2*t.columns }
	t, err := a.simtTile(rows)
	if err != nil {
		return attnRun{}, err
	}
	f, err := a.simtFunction("attention_simt.cu", t, "attend_simt")
	if err != nil {
		return attnRun{}, err
	}
	g := a.simtBlocks(t, a.Tq, a.Hq, rows(t))
	return attnRun{label: "attention_simt", enqueue: func(c *Call, io *attnIO, _ Addr) error {
		return c.Launch(f, g, &a.args, io.q, io.k, io.v, io.o, io.lse)
	}}, nil
}

// simtBackward is its gradient.
func (a *attention) simtBackward() (attnRun, error) {
	rows := func(t simtTile) int { return 2 * (t.rows + t.columns) }
	t, err := a.simtTile(rows)
	if err != nil {
		return attnRun{}, err
	}
	delta, err := a.dev.Function(a.program("attention_plain.cu", "SPAN "+attnSpan(a.D)), "attend_delta")
	if err != nil {
		return attnRun{}, err
	}
	dq, err := a.simtFunction("attention_simt_grad.cu", t, "attend_simt_dq")
	if err != nil {
		return attnRun{}, err
	}
	dkv, err := a.simtFunction("attention_simt_grad.cu", t, "attend_simt_dkv")
	if err != nil {
		return attnRun{}, err
	}
	byQuery, byKey := a.simtBlocks(t, a.Tq, a.Hq, rows(t)), a.simtBlocks(t, a.Tk, a.Hkv, rows(t))
	return attnRun{label: "attention_simt_grad", scratch: a.numbers(), enqueue: func(c *Call, io *attnIO, numbers Addr) error {
		if err := c.Launch(delta, a.warps(a.Tq, a.Hq), &a.args, io.o, io.dout, io.dlse, numbers); err != nil {
			return err
		}
		if err := c.Launch(dq, byQuery, &a.args, io.q, io.k, io.v, io.dout, io.lse, numbers, io.dq); err != nil {
			return err
		}
		return c.Launch(dkv, byKey, &a.args, io.q, io.k, io.v, io.dout, io.lse, numbers, io.dk, io.dv)
	}}, nil
}
