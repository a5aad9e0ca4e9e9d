// Package doctor looks at a machine as training will find it: processor, memory, devices and the kernels chosen on them, what they
// reach, and the disk that checkpoints go to. Each finding that would hurt a run comes with its remedy.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Options of an examination. The zero value measures everything in the current directory.
type Options struct {
	FS    vfs.FS // nil: the operating system's
	Dir   string // where runs will be written; "" is the current directory
	Quick bool   // leave out what takes more than a moment: arithmetic, memory bandwidth, disk speed
}

// Result is what was found.
type Result struct {
	Versions report.Versions `json:"versions"`
	Devices  []Device        `json:"devices"`
	Disk     Disk            `json:"disk"`
	Findings []Finding       `json:"findings"` // empty: nothing stands in the way
}

// Device is one device, or a backend without any.
type Device struct {
	Name        string        `json:"name"` // as --device takes it
	About       string        `json:"about,omitempty"`
	MemoryTotal int64         `json:"memory_total,omitempty"` // bytes, 0 if unknown
	MemoryFree  int64         `json:"memory_free,omitempty"`  // bytes
	Default     bool          `json:"default,omitempty"`      // what --device=auto takes
	Facts       []device.Fact `json:"facts,omitempty"`
	Limits      *Limits       `json:"limits,omitempty"` // nil where not measured
	Error       string        `json:"error,omitempty"`  // why it cannot be used

	problems []device.Problem // among the findings
}

// Limits are what a device reaches at most, measured.
type Limits struct {
	Flops map[string]float64 `json:"flops"` // operations a second by dtype
	Read  float64            `json:"read"`  // bytes a second from memory
	Copy  float64            `json:"copy"`  // bytes a second, read and written
	Notes string             `json:"notes,omitempty"`
}

// Disk is the volume that runs are written to.
type Disk struct {
	Dir   string  `json:"dir"`
	Free  int64   `json:"free,omitempty"`  // bytes, 0 if unknown
	Write float64 `json:"write,omitempty"` // bytes a second until they are durable, 0 if not measured
	Sync  float64 `json:"sync,omitempty"`  // seconds that the smallest durable write takes
	Error string  `json:"error,omitempty"`
}

// Finding is something that would hurt a run.
type Finding struct {
	What   string `json:"what"`
	Remedy string `json:"remedy"`
}

// What is too little for comfort.
const (
	littleMemory = 2 << 30
	littleDisk   = 2 << 30
	slowDisk     = 20e6 // bytes a second
)

// Run examines the machine. It fails only when ctx ends: what is wrong with the machine is in the result.
func Run(ctx context.Context, o Options) (*Result, error) {
	o.FS = vfs.Or(o.FS)
	if o.Dir == "" {
		o.Dir = "."
	}
	r := &Result{Versions: report.ProgramVersions(), Findings: []Finding{}}
	if err := r.devices(ctx, o.Quick); err != nil {
		return nil, err
	}
	if err := r.disk(ctx, o); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Result) find(remedy, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{What: fmt.Sprintf(format, args...), Remedy: remedy})
}

// devices opens every device of every backend.
func (r *Result) devices(ctx context.Context, quick bool) error {
	auto := ""
	for _, b := range device.Backends() { // as device.Open chooses
		if b.Count() > 0 && (auto == "" || auto == "cpu" && b.Name() != "cpu") {
			auto = b.Name()
		}
	}
	for _, b := range device.Backends() {
		if e, ok := b.(device.Explainer); ok && b.Count() == 0 {
			if why := e.Explain(); why != nil {
				r.Devices = append(r.Devices, Device{Name: b.Name(), Facts: []device.Fact{{Topic: "not used", Text: why.Error()}}})
			}
		}
		for i := range b.Count() {
			name := b.Name()
			if i > 0 {
				name = fmt.Sprintf("%s:%d", name, i)
			}
			d, err := examine(ctx, name, quick)
			if err != nil {
				return err
			}
			d.Default = name == auto
			r.judge(d)
			r.Devices = append(r.Devices, d)
		}
	}
	if auto == "" {
		r.find("use a trainer built with at least the cpu backend", "no device can be used")
	}
	return nil
}

// judge adds findings about a device.
func (r *Result) judge(d Device) {
	switch {
	case d.Error != "":
		r.find("choose another --device, or mend what the message names", "%s: %s", d.Name, d.Error)
	case d.MemoryFree > 0 && d.MemoryFree < littleMemory:
		r.find("close other programs, or give --memory and a smaller model", "%s has only %s of memory free", d.Name, report.Bytes(d.MemoryFree))
	}
	for _, p := range d.problems {
		r.find(p.Remedy, "%s: %s", d.Name, p.What)
	}
}

// examine opens one device.
func examine(ctx context.Context, name string, quick bool) (out Device, err error) {
	out.Name = name
	d, err := device.Open(name)
	if err != nil {
		out.Error = err.Error()
		return out, nil
	}
	defer func() {
		if e := d.Close(); e != nil && out.Error == "" {
			out.Error = e.Error()
		}
	}()
	info := d.Info()
	out.About, out.MemoryTotal, out.MemoryFree = info.Name, info.MemoryTotal, info.MemoryFree
	if t, ok := d.(device.Describer); ok {
		out.Facts = t.Describe()
	}
	if err := build(d); err != nil {
		out.Error = "no kernel can be made for it: " + err.Error()
		return out, nil
	}
	if c, ok := d.(device.Checker); ok {
		out.problems = c.Check()
	}
	l, ok := d.(device.Limiter)
	if quick || !ok {
		return out, nil
	}
	limits, err := l.Limits(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		out.Error = "measuring it failed: " + err.Error()
		return out, nil
	}
	out.Limits = &Limits{Flops: map[string]float64{}, Notes: limits.Notes}
	for t, rate := range limits.Flops {
		out.Limits.Flops[t.String()] = rate
	}
	if n := len(limits.Memory); n > 0 {
		out.Limits.Read, out.Limits.Copy = limits.Memory[n-1].Read, limits.Memory[n-1].Copy
	}
	return out, nil
}

// build makes the kernel of a sum, which every device has: a GPU may be there without what compiles for it.
func build(d device.Device) error {
	t := tensor.T(tensor.F32, 1)
	k, err := d.Kernel(device.Spec{Op: ops.Pointwise{F: ops.FnAdd}, In: []tensor.Type{t, t}, Out: []tensor.Type{t}})
	if p, ok := d.(device.Preparer); ok && err == nil {
		err = errors.Join(p.Prepare(context.Background(), []device.Kernel{k})...)
	}
	return err
}

// How much is written to measure a disk, and in which pieces.
const (
	diskBytes = 64 << 20
	diskPiece = 1 << 20
)

// disk looks at the volume of the run directory: what is free, and how fast a file becomes durable.
func (r *Result) disk(ctx context.Context, o Options) error {
	r.Disk.Dir = o.Dir
	if abs, err := filepath.Abs(o.Dir); err == nil {
		r.Disk.Dir = abs
	}
	if f, ok := o.FS.(vfs.FreeSpacer); ok {
		if free, err := f.Free(o.Dir); err == nil {
			r.Disk.Free = free
			if free < littleDisk {
				r.find("free some, or choose another --out", "%s has only %s left", r.Disk.Dir, report.Bytes(free))
			}
		}
	}
	n := int64(diskBytes)
	if o.Quick || r.Disk.Free > 0 && r.Disk.Free < 4*n {
		n = 0
	}
	if err := r.timeWrites(ctx, o, n); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.Disk.Error = err.Error()
		r.find("make it writable, or choose another --out", "nothing can be written to %s: %v", r.Disk.Dir, err)
	}
	if r.Disk.Write > 0 && r.Disk.Write < slowDisk {
		r.find("choose a faster disk for --out, or save less often (--save.every)", "%s takes only %s a second", r.Disk.Dir, report.Bytes(int64(r.Disk.Write)))
	}
	return nil
}

// timeWrites writes a byte, then n more, and removes the file.
func (r *Result) timeWrites(ctx context.Context, o Options, n int64) (err error) {
	name := filepath.Join(o.Dir, fmt.Sprintf(".trainer-doctor-%d", os.Getpid()))
	f, err := o.FS.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), o.FS.Remove(name)) }()
	began := time.Now()
	if _, err := f.Write([]byte{0}); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	r.Disk.Sync = time.Since(began).Seconds()
	if n == 0 {
		return nil
	}
	piece := make([]byte, diskPiece)
	for i := range piece { // nothing that a file system could leave out or pack
		piece[i] = byte(uint32(i*i+i) * 2654435761 >> 24)
	}
	began = time.Now()
	for left := n; left > 0; left -= diskPiece {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := f.Write(piece[:min(left, diskPiece)]); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	r.Disk.Write = float64(n) / time.Since(began).Seconds()
	return nil
}
