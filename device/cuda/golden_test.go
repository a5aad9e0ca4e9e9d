package cuda

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
)

// TestGoldenBNBInt8Ops compares the ops of LLM.int8() with the CUDA library.
func TestGoldenBNBInt8Ops(t *testing.T) { bnb.Int8(t, testDevice(t)) }
