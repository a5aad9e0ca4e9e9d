package flash

import (
	"fmt"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

// levels are the kernels of this processor and, for each, its twin in Go.
func levels() map[string]*kernel {
	all := map[string]*kernel{}
	for l, k := range kernels {
		if k != nil {
			all[isa.Level(l).String()] = k
			all[fmt.Sprintf("%v twin", isa.Level(l))] = twin(k.mr, k.nr)
		}
	}
	return all
}

// BenchmarkKernels runs the inner loops on one block of a head of 64 elements beside their twins in Go.
func BenchmarkKernels(b *testing.B) {
	for name, k := range levels() {
		const d, keys = 64, blockKeys
		f := func(n int) []float32 { return make([]float32, n) }
		a, p, s, ds, acc, state, out := f(keys*d), f(d*k.nr), f(2*keys*k.nr), f(2*keys*k.nr), f(d*k.nr), f(4*k.nr), f(keys*d)
		rows := f(2 * k.nr * d)
		flops := float64(2 * keys * d * k.nr)
		run := func(what string, flops float64, f func()) {
			b.Run(what+"/"+name, func(b *testing.B) {
				for b.Loop() {
					f()
				}
				b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				b.ReportMetric(float64(keys*k.nr)*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gscores/s")
			})
		}
		run("scores", flops, func() { k.outer(d, keys/k.mr, &a[0], k.mr, d*k.mr, &p[0], &s[0], nil) })
		run("values", flops, func() { k.outer(keys, d/k.mr, &a[0], k.mr, keys*k.mr, &s[0], &acc[0], &state[0]) })
		run("sums", 2*flops, func() {
			for j := 0; j < d; j += k.nr {
				k.inner(2, keys*k.nr, keys/k.mr, &s[0], &rows[j], d, &out[j], d)
			}
		})
		run("softmax", 0, func() { k.softmax(keys, &s[0], &state[0]) })
		run("slopes", 0, func() { k.slopes(keys, &s[0], &ds[0], &state[0]) })
	}
}
