package cuda

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
)

// TestGoldenBNBInt8Ops compares the ops of LLM.int8() with the CUDA library.
func TestGoldenBNBInt8Ops(t *testing.T) { bnb.Int8(t, testDevice(t)) }

// TestGoldenBNBOptim compares the steps of optimizers with those of the CUDA library: on a GPU bit for bit.
func TestGoldenBNBOptim(t *testing.T) { bnb.Optim(t, testDevice(t), !onEmulator()) }
