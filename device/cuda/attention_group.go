package cuda

import "fmt"

// Tiles of the kernels by warpgroups; groups are how many tiles of each operand that is gone over are in memory at a time.
var (
	attnTilesGroup = []attnTile{{128, 128, 2}, {128, 64, 3}}
	attnTileDQ     = attnTile{128, 64, 3}
	attnTileDKV    = attnTile{64, 128, 3}
)

const (
	attnGroupCapability = 90 // the instructions are those of this capability alone
	attnGroupRows       = 64 // of queries and keys at least, for the large tiles to pay
	swizzleAlign        = 1024
)

// groupFits tells whether the kernels by warpgroups can take this attention, its operands being aligned.
func (a *attention) groupFits() bool {
	return a.dev.Capability() == attnGroupCapability && a.flashFits() && (a.D == 64 || a.D == 128)
}

// groupPays tells whether they are the faster choice. Behind a gate, where a launch seldom does anything, few blocks have to do all.
func (a *attention) groupPays() bool {
	return a.groupFits() && a.Tq >= attnGroupRows && a.Tk >= attnGroupRows && !a.gated && a.dev.groupsRight(a.dtype) == nil
}

// groupForward is attention by warpgroups.
func (a *attention) groupForward() (attnRun, error) { return a.groupTiled(attnTilesGroup[0]) }

func (a *attention) groupTiled(t attnTile) (attnRun, error) {
	f, err := a.groupFunction("attention_group.cu", t.queries, t.keys, t.groups, "attend_group")
	if err != nil {
		return attnRun{}, err
	}
	g := a.groupBlocks(a.Tq, a.Hq, t.queries, 2*t.groups*t.keys, t.queries)
	return attnRun{label: "attention_group", enqueue: func(c *Call, io *attnIO, _ Addr) error {
		return c.Launch(f, g, &a.args, io.q, io.k, io.v, io.o, io.lse)
	}}, nil
}

// groupBackward is its gradient.
func (a *attention) groupBackward() (attnRun, error) {
	const file = "attention_group_grad.cu"
	tq, tk := attnTileDQ, attnTileDKV
	delta, err := a.flashFunction("attention_flash_grad.cu", attnTilesDQ[len(attnTilesDQ)-1], "attend_flash_delta")
	if err != nil {
		return attnRun{}, err
	}
	dq, err := a.groupFunction(file, tq.queries, tq.keys, tq.groups, "attend_group_dq")
	if err != nil {
		return attnRun{}, err
	}
	dkv, err := a.groupFunction(file, tk.keys, tk.queries, tk.groups, "attend_group_dkv")
	if err != nil {
		return attnRun{}, err
	}
	byRow := Over(int64(a.B)*int64(a.Tq)*int64(a.Hq)*8, 256, 1)
	byQuery := a.groupBlocks(a.Tq, a.Hq, tq.queries, 2*tq.groups*tq.keys, 2*tq.queries)
	byKey := a.groupBlocks(a.Tk, a.Hkv, tk.keys, 2*tk.groups*tk.queries+2*tk.keys, 0)
	return attnRun{label: "attention_group_grad", scratch: a.numbers(), enqueue: func(c *Call, io *attnIO, numbers Addr) error {
		if err := c.Launch(delta, byRow, &a.args, io.o, io.dout, io.dlse, numbers); err != nil {
			return err
		}
		if err := c.Launch(dq, byQuery, &a.args, io.q, io.k, io.v, io.dout, io.lse, numbers, io.dq); err != nil {
			return err
		}
		return c.Launch(dkv, byKey, &a.args, io.q, io.k, io.v, io.dout, io.lse, numbers, io.dk, io.dv)
	}}, nil
}

// groupFunction compiles for blocks of so many rows, which go over tiles of `over` rows, `held` of them in memory.
func (a *attention) groupFunction(file string, rows, over, held int, name string) (*Function, error) {
	p := a.program(file, fmt.Sprintf("D %d", a.D), fmt.Sprintf("BM %d", rows), fmt.Sprintf("BK %d", over), fmt.Sprintf("M %d", held), a.cappedDefine())
	p.Files = []string{"attention.cuh", "tensor_core.cuh", "attention_tiles.cuh", "attention_rows.cuh", "warpgroup.cuh", file}
	return a.dev.Function(p, name)
}

// groupBlocks is a grid of a block for every `each` positions of every head, with memory for rows of swizzled tiles and of padded ones.
func (a *attention) groupBlocks(positions, heads, each, swizzled, padded int) Geometry {
	g := Rows((positions+each-1)/each*a.B*heads, 2*each)
	g.Shared = swizzleAlign + 2*swizzled*a.D + a.flashBytes(padded)
	return g
}
