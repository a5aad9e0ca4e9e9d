package gemm

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Float64 products serve gradient checks; they are plain Go, blocked so that a block of B is reused from the cache.
const (
	rows64  = 16  // rows of C per task
	chunk64 = 128 // K and N at a time
)

func (j *job) float64s(p *pool.Pool) error {
	if err := p.RunWorker(ceil(j.M, rows64), j.f64Fn); err != nil {
		return fmt.Errorf("gemm: %w", err)
	}
	return nil
}

// block64 computes rows64 rows of C.
func (j *job) block64(_, task int) {
	c := tensor.View[float64](j.C.Data)
	m0, m1 := task*rows64, min((task+1)*rows64, j.M)
	if !j.Accumulate {
		for i := m0; i < m1; i++ {
			clear(c[i*j.C.LD : i*j.C.LD+j.N])
		}
	}
	for k0 := 0; k0 < j.K; k0 += chunk64 {
		for n0 := 0; n0 < j.N; n0 += chunk64 {
			k1, n1 := min(k0+chunk64, j.K), min(n0+chunk64, j.N)
			for i := m0; i < m1; i++ {
				j.row64(c[i*j.C.LD+n0:i*j.C.LD+n1], i, n0, k0, k1)
			}
		}
	}
}

// row64 adds the products over [k0,k1) to a part of row i of C that starts at column n0.
func (j *job) row64(c []float64, i, n0, k0, k1 int) {
	a, b := tensor.View[float64](j.A.Data), tensor.View[float64](j.B.Data)
	at, step := i*j.A.LD+k0, 1
	if j.A.Trans {
		at, step = k0*j.A.LD+i, j.A.LD
	}
	if !j.B.Trans {
		for k := k0; k < k1; k++ {
			x := j.alpha64 * a[at+(k-k0)*step]
			for n, w := range b[k*j.B.LD+n0:][:len(c)] {
				c[n] += x * w
			}
		}
		return
	}
	for n := range c {
		var s float64
		for k, w := range b[(n0+n)*j.B.LD+k0:][:k1-k0] {
			s += a[at+k*step] * w
		}
		c[n] += j.alpha64 * s
	}
}
