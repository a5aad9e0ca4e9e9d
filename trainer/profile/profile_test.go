package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"image/png"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

var update = flag.Bool("update", false, "rewrite the golden report")

// written is a result of known figures: two layers and an update.
func written() *Result {
	r := &Result{Title: "a small model", Device: Device{Name: "a device", Threads: 2}, Steps: Steps{Count: 2, Warmup: 1, Seconds: []float64{0.009, 0.011}},
		Limits: &Limits{Flops: map[string]float64{"f32": 3e11, "i8": 12e11}, Memory: []Bandwidth{{1 << 20, 9e10, 8e10}, {1 << 29, 3e10, 4e10}}},
		Plans:  []Plan{{"gradients", 5, 2}, {"update", 1, 1}}}
	add := func(kernel, scope string, phase graph.Phase, w Work) {
		r.Launches = append(r.Launches, Launch{Kernel: kernel, Op: kernel, Types: "f32[512,512] -> f32[8,512]", Scope: scope, Phase: phase.String(), Work: w})
		r.Time.Kernels += w.Seconds
	}
	add("matmul", "model.layers.0.mlp", graph.Forward, Work{Calls: 2, Seconds: 2e-3, Flops: 5e8, Bytes: 4e6, Least: 1.7e-3, Arithmetic: 1.7e-3, Threads: 3.9e-3})
	add("matmul", "model.layers.1.mlp", graph.Forward, Work{Calls: 2, Seconds: 2e-3, Flops: 5e8, Bytes: 4e6, Least: 1.7e-3, Arithmetic: 1.7e-3, Threads: 3.9e-3})
	add("matmul", "model.layers.1.mlp", graph.Backward, Work{Calls: 2, Seconds: 4e-3, Flops: 1e9, Bytes: 8e6, Least: 3.4e-3, Arithmetic: 3.4e-3, Threads: 7.8e-3})
	add("transpose", "model.layers.1", graph.Recompute, Work{Calls: 2, Seconds: 1e-4, Bytes: 1e6, Estimated: 1e-4, Least: 2e-5, Threads: 1e-4})
	add("adamw", "optimizer", graph.Update, Work{Calls: 1, Seconds: 1e-3, Flops: 1e7, Bytes: 3e7, Least: 8e-4, Threads: 2e-3})
	add("a kernel with a name that is longer than its column is wide", "", graph.Forward, Work{Calls: 0.5, Seconds: 3e-6, Bytes: 12, Threads: 3e-6})
	r.Time.Step, r.Time.Gaps, r.Time.Feed, r.Time.Fetch, r.Time.Busy = 0.01, 1e-4, 2e-5, 3e-5, 0.97
	r.Time.Outside = r.Time.Step - r.Time.Kernels - r.Time.Gaps - r.Time.Feed - r.Time.Fetch
	r.Kernels, r.Scopes = byKernel(r.Launches), byScope(r.Launches)
	alive := []Tensor{{Name: "scratch of matmul", Category: Scratch, Bytes: 3 << 20, Scope: "model.layers.1.mlp", Pos: "llama.go:150"},
		{Name: "weight", Type: "f32[512,512]", Category: Parameters, Bytes: 1 << 20}, {Name: "mul·add", Type: "f32[8,512]", Category: Saved, Bytes: 16 << 10, Pos: "llama.go:10"}}
	r.Memory = &Memory{Bytes: 7 << 20, Arena: 5 << 20, Host: 1 << 10, Fixed: []Amount{{Parameters, 1 << 20}, {Gradients, 1 << 20}}, Plans: []PlanMemory{{Name: "gradients"}},
		Peak: &Peak{Launch: 3, Kernel: "matmul", Scope: "model.layers.1.mlp", Live: 4 << 20, Bytes: 6 << 20, Amounts: []Amount{{Parameters, 1 << 20}, {Saved, 1 << 20},
			{Scratch, 3 << 20}}, Tensors: alive}}
	return r
}

// TestReport: the text of known figures.
func TestReport(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, written().WriteText(&b, TextOptions{Depth: 5, Merge: true, Kernels: 3, Shapes: 2, Tensors: 2}))
	const golden = "testdata/report.txt"
	if *update {
		require.NoError(t, os.WriteFile(golden, b.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String())
}

// checkSums: everything adds up to the time of the step.
func checkSums(t *testing.T, r *Result) {
	t.Helper()
	const tiny = 1e-9
	x := r.Time
	require.InDelta(t, x.Step, x.Kernels+x.Gaps+x.Feed+x.Fetch+x.Outside, tiny)
	for _, part := range []float64{x.Kernels, x.Gaps, x.Feed, x.Fetch, x.Outside} {
		require.GreaterOrEqual(t, part, 0.0)
	}
	var mean float64
	for _, s := range r.Steps.Seconds {
		mean += s / float64(len(r.Steps.Seconds))
	}
	require.InDelta(t, mean, x.Step, tiny)
	all := total(r.Launches)
	require.InDelta(t, x.Kernels, all.Seconds, tiny)
	var kernels Work
	for i, k := range r.Kernels {
		kernels.add(k.Work)
		require.True(t, i == 0 || r.Kernels[i-1].Seconds >= k.Seconds, "longest first")
	}
	for _, w := range []Work{kernels, r.Scopes.Total, r.Scopes.Merged().Total, r.Scopes.Longest().Total} {
		require.InDelta(t, all.Seconds, w.Seconds, tiny)
		require.InDelta(t, all.Calls, w.Calls, tiny)
		require.InDelta(t, all.Flops, w.Flops, 1e-6*all.Flops)
		require.InDelta(t, all.Bytes, w.Bytes, 1e-6*all.Bytes)
		require.InDelta(t, all.Least, w.Least, tiny)
	}
	checkScope(t, r.Scopes)
	checkScope(t, r.Scopes.Merged())
}

func checkScope(t *testing.T, s *Scope) {
	t.Helper()
	sum, phases := s.Self, 0.0
	for _, p := range s.Parts {
		sum.add(p.Total)
		checkScope(t, p)
	}
	for _, x := range s.Phases {
		phases += x
	}
	require.InDelta(t, s.Total.Seconds, sum.Seconds, 1e-9, s.Path)
	require.InDelta(t, s.Total.Calls, sum.Calls, 1e-9, s.Path)
	require.InDelta(t, s.Total.Seconds, phases, 1e-9, s.Path)
}

func TestSums(t *testing.T) {
	for name, r := range map[string]*Result{"clocked": result(t, 3), "processor": func() *Result {
		p, _ := profiled(t, cpu.New(cpu.Options{Threads: 2}), 3)
		return p.Result()
	}()} {
		t.Log(name)
		checkSums(t, r)
		require.Equal(t, 3, r.Steps.Count)
		require.Equal(t, []Plan{{"gradients", r.Plans[0].Launches, 2}, {"update", r.Plans[1].Launches, 1}}, r.Plans)
		require.InDelta(t, float64(2*r.Plans[0].Launches+r.Plans[1].Launches), total(r.Launches).Calls, 1e-9)
	}
}

func result(t testing.TB, steps int) *Result {
	t.Helper()
	p, _ := profiled(t, newClocked(), steps)
	return p.Result()
}

// TestWork: operations and bytes are those of the plans, and shares of the limit follow from them.
func TestWork(t *testing.T) {
	p, s := profiled(t, newClocked(), 1)
	r := p.Result()
	all := total(r.Launches)
	require.InDelta(t, float64(2*s.grads.Report().Flops+s.update.Report().Flops), all.Flops, 1e-6)
	for _, l := range r.Launches {
		if l.Op == "matmul{TransB:true}" {
			require.InDelta(t, 2*32*16*16*l.Calls, l.Flops, 1e-9)
			require.Zero(t, l.Estimated)
			arithmetic, memory := l.Flops/1e10, l.Bytes/1e9
			require.InDelta(t, max(arithmetic, memory), l.Least, 1e-12)
		}
		require.InDelta(t, 1.5*l.Seconds, l.Threads, 1e-9)
	}
	require.InDelta(t, 0.75, r.Time.Busy, 1e-9)
	p.limits = nil
	require.Zero(t, total(p.Result().Launches).Least)
}

// TestTrace: the trace is JSON in the Trace Event Format; kernels lie within their plan, plans within their step.
func TestTrace(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	p, s := profiled(t, dev, 2)
	r := p.Result()
	raw, err := r.Trace()
	require.NoError(t, err)
	var trace struct {
		TraceEvents []event `json:"traceEvents"`
	}
	require.NoError(t, json.Unmarshal(raw, &trace))
	byTrack, counters, most := map[int][]event{}, 0, int64(0)
	for _, e := range trace.TraceEvents {
		switch e.Ph {
		case "X":
			require.GreaterOrEqual(t, *e.Dur, 0.0)
			byTrack[e.TID] = append(byTrack[e.TID], e)
		case "C":
			counters++
			var sum float64
			for _, v := range e.Args {
				sum += v.(float64)
			}
			require.LessOrEqual(t, int64(sum), s.session.Bytes())
			most = max(most, int64(sum))
		default:
			require.Equal(t, "M", e.Ph)
		}
	}
	require.Len(t, byTrack[trackSteps], 2)
	require.Len(t, byTrack[trackKernels], 2*(2*len(s.grads.Launches())+len(s.update.Launches())))
	require.Positive(t, counters)
	require.Equal(t, r.Memory.Peak.Bytes, most)
	var plans []event
	for _, e := range byTrack[trackPlans] {
		require.True(t, within(byTrack[trackSteps], e), "%+v", e)
		if e.Cat == "plan" {
			plans = append(plans, e)
		}
	}
	for _, e := range byTrack[trackKernels] {
		require.True(t, within(plans, e), "%+v", e)
		for _, key := range []string{"scope", "op", "types", "bytes", "phase", "GB/s", "position"} {
			require.Contains(t, e.Args, key)
		}
	}
}

// within reports whether an event lies in one of others.
func within(outer []event, e event) bool {
	const slack = 1 // µs: the clocks of the step and of the stream are read at other moments
	for _, o := range outer {
		if e.TS >= o.TS-slack && e.TS+*e.Dur <= o.TS+*o.Dur+slack {
			return true
		}
	}
	return false
}

// TestMemory: what is allocated is what the plans report, and the fullest moment is theirs.
func TestMemory(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	p, s := profiled(t, dev, 1)
	m := p.Result().Memory
	require.Equal(t, s.session.Bytes(), m.Bytes)
	require.Equal(t, s.session.ArenaBytes(), m.Arena)
	require.Equal(t, s.grads.Report().Live, m.Peak.Live)
	require.Equal(t, []Amount{{Parameters, 1024}, {OtherVars, 1024}}, m.Fixed)
	var alive, amounts int64
	for _, x := range m.Peak.Tensors {
		alive += x.Bytes
	}
	for _, a := range m.Peak.Amounts {
		amounts += a.Bytes
	}
	require.Equal(t, m.Peak.Bytes, alive)
	require.Equal(t, m.Peak.Bytes, amounts)
	require.Len(t, m.Runs, 3)
	last := 0.0
	for _, r := range m.Runs {
		require.Len(t, r.Start, m.Plans[r.Plan].Launches+1)
		for _, at := range r.Start {
			require.GreaterOrEqual(t, at, last)
			last = at
		}
	}

	alone, err := New(Options{Device: dev})
	require.NoError(t, err)
	alone.Watch("gradients", s.grads)
	require.Equal(t, s.grads.Report().Peak(), alone.Result().Memory.Bytes)
	require.NotNil(t, alone.Result().Memory.Peak, "known before any step")
}

// hosted is a device with memory of its own beside that of the host.
type hosted struct{ *cpu.Device }

func (d hosted) AllocHost(bytes int64) (device.Buffer, error) { return d.Alloc(bytes) }

// TestPagedMemory: variables in host memory are counted apart where the device has memory of its own, and as the device's where not.
func TestPagedMemory(t *testing.T) {
	for _, apart := range []bool{false, true} {
		var dev device.Device = cpu.New(cpu.Options{Threads: 1})
		if apart {
			dev = hosted{cpu.New(cpu.Options{Threads: 1})}
		}
		state := graph.NewVar("state", tensor.T(tensor.F32, 1024))
		state.Place = graph.InHost
		g := graph.New("g")
		g.Write(state, ops.AddScalar(g.Read(state), 1))
		pl, err := plan.Compile([]graph.Value{ops.Fill(g, tensor.F32, 1)}, plan.Options{Device: dev})
		require.NoError(t, err)
		p, err := New(Options{Device: dev})
		require.NoError(t, err)
		p.Watch("g", pl)
		m := p.Result().Memory
		require.Equal(t, pl.Report().Peak(), m.Bytes)
		require.Equal(t, apart, m.Host == 4096)
		require.Len(t, m.Vars, 1)
		var b bytes.Buffer
		require.NoError(t, p.Result().WriteText(&b, TextOptions{}))
		require.Equal(t, apart, strings.Contains(b.String(), "4.00 KiB of host memory"))
		require.NoError(t, pl.Close())
	}
}

// TestDry: without a run there are the memory and no times.
func TestDry(t *testing.T) {
	dev := newClocked()
	s := newTraining(t, dev)
	p, err := New(Options{Device: dev})
	require.NoError(t, err)
	require.ErrorContains(t, p.Dry(s.grads), "not watched")
	p.Watch("gradients", s.grads)
	p.Watch("update", s.update)
	require.NoError(t, p.Dry(s.grads, s.grads, s.update))
	r := p.Result()
	require.Zero(t, r.Steps.Count)
	require.Zero(t, r.Time)
	require.Len(t, r.Memory.Runs, 3)
	cs, timed := r.Memory.columns()
	require.False(t, timed)
	require.Len(t, cs, 2*r.Memory.Plans[0].Launches+r.Memory.Plans[1].Launches)
	dir := filepath.Join(t.TempDir(), "new", "dry")
	require.NoError(t, r.Write(nil, dir))
	require.NoFileExists(t, filepath.Join(dir, TraceFile))
	text, err := os.ReadFile(filepath.Join(dir, ReportFile))
	require.NoError(t, err)
	require.Contains(t, string(text), "largest tensors alive then")
	require.NotContains(t, string(text), "share")
}

// TestWrite: the files are there, can be read back, and are the same again.
func TestWrite(t *testing.T) {
	r, dir := result(t, 2), t.TempDir()
	require.NoError(t, r.Write(vfs.OS{}, dir))
	for name, into := range map[string]any{ProfileFile: new(Result), MemoryFile: new(Memory), TraceFile: new(map[string]any)} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(raw, into), name)
	}
	raw, err := os.ReadFile(filepath.Join(dir, MemoryPlotFile))
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(raw))
	require.NoError(t, err)
	require.Equal(t, report.PlotWidth, img.Bounds().Dx())
	again, err := r.Memory.PNG()
	require.NoError(t, err)
	require.Equal(t, raw, again)
	text, err := os.ReadFile(filepath.Join(dir, ReportFile))
	require.NoError(t, err)
	for _, line := range strings.Split(string(text), "\n") {
		require.LessOrEqual(t, len([]rune(line)), Width)
	}
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorContains(t, r.Write(nil, filepath.Join(file, "below")), "name another")
}

// TestMisuse: what a caller gets wrong is an error, and a failed step leaves nothing behind.
func TestMisuse(t *testing.T) {
	_, err := New(Options{})
	require.ErrorContains(t, err, "Options.Device")
	p, s := profiled(t, newClocked(), 1)
	require.ErrorContains(t, p.Step(func() error { return p.Step(s.step) }), "within a step")
	require.ErrorIs(t, p.Step(func() error { return errors.Join(s.step(), fs.ErrInvalid) }), fs.ErrInvalid)
	require.Equal(t, 1, p.Result().Steps.Count)
	p.Watch("again", s.grads)
	require.Len(t, p.Result().Plans, 2)
	p.Unwatch()
	require.NoError(t, p.Step(s.step))
	require.InDelta(t, 1, p.Result().Plans[0].Runs, 1e-9, "two steps, two runs")

	empty, err := New(Options{Device: newClocked()})
	require.NoError(t, err)
	require.NoError(t, empty.Result().Write(nil, t.TempDir()))
}

// TestScopes: layers are put together, and deep trees can be cut.
func TestScopes(t *testing.T) {
	r := result(t, 1)
	find := func(s *Scope, path string) *Scope {
		for _, name := range strings.Split(path, ".") {
			i := 0
			for i < len(s.Parts) && s.Parts[i].Name != name {
				i++
			}
			require.Less(t, i, len(s.Parts), "%s in %s", name, s.Path)
			s = s.Parts[i]
		}
		require.Equal(t, path, s.Path)
		return s
	}
	a, b := find(r.Scopes, "layers.0"), find(r.Scopes, "layers.1")
	both := find(r.Scopes.Merged(), "layers.*")
	require.InDelta(t, a.Total.Seconds+b.Total.Seconds, both.Total.Seconds, 1e-12)
	for _, ph := range []graph.Phase{graph.Forward, graph.Backward, graph.Recompute} {
		require.Positive(t, both.Phases[ph.String()], ph)
	}
	require.Positive(t, find(r.Scopes, "optimizer").Phases["update"])
	var short, whole bytes.Buffer
	require.NoError(t, r.WriteText(&short, TextOptions{Depth: 1}))
	require.NoError(t, r.WriteText(&whole, TextOptions{}))
	require.NotContains(t, short.String(), "\n    0 ")
	require.Contains(t, whole.String(), "\n    0 ")
}

// TestThin keeps the fullest column of a long step.
func TestThin(t *testing.T) {
	cs := make([]column, 10*maxColumns+3)
	for i := range cs {
		cs[i] = column{from: float64(i), to: float64(i + 1), live: int64(i % 977)}
	}
	cs[4321].live = 1 << 40
	out := thin(cs)
	require.LessOrEqual(t, len(out), maxColumns)
	most := int64(0)
	for i, c := range out {
		most = max(most, c.live)
		require.True(t, i == 0 || out[i-1].to == c.from)
	}
	require.Equal(t, int64(1<<40), most)
	require.Equal(t, float64(len(cs)), out[len(out)-1].to)
}

var _ plan.Recorder = recorder{}
