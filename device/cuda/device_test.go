package cuda

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestDevice is the conformance suite, on a GPU where there is one, else on the emulator.
func TestDevice(t *testing.T) {
	devicetest.RunWith(t, testDevice(t), devicetest.Options{Skip: fewTypes})
}

// fewTypes leaves most element types out on the emulator, unless BYES_TEST_FULL is 1: the same kernel text in another type costs a run of
// the compiler. Elementwise functions, of which there are most, run in one type, of the others f32, bf16 and i32. A GPU runs all.
func fewTypes(c *optest.Case, d tensor.DType) string {
	if !onEmulator() || os.Getenv("BYES_TEST_FULL") == "1" {
		return ""
	}
	chosen := slices.DeleteFunc([]tensor.DType{tensor.F32, tensor.I32, tensor.BF16}, func(t tensor.DType) bool { return !slices.Contains(c.Types(), t) })
	if len(chosen) > 1 && elementwise(c, chosen[0]) {
		chosen = chosen[:1]
	}
	if len(chosen) > 0 && !slices.Contains(chosen, d) {
		return "on the emulator only with BYES_TEST_FULL=1"
	}
	return ""
}

// elementwise says whether a case has nothing but pointwise functions.
func elementwise(c *optest.Case, d tensor.DType) bool {
	for _, n := range c.New(d).Graph.Nodes() {
		if _, ok := n.Op.(ops.Pointwise); !ok && len(n.In) > 0 {
			return false
		}
	}
	return true
}

// opened is the device of all tests of the process: opening takes time, and a driver is opened once.
var opened struct {
	sync.Mutex
	dev *Device
}

// testDevice is a GPU where there is one, else the emulator; BYES_TEST_GPU=0 takes the emulator in any case, and 1 the GPU. Where there
// is neither, the test is skipped with a reason.
func testDevice(t testing.TB) *Device {
	t.Helper()
	opened.Lock()
	defer opened.Unlock()
	if opened.dev != nil {
		return opened.dev
	}
	if !hasGPU() {
		emulator.Use(t)
	}
	d, err := New(Options{})
	require.NoError(t, err)
	opened.dev = d
	return d
}

// onEmulator tells whether testDevice is the emulator: for tests of what only a GPU shows, or only the emulator.
func onEmulator() bool { return !hasGPU() }

func hasGPU() bool {
	switch os.Getenv("BYES_TEST_GPU") {
	case "0":
		return false
	case "1":
		return true
	}
	signs := []string{"/dev/nvidiactl", "/dev/dxg"} // the driver's devices, of Linux and of Windows' Linux
	if runtime.GOOS == "windows" {
		signs = []string{filepath.Join(os.Getenv("SystemRoot"), "System32", "nvcuda.dll")}
	}
	for _, s := range signs {
		if _, err := os.Stat(s); err == nil {
			return true
		}
	}
	return false
}
