package trainer

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"time"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Planned is what a run will take, known before it runs. Memory is in bytes, times are in seconds. As JSON it has the keys below, and "rows" for
// Lengths: see PlannedRows.
type Planned struct {
	Model          string              `json:"model"`
	Parameters     int64               `json:"parameters"`
	Trained        int64               `json:"trained"`
	WeightBytes    int64               `json:"weight_bytes"`                     // of the model's weights as they are stored
	TrainBytes     int64               `json:"train_bytes"`                      // of trained weights, gradients, optimizer state, and the average of the weights
	StateBytes     int64               `json:"state_bytes"`                      // of the optimizer state in it
	HostBytes      int64               `json:"host_bytes"`                       // in host memory: states of paged optimizers, and what was placed there for the run to fit; part of the others on a device without memory of its own
	AwayBytes      int64               `json:"away_bytes"`                       // of these, activations that wait for the backward sweep
	MovedBytes     int64               `json:"moved_bytes"`                      // activations copied there and back for a micro-batch
	ArenaBytes     int64               `json:"arena_bytes"`                      // of intermediates, the largest plan's
	SavedBytes     int64               `json:"saved_bytes"`                      // of the arena at its fullest launch: activations that the backward sweep needs,
	TemporaryBytes int64               `json:"temporary_bytes"`                  // other intermediates and scratch
	InputBytes     int64               `json:"input_bytes"`                      // and inputs
	TotalBytes     int64               `json:"total_bytes"`                      // what a run allocates on the device
	OverheadBytes  int64               `json:"overhead_bytes"`                   // beside them: context, libraries and kernels, as far as planning has loaded them
	Steps          int                 `json:"steps"`                            // 0: unknown, there is no data
	MicroBatch     int                 `json:"micro_batch"`                      // rows computed at once
	Recompute      int                 `json:"blocks_recomputed"`                // blocks whose activations are computed again in the backward sweep
	Blocks         int                 `json:"blocks"`                           // of the model
	Folded         int                 `json:"products_folded"`                  // of the longest rows' micro-batch, that adapters are folded into
	Filled         float64             `json:"packing_efficiency,omitempty"`     // share of the first epoch's positions that hold a token; 0: no data
	FilledTrained  float64             `json:"trained_position_share,omitempty"` // share of these positions that are trained
	Proposals      []Proposal          `json:"settings,omitempty"`               // settings tried against train.memory, if that is set
	Lengths        map[int]plan.Report `json:"-"`                                // by row length
	FlopsPerToken  float64             `json:"flops_per_token"`                  // forward and backward, of a training row; a pair has two
	FlopRate       float64             `json:"flops_per_s"`                      // of a large matrix product on this device, measured now: see probe
	StepSeconds    float64             `json:"step_seconds_least"`               // least time of an optimizer step of full rows: its arithmetic at FlopRate
	Seconds        float64             `json:"seconds_least"`                    // least time of all training steps: their arithmetic at FlopRate
	Scopes         []plan.ScopeBytes   `json:"scopes"`                           // what fills the largest plan at its fullest step
}

// Plan opens the model and the data of a configuration and compiles every plan, without reading a weight or training.
func Plan(ctx context.Context, cfg config.Config, hooks Hooks) (*Planned, error) {
	j := &job{cfg: cfg, hooks: hooks, fs: vfs.OS{}, log: hooks.Logger, started: time.Now()}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	p, err := j.plan(ctx)
	return p, classify(errors.Join(err, j.close()))
}

func (j *job) plan(ctx context.Context) (*Planned, error) {
	if err := j.cfg.Validate(); err != nil {
		return nil, err
	}
	tmp, err := scratchOut(j)
	if err != nil {
		return nil, err
	}
	defer tmp()
	for _, f := range []func(context.Context) error{j.openModel, j.openData, j.compile} {
		if err := f(ctx); err != nil && !errors.Is(err, errNoData) { // the longest rows are known without any
			return nil, err
		}
	}
	p := &Planned{Model: j.cfg.Model, ArenaBytes: j.session.ArenaBytes(), TotalBytes: j.total,
		Lengths: map[int]plan.Report{}}
	p.Parameters, p.Trained = j.countParams()
	for _, q := range layers.Params(j.model.Model) {
		switch {
		case q.Quantized != nil:
			p.WeightBytes += q.Quantized.Bytes()
		case !q.Var.Trainable && !(q.Var.Place == graph.InHost && j.hostMemory()):
			p.WeightBytes += q.Var.Type.Bytes()
		}
	}
	p.TrainBytes = j.session.Bytes() - p.ArenaBytes - p.WeightBytes
	p.HostBytes = j.session.HostBytes()
	p.AwayBytes, p.MovedBytes = j.away()
	for _, v := range j.group.StateVars() {
		p.StateBytes += v.Type.Bytes()
	}
	if j.loader != nil {
		p.Steps = j.loader.Steps()
		r := j.loader.Report()
		p.Filled, p.FilledTrained = r.Efficiency, r.TrainedSpace
	}
	for t, l := range j.plans.train {
		r := l.plan.Report()
		p.Lengths[t] = r
		p.FlopsPerToken = max(p.FlopsPerToken, float64(r.Flops)/float64(t*j.plans.objective.rows(j.micro)))
	}
	p.MicroBatch, p.Scopes, p.Folded = j.micro, j.largest().Scopes, j.largest().Folded
	for _, l := range j.plans.train {
		if l.plan.Report().Arena == j.largest().Arena {
			p.SavedBytes, p.TemporaryBytes, p.InputBytes = atPeak(l.plan)
		}
	}
	p.Recompute, p.Blocks = j.recompute, j.model.Config().Layers
	if p.FlopRate, err = probe(ctx, j.dev, j.execution().Launching(), j.compute); err != nil {
		return nil, err
	}
	if m, ok := j.dev.(device.Meter); ok {
		p.OverheadBytes = m.Overhead()
	}
	longest := 0
	for t := range p.Lengths {
		longest = max(longest, t)
	}
	p.StepSeconds = p.FlopsPerToken * float64(longest*j.plans.objective.rows(j.cfg.Train.Batch)) / p.FlopRate
	p.Seconds = p.StepSeconds * float64(p.Steps)
	if j.cfg.Train.Memory == "" {
		return p, nil
	}
	budget, err := j.budget()
	if err != nil {
		return nil, err
	}
	p.Proposals, err = j.proposals(ctx, budget)
	return p, err
}

// atPeak adds up what is in the arena of a plan at its fullest launch, by what it is for.
func atPeak(p *plan.Plan) (saved, temporary, inputs int64) {
	var live []plan.Lifetime
	delta := map[int]int64{}
	for _, l := range p.Lifetimes() {
		if l.InArena() {
			live = append(live, l)
			delta[l.Birth] += l.Bytes
			delta[l.End+1] -= l.Bytes
		}
	}
	var sum, most int64
	at := 0
	for _, i := range slices.Sorted(maps.Keys(delta)) {
		if sum += delta[i]; sum > most {
			most, at = sum, i
		}
	}
	for _, l := range live {
		if l.Birth > at || l.End < at {
			continue
		}
		switch l.Holding {
		case plan.HoldsSaved:
			saved += l.Bytes
		case plan.HoldsInput:
			inputs += l.Bytes
		default:
			temporary += l.Bytes
		}
	}
	return saved, temporary, inputs
}

// Sizes and number of the square matrix products that a device is timed with. A product that takes less than probeEnough may be too small for all
// threads of the device, so a larger one follows: of the size that should take as long, and of twice the size at most, since a larger one is faster for its
// size. Short runs are many, so it is timed no longer than that needs.
const (
	probeSize    = 512
	probeStep    = 256 // sizes are multiples of it
	probeLargest = 4096
	probeRuns    = 3
	probeEnough  = 5 * time.Millisecond
)

// probe returns the best rate of a square matrix product in FLOP/s: of the run's dtype where the device has fast arithmetic in 16 bits, else of
// float32.
func probe(ctx context.Context, dev device.Device, way plan.Launching, compute tensor.DType) (rate float64, err error) {
	if !dev.Info().BF16 {
		compute = tensor.F32
	}
	for n := probeSize; ; {
		took, err := timeProduct(ctx, dev, way, n, compute)
		if err != nil {
			return 0, err
		}
		rate = max(rate, 2*float64(n)*float64(n)*float64(n)/took.Seconds())
		if took >= probeEnough || n >= probeLargest {
			return rate, nil
		}
		longer := float64(n) * math.Cbrt(probeEnough.Seconds()/took.Seconds())
		n = min(int(longer)/probeStep*probeStep+probeStep, 2*n, probeLargest)
	}
}

// timeProduct is the least time of a product of two n by n matrices. It runs too few times to be recorded.
func timeProduct(ctx context.Context, dev device.Device, way plan.Launching, n int, d tensor.DType) (least time.Duration, err error) {
	g := graph.New("probe")
	x := ops.BroadcastTo(ops.Fill(g, d, 1), n, n)
	p, err := plan.Compile([]graph.Value{ops.Sum(ops.Dot(x, x))}, plan.Options{Context: ctx, Device: dev, Launch: max(way, plan.Plain)})
	if err != nil {
		return 0, err
	}
	for i := range probeRuns {
		began := time.Now()
		if _, err = p.Run(ctx, nil); err != nil {
			break
		}
		if took := max(time.Since(began), 1); i == 0 || took < least {
			least = took
		}
	}
	return least, errors.Join(err, p.Close())
}

// scratchOut points a job at a temporary run directory for the built-in rows.
func scratchOut(j *job) (func(), error) {
	dir, err := makeTemp()
	if err != nil {
		return nil, withCode(config.ExitDisk, err)
	}
	j.cfg.Out = dir
	j.runs = checkpoint.NewRun(j.fs, dir)
	return func() {
		if err := j.fs.RemoveAll(dir); err != nil {
			j.log.Warn("temporary directory", "err", err)
		}
	}, nil
}

// maxScopes is how many scopes the text lists.
const maxScopes = 8

func makeTemp() (string, error) { return os.MkdirTemp("", "trainer-plan-") }
