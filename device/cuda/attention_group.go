package cuda

import "fmt"

// groupTile is how a block of the kernels by warpgroups works: rows of its own, rows of the tiles that it goes over, how many of these are in memory
// at a time, and whether one warpgroup is half a step behind the other.
type groupTile struct {
	rows, over, held int
	apart            bool
}

// Tiles in order of preference; the others are there to be timed.
var (
	groupTilesForward = []groupTile{{128, 128, 2, true}, {128, 128, 2, false}, {128, 64, 3, true}}
	groupTilesDQ      = []groupTile{{128, 64, 4, true}, {128, 64, 4, false}}
	groupTilesDKV     = []groupTile{{128, 64, 4, false}, {128, 64, 4, true}, {128, 64, 3, true}}
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
func (a *attention) groupPays() (bool, error) {
	if !a.groupFits() || a.Tq < attnGroupRows || a.Tk < attnGroupRows || a.gated {
		return false, nil
	}
	return a.dev.groupsTaken(a.dtype)
}

// groupForward is attention by warpgroups.
func (a *attention) groupForward() (attnRun, error) { return a.groupTiled(groupTilesForward[0]) }

func (a *attention) groupTiled(t groupTile) (attnRun, error) {
	f, err := a.groupFunction("attention_group.cu", t, "attend_group")
	if err != nil {
		return attnRun{}, err
	}
	g := a.groupBlocks(a.Tq, a.Hq, t, (2*t.held+1)*t.over, t.rows)
	return attnRun{label: "attention_group", enqueue: func(c *Call, io *attnIO, _ Addr) error {
		return c.Launch(f, g, &a.args, io.q, io.k, io.v, io.o, io.lse)
	}}, nil
}

// groupBackward is its gradient.
func (a *attention) groupBackward() (attnRun, error) {
	return a.groupGradTiled(groupTilesDQ[0], groupTilesDKV[0])
}

func (a *attention) groupGradTiled(tq, tk groupTile) (attnRun, error) {
	const file = "attention_group_grad.cu"
	delta, err := a.flashFunction("attention_flash_grad.cu", attnTilesDQ[len(attnTilesDQ)-1], "attend_flash_delta", passDelta)
	if err != nil {
		return attnRun{}, err
	}
	dq, err := a.groupFunction(file, tq, "attend_group_dq", passDQ)
	if err != nil {
		return attnRun{}, err
	}
	dkv, err := a.groupFunction(file, tk, "attend_group_dkv", passDKV)
	if err != nil {
		return attnRun{}, err
	}
	byRow := Over(int64(a.B)*int64(a.Tq)*int64(a.Hq)*8, 256, 1)
	byQuery := a.groupBlocks(a.Tq, a.Hq, tq, 2*tq.held*tq.over, 2*tq.rows)
	byKey := a.groupBlocks(a.Tk, a.Hkv, tk, 2*tk.held*tk.over+2*tk.rows, 0)
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

func (a *attention) groupFunction(file string, t groupTile, name string, define ...string) (*Function, error) {
	apart := 0
	if t.apart {
		apart = 1
	}
	p := a.program(file, fmt.Sprintf("D %d", a.D), fmt.Sprintf("BM %d", t.rows), fmt.Sprintf("BK %d", t.over), fmt.Sprintf("M %d", t.held),
		fmt.Sprintf("APART %d", apart), a.cappedDefine())
	p.Define = append(p.Define, define...)
	p.Files = []string{"attention.cuh", "tensor_core.cuh", "attention_tiles.cuh", "attention_rows.cuh", "warpgroup.cuh", file}
	return a.dev.Function(p, name)
}

// groupBlocks is a grid of a block for every t.rows positions of every head, with memory for rows of swizzled tiles and of padded ones.
func (a *attention) groupBlocks(positions, heads int, t groupTile, swizzled, padded int) Geometry {
	g := Rows((positions+t.rows-1)/t.rows*a.B*heads, 2*t.rows)
	g.Shared = swizzleAlign + 2*swizzled*a.D + a.flashBytes(padded)
	return g
}
