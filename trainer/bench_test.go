package trainer

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest/queued"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/profile"
)

// TestBench runs every mode on a tiny shape: what was planned is what was allocated, the loss is that of random tokens, and the times are
// there.
func TestBench(t *testing.T) {
	for _, o := range []BenchOptions{
		{Mode: ModeQLoRA, Docs: DocsPacked, Generate: 1},
		{Mode: ModeLoRA, Docs: DocsSingle, Checkpointing: "on"},
		{Mode: ModeFull, Docs: DocsPacked, Optimizer: "adamw"},
	} {
		o.Shape, o.Device, o.Seq, o.Steps, o.Warmup, o.Profile = "tiny", "cpu", 96, 3, 1, 1
		r, err := Bench(context.Background(), o, Hooks{})
		require.NoError(t, err)
		require.InDelta(t, 6.24, r.FirstLoss, 0.3, "the logarithm of 512")
		require.Equal(t, r.PlannedBytes, r.PeakBytes)
		require.Positive(t, r.StepSeconds)
		require.Greater(t, r.PositionsPerSec, r.TokensPerSec, "a document's first token has no target")
		require.Positive(t, r.MFU)
		require.Positive(t, r.Launches)
		require.Equal(t, "plain", r.Launch, "a processor records nothing")
		require.Equal(t, o.Generate > 0, r.TokenSeconds > 0)
		require.Equal(t, o.Generate > 0, r.AdaptedSeconds > 0)
		for _, c := range r.Classes {
			require.NotContains(t, c.Name, "other", "a kernel without a class")
		}
		attends := 0
		for _, k := range r.Top {
			if strings.HasPrefix(k.Name, "attention") {
				attends++
				require.Equal(t, o.Docs == DocsPacked, strings.Contains(k.Name, "i32["), "only packed rows tell attention where documents begin: %s", k.Name)
			}
		}
		require.Positive(t, attends)
		for _, word := range []string{"tokens/s", "MFU", "planned", "recomputed blocks"} {
			require.Contains(t, r.Text(), word)
		}
	}
}

// TestBenchCompiles: rows of one length need one plan.
func TestBenchCompiles(t *testing.T) {
	for docs, seq := range map[string]int{DocsSingle: 96, DocsPacked: 64} {
		o := BenchOptions{Shape: "tiny", Docs: docs, Mode: ModeLoRA, Device: "cpu", Seq: seq, PlanOnly: true}
		b := &bench{opts: o}
		_, err := b.run(context.Background(), Hooks{})
		require.NoError(t, err)
		require.Len(t, b.job.plans.train, 1)
		require.Contains(t, b.job.plans.train, seq)
	}
}

// What a device does once is told by the part of the start in which it was done.
func TestBenchSpent(t *testing.T) {
	d := &spender{list: []device.Spent{{What: "programs", Count: 3, Time: 2 * time.Second, Longest: time.Second, Name: "a.cu"}}}
	first := spentOn(d, nil)
	require.Equal(t, "programs 2.00 s (3, at most 1.00 s: a.cu)", spentText(first))
	d.list[0].Count, d.list[0].Time = 4, 2500*time.Millisecond
	d.list = append(d.list, device.Spent{What: "opened", Time: 250 * time.Millisecond}, device.Spent{What: "nothing"})
	require.Equal(t, "programs 0.50 s (1); opened 0.25 s", spentText(spentOn(d, first)))
	d.list[0].Longest, d.list[0].Name = 3*time.Second, "b.cu"
	require.Contains(t, spentText(spentOn(d, first)), "at most 3.00 s: b.cu")
	require.Empty(t, spentOn(struct{ device.Device }{}, nil))
}

type spender struct {
	device.Device
	list []device.Spent
}

func (s *spender) Spent() []device.Spent { return append([]device.Spent(nil), s.list...) }

// TestBenchPlan draws and runs nothing, for every shape at its size.
func TestBenchPlan(t *testing.T) {
	for _, name := range BenchShapes() {
		o := BenchOptions{Shape: name, Device: "cpu", DType: "bf16", Batch: 1, Seq: 512, Memory: "200GB", PlanOnly: true}
		if strings.HasPrefix(name, "gpt2") {
			o.Mode = ModeFull
		}
		r, err := Bench(context.Background(), o, Hooks{})
		require.NoError(t, err)
		require.Zero(t, r.StepSeconds)
		require.Positive(t, r.PlannedBytes)
		t.Logf("%s: %d parameters, %d bytes, compiled in %.2f s", name, r.Parameters, r.PlannedBytes, r.CompileSeconds)
	}
}

// TestBenchOnQueue: on a device with a queue the steps are replayed and their losses are those of the processor.
func TestBenchOnQueue(t *testing.T) {
	o := BenchOptions{Shape: "tiny", Seq: 64, Steps: 4, Warmup: 1, Profile: -1}
	o.Device, o.DType = "cpu", "f32"
	want, err := Bench(context.Background(), o, Hooks{})
	require.NoError(t, err)
	dev := queued.New(cpu.New(cpu.Options{}), queued.Options{Total: 1 << 30})
	got, err := Bench(context.Background(), o, Hooks{Device: dev})
	require.NoError(t, err)
	require.Equal(t, []float64{want.FirstLoss, want.LastLoss}, []float64{got.FirstLoss, got.LastLoss})
	require.Greater(t, dev.Replays, 4)
}

// TestHostMemoryIsCompared: a run that places more in main memory than is free there is refused while it is planned.
func TestHostMemoryIsCompared(t *testing.T) {
	require.Positive(t, hostFree())
	real := hostFree
	defer func() { hostFree = real }()
	o := BenchOptions{Shape: "tiny", Seq: 64, Checkpointing: "on", PlanOnly: true}
	plan := func(free int64) (*BenchResult, error) {
		hostFree = func() int64 { return free }
		return Bench(context.Background(), o, Hooks{Device: queued.New(cpu.New(cpu.Options{}), queued.Options{Total: 1 << 30})})
	}
	_, err := plan(1)
	require.NoError(t, err, "nothing is placed there")
	o.Offload = "inputs"
	r, err := plan(0) // unknown
	require.NoError(t, err)
	require.Positive(t, r.PlannedHost)
	_, err = plan(r.PlannedHost)
	require.NoError(t, err)
	_, err = plan(r.PlannedHost - 1)
	require.ErrorContains(t, err, "main memory")
	require.Equal(t, config.ExitMemory, config.ExitCode(err))
}

// TestBenchShortLaunches: launches that the clock does not see leave numbers that JSON can hold.
func TestBenchShortLaunches(t *testing.T) {
	var r BenchResult
	work := profile.Work{Calls: 1, Least: 1e-9}
	r.setProfile(&profile.Result{Launches: []profile.Launch{{Op: "matmul", Work: work}}, Kernels: []profile.Kernel{{Op: "matmul", Work: work}}})
	require.Len(t, r.Classes, 1)
	_, err := json.Marshal(r)
	require.NoError(t, err)
}

// TestBenchRefusals name the option.
func TestBenchRefusals(t *testing.T) {
	for _, o := range []BenchOptions{{Shape: "huge"}, {Shape: "tiny", Mode: "half"}, {Shape: "tiny", Docs: "none"}, {Shape: "tiny", Steps: -1}} {
		_, err := Bench(context.Background(), o, Hooks{})
		require.Error(t, err)
		require.Equal(t, config.ExitConfig, config.ExitCode(err))
	}
	_, err := Bench(context.Background(), BenchOptions{Shape: "llama-3.1-8b", Device: "cpu", Memory: "4GB", PlanOnly: true}, Hooks{})
	require.Equal(t, config.ExitMemory, config.ExitCode(err))
	require.ErrorContains(t, err, "--batch and --seq", "a benchmark has no --fit")
	require.NotContains(t, err.Error(), " \n")
}
