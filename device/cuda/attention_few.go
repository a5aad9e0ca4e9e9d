package cuda

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const (
	attnFewRows    = 32  // queries times heads that share a key head, at most
	attnFewBlock   = 8   // of them in a block, at most
	attnFewKeys    = 64  // keys of a part, at least, when all are seen
	attnFewParts   = 64  // at most: two a lane are joined
	attnFewThreads = 128 // of a block
)

// attnFew is how the kernel for few queries goes about them: keys that a group of lanes asks for at once, blocks of a multiprocessor that registers are bounded
// for, and blocks of a multiprocessor that keys are cut for.
type attnFew struct{ ahead, resident, blocks int }

func (a *attention) fewWay() attnFew {
	if a.fewRows() > 4 {
		return attnFew{2, 1, 2}
	}
	return attnFew{4, 1, 2}
}

// fewFits tells whether the kernel for few queries can take this attention, its operands being aligned.
func (a *attention) fewFits() bool {
	vec := 16 / a.dtype.Size()
	return a.dtype != tensor.F64 && a.Tq*a.Rep <= attnFewRows && a.D%vec == 0 && a.D/vec <= WarpSize &&
		int64(a.B)*int64(a.Hkv)*attnFewRows*int64(a.fewParts(a.fewWay())) < math.MaxInt32
}

// fewRows is how many queries a block takes, a power of two.
func (a *attention) fewRows() int {
	rows := 1
	for rows < a.Tq*a.Rep && rows < attnFewBlock {
		rows *= 2
	}
	return rows
}

func (a *attention) fewSlices() int { return (a.Tq*a.Rep + a.fewRows() - 1) / a.fewRows() }

// fewParts is into how many parts the keys are cut: enough to have every multiprocessor work, whatever lengths turn out to be.
func (a *attention) fewParts(w attnFew) int {
	blocks := a.B * a.Hkv * a.fewSlices()
	return max(1, min(w.blocks*a.dev.Multiprocessors()/blocks, (a.Tk+attnFewKeys-1)/attnFewKeys, attnFewParts))
}

// fewForward is the kernel for generation.
func (a *attention) fewForward() (attnRun, error) { return a.fewBy(a.fewWay()) }

func (a *attention) fewBy(w attnFew) (attnRun, error) {
	rows, lanes := a.fewRows(), 1
	for lanes*16/a.dtype.Size() < a.D {
		lanes *= 2
	}
	cut := a.fewParts(w)
	a.args.parts = int32(cut)
	program := a.program("attention_few.cu", fmt.Sprintf("ROWS %d", rows), fmt.Sprintf("LANES %d", lanes), fmt.Sprintf("AHEAD %d", w.ahead), fmt.Sprintf("RESIDENT %d", w.resident))
	f, err := a.dev.Function(program, "attend_few")
	if err != nil {
		return attnRun{}, err
	}
	join, err := a.dev.Function(program, "attend_join")
	if err != nil {
		return attnRun{}, err
	}
	blocks := a.B * a.Hkv * a.fewSlices() * cut
	var mem parts
	var sums, tops int64
	if cut > 1 {
		sums, tops = mem.take(4*int64(blocks*rows*a.D)), mem.take(8*int64(blocks*rows))
	}
	return attnRun{label: "attention_few", scratch: mem.used, enqueue: func(c *Call, io *attnIO, scratch Addr) error {
		sums, tops := scratch+Addr(sums), scratch+Addr(tops)
		if err := c.Launch(f, Rows(blocks, attnFewThreads), &a.args, io.q, io.k, io.v, io.o, io.lse, sums, tops); err != nil || a.args.parts == 1 {
			return err
		}
		return c.Launch(join, Rows(a.B*a.Hkv*a.Tq*a.Rep, attnFewThreads), &a.args, sums, tops, io.o, io.lse)
	}}, nil
}
