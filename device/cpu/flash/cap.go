package flash

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
)

// With a soft cap c the packed queries have 1/c in them, so that what products give is x/c, and scores are c·tanh of it.

// capScores turns rows of products into scores in units of ln 2.
func (t *Tiler) capScores(x []float32, rows int, factors []float32) {
	x = x[:rows*t.k.nr]
	vec.Tanh(x, x)
	t.times(x, rows, t.SoftCap*math.Log2E, factors)
}

// capScoresGrad does so too, and replaces dp by (dp - shift)·(1 - tanh²); shift holds one number a lane.
func (t *Tiler) capScoresGrad(x, dp, shift []float32, rows int, factors []float32) {
	nr := t.k.nr
	x = x[:rows*nr]
	vec.Tanh(x, x)
	for j := 0; j < len(x); j += nr {
		d, s := dp[j:j+nr], shift[:nr]
		for i, v := range x[j : j+nr] {
			d[i] = (d[i] - s[i]) * (1 - v*v)
		}
	}
	t.times(x, rows, t.SoftCap*math.Log2E, factors)
}
