package cuda

import (
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, o ops.Update, s device.Spec) (*Kernel, error) {
		return buildUpdate(d, o.Hyper, o.Layout, false, s)
	})
	Register(func(d *Device, o ops.Update8bit, s device.Spec) (*Kernel, error) {
		return buildUpdate(d, o.Hyper, o.Layout, true, s)
	})
}

// updater launches kernels/optim.cu.
type updater struct {
	ops.Hyper
	slab    *slabTable
	eight   bool
	comp    bool
	bytes   []int64 // of each output
	moments int
	hyper   updateHyper
	step    *Function
	norms   *Function
	bounds  *Function
	grid    int
	shared  int
}

// updateHyper is Hyper of optim.cu.
type updateHyper struct {
	B1, B2, B3, N1, N2                             float32
	Log1, Log2                                     float32
	Eps                                            float32
	Alpha, TAlpha, TBeta3, Ln1, Ln3, DB1, DB2, DB3 float64
	Seed                                           uint64
	Nesterov, Pad                                  int32
}

// updateSlab is Slab of optim.cu.
type updateSlab struct {
	P, G                 Addr
	State, Absmax        [3]Addr
	Comp                 Addr
	LR, Step, GScale, OK Addr
	Slots, Chunks, Bound Addr
	Count                int64
}

// updateThreads is the size of a block of threads: the tables of 8-bit states are loaded once for each.
const updateThreads = 256

func buildUpdate(d *Device, h ops.Hyper, l *ops.Layout, eight bool, s device.Spec) (*Kernel, error) {
	u := &updater{Hyper: h, eight: eight, comp: h.Compensated(l), bytes: sizes(s.Out), moments: len(h.Moments()), hyper: hyperOf(h)}
	p, err := u.program(s.In[0].DType, s.In[1].DType)
	if err != nil {
		return nil, err
	}
	if u.step, err = d.Function(p, "optimizer_step"); err != nil {
		return nil, err
	}
	if h.MaxUnorm > 0 {
		if u.norms, err = d.Function(p, "optimizer_norms"); err != nil {
			return nil, err
		}
		if u.bounds, err = d.Function(p, "optimizer_bounds"); err != nil {
			return nil, err
		}
	}
	if u.slab, err = d.slabTable(l, h.WeightDecay); err != nil {
		return nil, err
	}
	k := &Kernel{Label: "optim.cu", Enqueue: u.enqueue}
	if h.MaxUnorm > 0 {
		k.ScratchBytes = int64(16*u.slab.chunks + 4*u.slab.tensors)
	}
	return k, nil
}

// hyperOf computes what does not change between steps. The betas of bitsandbytes' rules are float32 numbers and one minus those.
func hyperOf(h ops.Hyper) updateHyper {
	u := updateHyper{B1: float32(h.Beta1), B2: float32(h.Beta2), B3: float32(h.Beta3), Eps: float32(h.Eps), Alpha: h.Alpha, TAlpha: h.TAlpha, TBeta3: h.TBeta3,
		Ln1: math.Log(h.Beta1), Ln3: math.Log(h.Beta3), DB1: h.Beta1, DB2: h.Beta2, DB3: h.Beta3, Seed: h.Seed}
	u.N1, u.N2 = 1-u.B1, 1-u.B2
	u.Log1, u.Log2 = ops.FastLog2(u.B1), ops.FastLog2(u.B2)
	switch h.Rule {
	case ops.AdamTorch:
		u.N1, u.N2 = float32(1-h.Beta1), float32(1-h.Beta2)
	case ops.Momentum:
		u.N1 = float32(1 - h.Dampening)
	}
	if h.Nesterov {
		u.Nesterov = 1
	}
	return u
}

// program is the text for types and rule.
func (u *updater) program(p, g tensor.DType) (Program, error) {
	bit := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	out := Program{Files: []string{"approx.cuh", "random.cuh", "eight.cuh", "cells.cuh", "optim.cu"}, Fast: true}
	define := func(name string, v any) { out.Define = append(out.Define, fmt.Sprint(name, " ", v)) }
	define("P", cType(p))
	define("G", cType(g))
	define("RULE", int(u.Rule))
	define("EIGHT", bit(u.eight))
	define("MOMENTS", u.moments)
	define("ROUNDING", int(u.Rounding))
	define("SKIP", bit(u.SkipZeros))
	define("BOUND", bit(u.MaxUnorm > 0))
	define("HALF", bit(p != tensor.F32))
	define("GHALF", bit(g != tensor.F32))
	define("THREADS", updateThreads)
	if !u.eight {
		return out, nil
	}
	// The first and third moments take the signed book. That of squares is there for rules without squares too, and unused.
	moments, err := cellsOf(false, true)
	if err != nil {
		return out, err
	}
	squares, err := cellsOf(true, false)
	if err != nil {
		return out, err
	}
	most := [2]int{}
	for i, t := range []cellTable{moments, squares} {
		words, scale, top, err := plain8(t, i == 0)
		if err != nil {
			return out, err
		}
		if most[i] = len(words); i == 1 && u.moments == 1 {
			most[i] = 0
		}
		name := string(rune('A' + i))
		define("CELLS_"+name, most[i])
		define("SCALE_"+name, scale)
		define("MOST_"+name, top)
		define("FIRST_"+name, t.first)
		out.Text += bookOf([]string{"moments_book", "squares_book"}[i], t, words, i == 1)
	}
	define("CODES_A", len(moments.words))
	u.shared = 4 * (most[0] + most[1] + 512)
	return out, nil
}

func (u *updater) enqueue(c *Call) error {
	if err := bringToOutputs(c, u.bytes); err != nil || u.slab.chunks == 0 {
		return err
	}
	if u.grid == 0 {
		resident, err := c.Resident(u.step, updateThreads, u.shared)
		if err != nil {
			return err
		}
		u.grid = max(min(resident, u.slab.chunks), 1)
	}
	if c.In[1]%16 != 0 {
		return errors.New("cuda: the gradient of an update is at an odd address: give it a copy of the part of a tensor that it is")
	}
	n := len(c.In)
	s := updateSlab{P: c.Out[0], G: c.In[1], LR: c.In[n-4], Step: c.In[n-3], GScale: c.In[n-2], OK: c.In[n-1], Slots: u.slab.slots, Chunks: u.slab.list,
		Count: int64(u.slab.chunks)}
	for k := range u.moments {
		s.State[k] = c.Out[1+k]
		if u.eight {
			s.Absmax[k] = c.Out[1+u.moments+k]
		}
	}
	if u.comp {
		s.Comp = c.Out[len(c.Out)-1]
	}
	if u.norms != nil {
		s.Bound = c.Scratch + Addr(16*u.slab.chunks)
		if err := c.Launch(u.norms, Rows(u.grid, updateThreads), &s, &u.hyper, c.Scratch); err != nil {
			return err
		}
		unorm := c.Out[len(c.Out)-1]
		if u.comp {
			unorm = c.Out[len(c.Out)-2]
		}
		if err := c.Launch(u.bounds, Over(int64(u.slab.tensors)*32, 128, 1), c.Scratch, u.slab.first, s.OK, unorm, s.Bound, u.MaxUnorm, u.UnormEps(),
			int32(u.slab.tensors)); err != nil {
			return err
		}
	}
	return c.Launch(u.step, Geometry{Grid: [3]int{u.grid}, Block: [3]int{updateThreads}, Shared: u.shared}, &s, &u.hyper)
}

// bookOf defines the tables of a book in a namespace of optim.cu: those of all cells, and of plain8.
func bookOf(name string, t cellTable, plain []uint32, unsigned bool) string {
	words := func(table string, words []uint32) string {
		return fmt.Sprintf("CONSTANT u32 %s[%d] = {%s};\n", table, len(words), hexWords(words))
	}
	return fmt.Sprintf("namespace %s {\n%s%sINLINE const u32 *code_cells() { return cell_words; }\nINLINE const u32 *plain_table() { return plain_words; }\n%s}\n", name,
		words("cell_words", t.words), words("plain_words", plain), bookText(unsigned))
}
