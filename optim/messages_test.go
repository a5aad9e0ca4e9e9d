package optim_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestMessages: an error speaks of the optimizer by the name that it was asked for.
func TestMessages(t *testing.T) {
	_, err := optim.New("adamw", optim.Config{Betas: [2]float64{1.5, 0.9}})
	require.EqualError(t, err, "optimizer adamw: betas must be in [0, 1) as float32, beta 1 is 1.5")
	opt, err := optim.New("lars8bit", optim.Config{})
	if err == nil {
		_, err = optim.NewGroup([]*graph.Var{graph.NewVar("w", tensor.T(tensor.F32, 8))}, optim.Options{Optimizer: opt})
	}
	require.ErrorContains(t, err, "lars8bit: without momentum there is no state to keep in 8 bits")
}
