package cuda

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
)

// TestGoldenBNBInt8Ops compares the ops of LLM.int8() with the CUDA library.
func TestGoldenBNBInt8Ops(t *testing.T) { bnb.Int8(t, testDevice(t)) }

// TestGoldenBNBOptim compares the steps of optimizers with those of the CUDA library: on a GPU bit for bit.
func TestGoldenBNBOptim(t *testing.T) { bnb.Optim(t, testDevice(t), !onEmulator()) }

// TestGoldenBNB compares the ops of 4-bit and 8-bit formats with the CUDA library.
func TestGoldenBNB(t *testing.T) {
	d := testDevice(t)
	t.Run("Blockwise4", func(t *testing.T) { bnb.Blockwise4(t, d) })
	t.Run("Blockwise8", func(t *testing.T) { bnb.Blockwise8(t, d) })
	t.Run("Linear4bit", func(t *testing.T) { bnb.Linear4bit(t, d) })
}
