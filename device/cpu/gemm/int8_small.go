package gemm

import (
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
)

// Products of few rows are limited by reading B: its rows are multiplied where they lie. That needs both operands with K along their
// stored rows.
const (
	fewRows   = 4
	dotColumn = 64 // columns of C a task
	dotRound  = 64 // elements a round of dotInt8AVX2
)

func (j *job8) small() bool { return j.M <= fewRows && !j.A.Trans && j.B.Trans }

func (j *job8) runSmall(p *pool.Pool) error { return p.RunWorker(ceil(j.N, dotColumn), j.dotFn) }

func (j *job8) dots(_, task int) {
	for n := task * dotColumn; n < min((task+1)*dotColumn, j.N); n++ {
		w := j.B.Data[n*j.B.LD:][:j.K]
		for m := range j.M {
			s := j.kern.dotRow(j.A.Data[m*j.A.LD:][:j.K], w)
			at := m*j.LDC + n
			if j.Accumulate {
				s += j.C[at]
			}
			j.C[at] = s
		}
	}
}

// dotRow is the inner product of two rows of one length.
func (k *kernel8) dotRow(x, y []int8) (s int32) {
	if rounds := len(x) / dotRound; rounds > 0 && k.dot != nil {
		s = k.dot(rounds, unsafe.SliceData(x), unsafe.SliceData(y))
		x, y = x[rounds*dotRound:], y[rounds*dotRound:]
	}
	y = y[:len(x)]
	var t int32
	for len(x) >= 4 && len(y) >= 4 {
		s += int32(x[0])*int32(y[0]) + int32(x[1])*int32(y[1])
		t += int32(x[2])*int32(y[2]) + int32(x[3])*int32(y[3])
		x, y = x[4:], y[4:]
	}
	for i, v := range x {
		s += int32(v) * int32(y[i])
	}
	return s + t
}
