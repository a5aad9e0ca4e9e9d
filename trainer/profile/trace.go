package profile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// The tracks of a trace.
const (
	trackSteps = iota + 1
	trackPlans
	trackKernels
)

// event is one of the Trace Event Format (chrome://tracing, Perfetto): X a stretch of time, C counters, M names. Times are in
// microseconds.
type event struct {
	Name string         `json:"name"`
	Cat  string         `json:"cat,omitempty"`
	Ph   string         `json:"ph"`
	TS   float64        `json:"ts"`
	Dur  *float64       `json:"dur,omitempty"`
	PID  int            `json:"pid"`
	TID  int            `json:"tid"`
	Args map[string]any `json:"args,omitempty"`
}

// Trace returns every recorded step as JSON for chrome://tracing or https://ui.perfetto.dev: a track of the steps, one of the plans
// with the uploading of inputs and the downloading of outputs, one of the kernels with scope, types and work, and the memory as
// counters.
func (r *Result) Trace() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(`{"displayTimeUnit":"ms","traceEvents":[` + "\n")
	first := true
	var failed error
	emit := func(e event) {
		raw, err := json.Marshal(e)
		if err != nil && failed == nil {
			failed = fmt.Errorf("trace: %w", err)
		}
		if !first {
			b.WriteString(",\n")
		}
		first = false
		b.Write(raw)
	}
	r.traceNames(emit)
	n := 0
	for k := range r.steps {
		if r.steps[k].dry {
			continue
		}
		n++
		r.traceStep(&r.steps[k], n, emit)
	}
	b.WriteString("\n]}\n")
	return b.Bytes(), failed
}

func (r *Result) traceNames(emit func(event)) {
	name := "trainer"
	if r.Title != "" {
		name = r.Title
	}
	emit(event{Name: "process_name", Ph: "M", PID: 1, Args: map[string]any{"name": name}})
	for i, track := range []string{"steps", "plans", "kernels, " + r.Device.Name} {
		emit(event{Name: "thread_name", Ph: "M", PID: 1, TID: trackSteps + i, Args: map[string]any{"name": track}})
		emit(event{Name: "thread_sort_index", Ph: "M", PID: 1, TID: trackSteps + i, Args: map[string]any{"sort_index": i}})
	}
}

// stretch is an X event.
func stretch(track int, name, cat string, from, took time.Duration, args map[string]any) event {
	d := micros(took)
	return event{Name: name, Cat: cat, Ph: "X", TS: micros(from), Dur: &d, PID: 1, TID: track, Args: args}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func (r *Result) traceStep(s *step, n int, emit func(event)) {
	emit(stretch(trackSteps, fmt.Sprintf("step %d", n), "step", s.began, s.took, map[string]any{"runs": len(s.runs)}))
	for k := range s.runs {
		u := &s.runs[k]
		m, last := u.marks, len(u.marks)-1
		at := func(mark device.Mark) time.Duration { return u.began + mark.At }
		pl := r.Plans[u.plan]
		emit(stretch(trackPlans, pl.Name, "plan", at(m[0]), m[last].At-m[0].At, map[string]any{"launches": pl.Launches}))
		emit(stretch(trackPlans, "inputs", "feed", at(m[0]), m[1].At-m[0].At, nil))
		emit(stretch(trackPlans, "outputs", "fetch", at(m[last-1]), m[last].At-m[last-1].At, nil))
		held := map[Category]int64{}
		for i := range pl.Launches {
			from, to := m[2+2*i], m[3+2*i]
			l := &r.Launches[r.first[u.plan]+i]
			emit(stretch(trackKernels, l.Kernel, l.Phase, at(from), to.At-from.At, l.args(to.At-from.At, to.Busy-from.Busy)))
			if now, changed := r.Memory.counters(u.plan, i, held); changed {
				emit(event{Name: "memory, bytes", Ph: "C", TS: micros(at(from)), PID: 1, Args: now})
			}
		}
	}
}

// args are the details of a launch.
func (l *Launch) args(took, busy time.Duration) map[string]any {
	out := map[string]any{"scope": l.Scope, "op": l.Op, "types": l.Types, "phase": l.Phase, "position": l.Pos, "launch": l.Index}
	if l.Calls > 0 {
		flops, moved := l.Flops/l.Calls, l.Bytes/l.Calls
		out["bytes"], out["GB/s"] = moved, ratio(moved/1e9, took.Seconds())
		if flops > 0 {
			out["flops"], out["GFLOP/s"] = flops, ratio(flops/1e9, took.Seconds())
		}
		if l.Least > 0 {
			out["share_of_limit"] = ratio(l.Least/l.Calls, took.Seconds())
		}
		out["estimated"] = l.Estimated > 0
	}
	if busy > 0 {
		out["threads"] = ratio(busy.Seconds(), took.Seconds())
	}
	return out
}

// counters are the bytes by category in a launch; changed says that they differ from held, which becomes them.
func (m *Memory) counters(pl, launch int, held map[Category]int64) (now map[string]any, changed bool) {
	now = map[string]any{}
	for _, a := range m.Fixed {
		now[string(a.Category)] = a.Bytes
	}
	for _, c := range Categories {
		h := m.Plans[pl].Held[c]
		if h == nil {
			continue
		}
		n := h[launch+1]
		changed = changed || launch == 0 || n != held[c]
		held[c], now[string(c)] = n, n
	}
	return now, changed
}
