// Package peers runs other Go libraries on problems that this framework solves too, so that its losses, gradients and speed can
// be compared with theirs. It is a module of its own: nobody who builds the framework downloads the libraries compared here.
//
// The problem is one SGD training step of a two-layer perceptron with softmax cross-entropy. Problem makes weights and data from
// a seed, Reference computes loss and gradients plainly in float64, and each peer answers the same questions through Trainer.
package peers

import (
	"fmt"
	"math"
)

// Problem is a perceptron In-Hidden-Out (ReLU between) with one batch of rows. Matrices are row-major float32.
type Problem struct {
	In, Hidden, Out, Batch int

	LR     float32
	X      []float32 // (Batch, In), in [0, 1)
	Labels []int32   // (Batch), in [0, Out)
	W1, B1 []float32 // (In, Hidden), (Hidden)
	W2, B2 []float32 // (Hidden, Out), (Out)
}

// Result is the mean cross-entropy in nats over the batch and its gradient for each parameter, laid out as in Problem.
type Result struct {
	Loss           float64
	W1, B1, W2, B2 []float64
}

// Trainer is what a peer offers for one Problem. It owns copies of the weights.
type Trainer interface {
	// LossGrad returns loss and gradients at the present weights and leaves the weights as they are.
	LossGrad() (Result, error)
	// Step returns the loss at the present weights and then moves them by -LR times their gradient.
	Step() (float64, error)
	// Close frees what the peer holds.
	Close() error
}

// NewProblem makes a problem whose numbers depend on the seed and the sizes only. Weights are uniform in ±sqrt(6/fan-in), the
// bound of He et al. 2015 (equation 10) for ReLU; biases are small and not zero, so that a lost bias shows.
func NewProblem(seed uint64, in, hidden, out, batch int) *Problem {
	r := &splitMix{state: seed}
	p := &Problem{In: in, Hidden: hidden, Out: out, Batch: batch, LR: 0.1, Labels: make([]int32, batch)}
	p.X = r.uniform(batch*in, 0, 1)
	for i := range p.Labels {
		p.Labels[i] = int32(r.next() % uint64(out))
	}
	b1, b2 := math.Sqrt(6/float64(in)), math.Sqrt(6/float64(hidden))
	p.W1, p.B1 = r.uniform(in*hidden, -b1, b1), r.uniform(hidden, -0.1, 0.1)
	p.W2, p.B2 = r.uniform(hidden*out, -b2, b2), r.uniform(out, -0.1, 0.1)
	return p
}

// Standard is the measured problem: 784-512-10, batch 64, about 105 million multiply-adds and additions a step.
func Standard() *Problem { return NewProblem(1, 784, 512, 10, 64) }

// OneHot returns the labels as a (Batch, Out) matrix of zeros and ones.
func (p *Problem) OneHot() []float32 {
	y := make([]float32, p.Batch*p.Out)
	for i, c := range p.Labels {
		y[i*p.Out+int(c)] = 1
	}
	return y
}

// String names the sizes: "784-512-10 batch 64".
func (p *Problem) String() string {
	return fmt.Sprintf("%d-%d-%d batch %d", p.In, p.Hidden, p.Out, p.Batch)
}

// splitMix is SplitMix64 (Steele, Lea and Flood 2014): small, and the same on every machine and Go version.
type splitMix struct{ state uint64 }

func (r *splitMix) next() uint64 {
	r.state += 0x9e3779b97f4a7c15
	z := r.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (r *splitMix) uniform(n int, lo, hi float64) []float32 {
	out := make([]float32, n)
	for i := range out {
		u := float64(r.next()>>11) / (1 << 53)
		out[i] = float32(lo + u*(hi-lo))
	}
	return out
}
