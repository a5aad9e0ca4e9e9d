package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// batchTime is how long a timed batch takes at least, about.
const batchTime = 3 * time.Millisecond

// figure is what was measured of a row.
type figure struct {
	Work     string  `json:"work"`
	Detail   string  `json:"detail"`
	Micros   float64 `json:"us"`
	GBs      float64 `json:"gb_s,omitempty"`    // bytes that must move, over the time
	TFlops   float64 `json:"tflop_s,omitempty"` // operations over the time
	Share    float64 `json:"share,omitempty"`   // of what the device copies or multiplies
	Kernel   string  `json:"kernel,omitempty"`
	Captured bool    `json:"captured"` // launched as a recorded graph
	Error    string  `json:"error,omitempty"`
}

// result is the whole table.
type result struct {
	Device string   `json:"device"`
	CopyGB float64  `json:"copy_gb_s"`
	Gemm   float64  `json:"gemm_tflop_s"`
	Rows   []figure `json:"rows"`
}

// measure times the limits and then the rows.
func measure(dev device.Device, rows []Row, o options) (*result, error) {
	r := newRig(dev)
	res := &result{Device: dev.Info().Name}
	bytes, n := 1<<30, 8192
	if dev.Info().Kind == "cpu" { // as tests do
		bytes, n = 1<<20, 64
	}
	limits := []Row{copyRow(bytes), negateRow(bytes), gemmRow(n)}
	for _, l := range limits {
		f := r.figure(l, o.batches)
		if f.Error != "" {
			f.Error = "limit: " + f.Error
		}
		res.Rows = append(res.Rows, f)
	}
	res.CopyGB, res.Gemm = max(res.Rows[0].GBs, res.Rows[1].GBs), res.Rows[2].TFlops
	for _, row := range rows {
		if o.wanted(row.Work) {
			res.Rows = append(res.Rows, r.figure(row, o.batches))
		}
	}
	for i := range res.Rows {
		res.Rows[i].share(res)
	}
	return res, errors.Join(r.stream.Sync(), r.close())
}

func (f *figure) share(res *result) {
	switch {
	case f.GBs > 0 && res.CopyGB > 0:
		f.Share = f.GBs / res.CopyGB
	case f.TFlops > 0 && res.Gemm > 0:
		f.Share = f.TFlops / res.Gemm
	}
}

// copyRow counts bytes read and written.
func copyRow(bytes int) Row {
	return Row{Work: "copy", Detail: "1 GiB, read + written", Bytes: 2 * float64(bytes), Make: func(r *rig) (*work, error) {
		a, err := r.alloc(int64(bytes))
		if err != nil {
			return nil, err
		}
		b, err := r.alloc(int64(bytes))
		return &work{turns: 1, kernel: "copy", launch: func(int) error { return r.stream.Copy(b, a, int64(bytes)) }}, err
	}}
}

// negateRow is a copy by a kernel, which is faster than the driver's: the limit is the better of the two.
func negateRow(bytes int) Row {
	return Row{Work: "copy by a kernel", Detail: "1 GiB, read + written", Bytes: 2 * float64(bytes), Make: func(r *rig) (*work, error) {
		return r.op(ops.Pointwise{F: ops.FnNeg}, floats(tensor.F32, bytes/4))
	}}
}

func gemmRow(n int) Row {
	return Row{Work: "GEMM bf16", Detail: fmt.Sprintf("%d³", n), Flops: 2 * float64(n) * float64(n) * float64(n), Make: func(r *rig) (*work, error) {
		return r.op(ops.MatMul{}, floats(tensor.BF16, n, n), floats(tensor.BF16, n, n))
	}}
}

// figure times a row. A row that cannot be run says why and does not end the program.
func (r *rig) figure(row Row, batches int) figure {
	f := figure{Work: row.Work, Detail: row.Detail}
	w, err := row.Make(r)
	var each time.Duration
	if err == nil {
		f.Kernel = w.kernel
		each, f.Captured, err = r.time(w, batches)
	}
	if err = errors.Join(err, r.release()); err != nil {
		f.Error = err.Error()
		return f
	}
	seconds := each.Seconds()
	f.Micros = seconds * 1e6
	if row.Bytes > 0 {
		f.GBs = row.Bytes / seconds / 1e9
	}
	if row.Flops > 0 {
		f.TFlops = row.Flops / seconds / 1e12
	}
	return f
}

// time is the median time of a call over batches.
func (r *rig) time(w *work, batches int) (each time.Duration, captured bool, err error) {
	t, ok := r.stream.(device.Timer)
	if !ok {
		return 0, false, errors.New("the streams of this device have no timer")
	}
	round := func() error {
		for i := range w.turns {
			if err := w.launch(i); err != nil {
				return err
			}
		}
		return nil
	}
	took, err := r.marked(t, 1, round)
	if err == nil {
		took, err = r.marked(t, 1, round) // the first had cold tables
	}
	if err != nil {
		return 0, false, err
	}
	rounds := int(min(max(batchTime/max(took[0], time.Microsecond), 1), 1000))
	batch := func() error {
		for range rounds {
			if err := round(); err != nil {
				return err
			}
		}
		return nil
	}
	run := batch
	if c, ok := r.dev.(device.Capturer); ok {
		g, failed := c.Capture(r.stream, batch)
		if failed != nil {
			return 0, false, fmt.Errorf("recording: %w", failed)
		}
		defer func() { err = errors.Join(err, g.Free()) }()
		captured, run = true, func() error { return g.Launch(r.stream) }
		if err := run(); err != nil { // uploads the graph
			return 0, true, err
		}
	}
	if took, err = r.marked(t, batches, run); err != nil {
		return 0, captured, err
	}
	slices.Sort(took)
	return took[len(took)/2] / time.Duration(rounds*w.turns), captured, nil
}

// marked runs f n times and returns the times between marks.
func (r *rig) marked(t device.Timer, n int, f func() error) ([]time.Duration, error) {
	if err := t.Reserve(n + 1); err != nil {
		return nil, err
	}
	if err := t.Mark(); err != nil {
		return nil, err
	}
	for range n {
		if err := f(); err != nil {
			return nil, err
		}
		if err := t.Mark(); err != nil {
			return nil, err
		}
	}
	marks, err := t.Marks()
	if err != nil {
		return nil, err
	}
	out := make([]time.Duration, n)
	for i := range out {
		out[i] = marks[i+1].At - marks[i].At
	}
	return out, nil
}
