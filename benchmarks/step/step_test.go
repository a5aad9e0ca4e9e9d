package step

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// steps are the measured training steps.
var steps = []struct {
	name string
	open func(device.Device) (*Step, error)
}{
	{"mlp", NewMLP},
	{"llama_lora_nf4", llama(LlamaOptions{Model: Tiny(), Batch: 8, Len: 256, Rank: 8, NF4: true, Optimizer: "adamw8bit"})},
	{"llama_lora_nf4_bf16", llama(LlamaOptions{Model: Tiny(), Batch: 8, Len: 256, Rank: 8, NF4: true, Optimizer: "adamw8bit", Compute: tensor.BF16})},
	{"llama_lora_f32", llama(LlamaOptions{Model: Tiny(), Batch: 8, Len: 256, Rank: 8, Optimizer: "adamw"})},
	{"llama_full_f32", llama(LlamaOptions{Model: Tiny(), Batch: 8, Len: 256, Optimizer: "adamw"})},
}

// deep is a 32-layer LoRA step, compiled and never run.
var deep = LlamaOptions{Model: Deep(), Batch: 2, Len: 128, Rank: 16, NF4: true, Optimizer: "adamw8bit"}

func llama(o LlamaOptions) func(device.Device) (*Step, error) {
	return func(dev device.Device) (*Step, error) { return NewLlama(dev, o) }
}

// BenchmarkStep is one training step, on one thread and on two.
func BenchmarkStep(b *testing.B) {
	for _, c := range steps {
		for _, threads := range []int{1, 2} {
			b.Run(c.name+"/threads="+strconv.Itoa(threads), func(b *testing.B) {
				dev, s := open(b, threads, c.open)
				_, err := s.Run(b.Context())
				require.NoError(b, err)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.Run(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				seconds := b.Elapsed().Seconds() / float64(b.N)
				b.ReportMetric(float64(s.Plan.Report().Flops)/seconds/1e9, "GFLOP/s")
				b.ReportMetric(float64(dev.Allocated())/(1<<20), "MiB")
			})
		}
	}
}

// BenchmarkCompile is the time from nothing to a plan of a 32-layer LoRA step.
func BenchmarkCompile(b *testing.B) {
	dev := cpu.New(cpu.Options{})
	b.Cleanup(func() { require.NoError(b, dev.Close()) })
	var t Times
	var nodes, launches int
	for b.Loop() {
		s, err := NewLlama(dev, deep)
		require.NoError(b, err)
		t.Build, t.Grad, t.Compile = t.Build+s.Times.Build, t.Grad+s.Times.Grad, t.Compile+s.Times.Compile
		r := s.Plan.Report()
		nodes, launches = r.Nodes, r.Launches
		require.NoError(b, s.Close())
	}
	b.ReportMetric(t.Build.Seconds()*1e3/float64(b.N), "build-ms")
	b.ReportMetric(t.Grad.Seconds()*1e3/float64(b.N), "grad-ms")
	b.ReportMetric(t.Compile.Seconds()*1e3/float64(b.N), "compile-ms")
	b.ReportMetric(float64(nodes), "nodes")
	b.ReportMetric(float64(launches), "launches")
}

// TestAllocatedBytesEqualPlan: what a step holds on the device is what its plan said before anything ran.
func TestAllocatedBytesEqualPlan(t *testing.T) {
	for _, c := range small() {
		t.Run(c.name, func(t *testing.T) {
			dev, s := open(t, 2, c.open)
			for range 2 {
				_, err := s.Run(t.Context())
				require.NoError(t, err)
				require.Equal(t, s.Plan.Report().Peak(), dev.Allocated())
			}
		})
	}
}

// TestStepsDoNotGrowHeap: the objects a step makes are few, small, of the same number each time, and none stays.
func TestStepsDoNotGrowHeap(t *testing.T) {
	for _, c := range small() {
		t.Run(c.name, func(t *testing.T) {
			_, s := open(t, 2, c.open)
			run := func(n int) {
				for range n {
					if _, err := s.Run(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			run(5)
			const n = 20
			before := heap()
			run(n)
			after := heap()
			t.Logf("%d launches, %d bytes and %d objects a step, heap %+d bytes", s.Plan.Report().Launches, (after.TotalAlloc-before.TotalAlloc)/n,
				(after.Mallocs-before.Mallocs)/n, int64(after.HeapAlloc)-int64(before.HeapAlloc))
			require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(64<<10), "heap growth over %d steps", n)
			require.Less(t, (after.TotalAlloc-before.TotalAlloc)/n, uint64(256<<10), "bytes a step")
		})
	}
}

// TestStepsLearn: what is measured is training.
func TestStepsLearn(t *testing.T) {
	for _, c := range small() {
		t.Run(c.name, func(t *testing.T) {
			_, s := open(t, 2, c.open)
			first, err := s.Run(t.Context())
			require.NoError(t, err)
			var last float64
			for range 20 {
				last, err = s.Run(t.Context())
				require.NoError(t, err)
			}
			require.Less(t, last, first)
		})
	}
}

// small are the same kinds of steps at sizes for tests.
func small() []struct {
	name string
	open func(device.Device) (*Step, error)
} {
	out := append(steps[:0:0], steps...)
	m := Tiny()
	m.Layers, m.Hidden, m.Intermediate, m.HeadDim = 2, 64, 128, 16
	for i, o := range []LlamaOptions{
		{Model: m, Batch: 2, Len: 32, Rank: 4, NF4: true, Optimizer: "adamw8bit"},
		{Model: m, Batch: 2, Len: 32, Rank: 4, NF4: true, Optimizer: "adamw8bit", Compute: tensor.BF16},
		{Model: m, Batch: 2, Len: 32, Rank: 4, Optimizer: "adamw"},
		{Model: m, Batch: 2, Len: 32, Optimizer: "adamw"},
	} {
		out[i+1].open = llama(o)
	}
	return out
}

func open(tb testing.TB, threads int, open func(device.Device) (*Step, error)) (*cpu.Device, *Step) {
	tb.Helper()
	dev := cpu.New(cpu.Options{Threads: threads})
	s, err := open(dev)
	require.NoError(tb, err)
	tb.Cleanup(func() {
		require.NoError(tb, s.Close())
		require.NoError(tb, dev.Close())
	})
	return dev, s
}

func heap() runtime.MemStats {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m
}
