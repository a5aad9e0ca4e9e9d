package trainer

import (
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
)

// Activations that the backward sweep needs may wait for it in host memory (train.offload). They are copied there and back by a stream of their own,
// so what counts is whether the bus keeps up. The input of a recomputed block has 2·C bytes a token, and the block 24·C² operations in the forward
// sweep alone: at 55 GB/s and 750 TFLOP/s the copy takes 0.6 ms of 2.4 with C = 4096, and as long as the arithmetic with C near 1,100, below which
// models are small anyway. All else that a block keeps is ten times as much.

// moves is which of them wait in any case.
func (j *job) moves() func([]plan.Saved) []bool {
	switch j.cfg.Train.Offload {
	case "inputs":
		return plan.MoveInputs
	case "all":
		return plan.MoveSaved
	}
	return nil
}

// mayMove is moves for a run that does not fit and has recomputed blocks: a block whose input waits elsewhere frees more than one whose input does
// not, and costs the same arithmetic.
func (j *job) mayMove(asked func([]plan.Saved) []bool) func([]plan.Saved) []bool {
	if asked == nil && j.cfg.Train.Offload == "auto" && j.hostMemory() {
		return plan.MoveInputs
	}
	return asked
}

// checkOffload refuses to move anything on a device that computes in host memory.
func (j *job) checkOffload() error {
	if j.moves() != nil && !j.hostMemory() {
		return badConfig("train.offload", "is %s, but device %s computes in host memory: activations that wait there make no room. Leave it auto, or off",
			j.cfg.Train.Offload, j.dev.Info().Kind)
	}
	return nil
}

// away is how many bytes of activations wait in host memory, and how many a micro-batch copies there and back, of the plan with most.
func (j *job) away() (bytes, moved int64) {
	for _, l := range j.plans.train {
		r := l.plan.Report()
		bytes, moved = max(bytes, r.Away), max(moved, r.Moved)
	}
	return bytes, moved
}
