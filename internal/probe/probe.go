// Package probe measures what the processor can do at most, so that figures of kernels can be given as shares of it: multiply-adds
// of registers, and reading and copying memory. It takes about a second.
//
// On a machine that others use too, the best of many short samples is the nearest to what the machine can do.
package probe

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

// Options says how much of the machine is measured. The zero value works.
type Options struct {
	Threads int        // 0: runtime.GOMAXPROCS(0)
	Bytes   int64      // the largest working set; 0: 512 MiB
	Level   *isa.Level // nil: isa.Best()
}

// DefaultBytes is the largest working set of a probe that is not told otherwise: no cache holds it.
const DefaultBytes = 512 << 20

// Result is what so many threads reach together.
type Result struct {
	Threads int     `json:"threads"`
	Level   string  `json:"level"`                    // the instructions that were used: "avx512"
	FMA     float64 `json:"fma_flops"`                // FLOP/s of float32 multiply-adds on registers
	Dot8    float64 `json:"dot8_ops,omitempty"`       // operations a second of int8 dot products (two a pair of bytes); 0 without AVX512-VNNI
	DotBF16 float64 `json:"dot_bf16_flops,omitempty"` // FLOP/s of bfloat16 dot products; 0 where they are not used (isa.BF16)
	Memory  []Set   `json:"memory"`                   // by size of the working set, ascending
	Seconds float64 `json:"seconds,omitempty"`        // what the probe took
}

// Set is the bandwidth on a working set that all threads share out.
type Set struct {
	Bytes int64   `json:"bytes"`
	Read  float64 `json:"read"` // bytes a second
	Copy  float64 `json:"copy"` // bytes a second, read and written, between the halves of the set
}

// Largest is the bandwidth of the largest working set, that of memory.
func (r Result) Largest() Set {
	if len(r.Memory) == 0 {
		return Set{}
	}
	return r.Memory[len(r.Memory)-1]
}

// Holding is the bandwidth of the smallest working set of at least so many bytes, or of the largest.
func (r Result) Holding(bytes int64) Set {
	for _, s := range r.Memory {
		if s.Bytes >= bytes {
			return s
		}
	}
	return r.Largest()
}

// sizes are the working sets beside the largest.
var sizes = []int64{256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20}

// How long samples of arithmetic and of memory last at least, and how many there are: fewer where they take long, as on a busy machine.
const (
	sampleFMA    = 2 * time.Millisecond
	sampleMemory = time.Millisecond
	samples      = 8
	fewSamples   = 3
	longEnough   = 150 * time.Millisecond
)

// Measure runs the probe.
func Measure(ctx context.Context, o Options) (Result, error) {
	began := time.Now()
	if o.Threads <= 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	if o.Bytes <= 0 {
		o.Bytes = DefaultBytes
	}
	level := isa.Best()
	if o.Level != nil {
		level = *o.Level
	}
	l, ok := loopsOf(level)
	if !ok {
		return Result{}, fmt.Errorf("probe: this processor, build or BYES_CPU has no %v", level)
	}
	r := Result{Threads: o.Threads, Level: level.String()}
	r.FMA = rate(o.Threads, l.fmaOps, sampleFMA, func(_, n int) { l.fma(n) })
	if l.dot8 != nil {
		r.Dot8 = rate(o.Threads, l.dot8Ops, sampleFMA, func(_, n int) { l.dot8(n) })
	}
	if l.dotBF16 != nil {
		r.DotBF16 = rate(o.Threads, l.dotBF16Ops, sampleFMA, func(_, n int) { l.dotBF16(n) })
	}
	if err := r.memory(ctx, l, o); err != nil {
		return Result{}, err
	}
	r.Seconds = time.Since(began).Seconds()
	return r, nil
}

// memory measures each working set in one buffer.
func (r *Result) memory(ctx context.Context, l loops, o Options) error {
	unit := int64(2 * block * o.Threads) // both halves of each thread's part are whole blocks
	buf, free, err := reserve(max(o.Bytes, unit))
	if err != nil {
		return fmt.Errorf("probe: a working set of %d bytes: %w; measure a smaller one", o.Bytes, err)
	}
	defer free()
	for _, size := range append(append([]int64(nil), sizes...), o.Bytes) {
		if size > o.Bytes || len(r.Memory) > 0 && size <= r.Largest().Bytes {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		size = max(size/unit, 1) * unit
		part := int(size) / o.Threads
		of := func(t int) []byte { return buf[t*part : (t+1)*part] }
		together(o.Threads, func(t int) { touch(of(t)) })
		s := Set{Bytes: size}
		s.Read = rate(o.Threads, part, sampleMemory, func(t, n int) {
			for range n {
				l.read(of(t))
			}
		})
		copies := []func(dst, src []byte){func(dst, src []byte) { copy(dst, src) }}
		if l.stream != nil {
			copies = append(copies, l.stream)
		}
		for _, f := range copies {
			s.Copy = max(s.Copy, rate(o.Threads, part, sampleMemory, func(t, n int) {
				b := of(t)
				for range n {
					f(b[part/2:], b[:part/2])
				}
			}))
		}
		r.Memory = append(r.Memory, s)
	}
	return nil
}

// touch writes to every page, so that it is there.
func touch(b []byte) {
	const page = 4096
	for i := 0; i < len(b); i += page {
		b[i] = 1
	}
}

// rate returns the best number of units a second of all threads together. f does n rounds of each units.
func rate(threads, each int, least time.Duration, f func(t, n int)) float64 {
	n := 1
	for { // rounds of a sample
		took := together(threads, func(t int) { f(t, n) })
		if took >= least || n > 1<<40 {
			break
		}
		n = max(2*n, int(1.2*float64(n)*float64(least)/float64(took+1)))
	}
	best := 0.0
	began := time.Now()
	for i := 0; i < samples && (i < fewSamples || time.Since(began) < longEnough); i++ {
		took := together(threads, func(t int) { f(t, n) })
		best = max(best, float64(n)*float64(each)*float64(threads)/max(took.Seconds(), 1e-9))
	}
	return best
}
