package flash

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
)

// capScores replaces scores by c·tanh(x/c), in units of ln 2.
func capScores(x []float32, c float32) {
	tanhOf(x, c)
	for i := range x {
		x[i] *= c * math.Log2E
	}
}

// tanhOf replaces x by tanh(x/c).
func tanhOf(x []float32, c float32) {
	for i := range x {
		x[i] /= c
	}
	vec.Tanh(x, x)
}

// capScoresGrad does so too, and replaces dp by (dp - shift)·(1 - tanh²); shift holds one number a lane.
func capScoresGrad(x, dp, shift []float32, c float32) {
	dp = dp[:len(x)]
	tanhOf(x, c)
	for i, t := range x {
		x[i] = c * math.Log2E * t
		dp[i] = (dp[i] - shift[i%len(shift)]) * (1 - t*t)
	}
}
