package trainer

import (
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Where a run does not fit, variables that a step touches once are placed in host memory, from which the device reads them over its bus: first
// the table of tokens, of which a step needs the rows of its own tokens (a micro-batch of 8,192 tokens of width 4,096 reads 64 MB), and, when
// recomputation does not make up for the rest, the states of the optimizer, which are read and written whole.

// frozenTable is the table of tokens where it may be anywhere: it is not trained, and no output head reads it whole.
func (j *job) frozenTable() *graph.Var {
	if j.model.Config().Tied || j.cfg.Adapter.Embeddings || len(j.cfg.Adapter.Tokens) > 0 || len(j.model.New) > 0 {
		return nil
	}
	for _, p := range layers.Params(j.model.Model) {
		if strings.HasSuffix(p.Name, "embed_tokens.weight") && p.Var != nil && !p.Var.Trainable && p.Var.Slab == nil {
			return p.Var
		}
	}
	return nil
}

// hostMemory reports whether the device has memory of its own, beside which the host's is worth anything.
func (j *job) hostMemory() bool {
	_, ok := j.dev.(device.HostAllocator)
	return ok
}

// hostFree is how many bytes of main memory a run may still take, its control group's limit included; 0 where that is not known.
var hostFree = func() int64 {
	dev, err := device.Open("cpu")
	if err != nil {
		return 0
	}
	defer dev.Close() //nolint:errcheck // nothing ran on it
	return dev.Info().MemoryFree
}

// hostFits refuses a run that places more beside the device than there is. What a device reads there cannot be swapped out, so that the system
// would end the program, or others, in the middle of the run.
func hostFits(need, free int64) error {
	if free <= 0 || need <= free {
		return nil
	}
	return withCode(config.ExitMemory, fmt.Errorf("the run needs %s of main memory beside the device, and %s are free (of the machine, or of this process's control group): "+
		"free some, raise the container's limit, set train.offload to off or inputs, take an optimizer that is not paged, or make train.micro_batch or data.seq_len smaller",
		report.Bytes(need), report.Bytes(free)))
}

// toHost places what is still on the device in host memory, and reports whether there was any.
func (j *job) toHost(what string, vars ...*graph.Var) bool {
	var bytes int64
	for _, v := range vars {
		if v == nil {
			continue
		}
		if root, _ := v.Root(); root.Place != graph.InHost {
			root.Place = graph.InHost
			bytes += root.Type.Bytes()
		}
	}
	if bytes > 0 {
		j.log.Info("placed in host memory, for the run to fit", "what", what, "bytes", report.Bytes(bytes))
	}
	return bytes > 0
}
