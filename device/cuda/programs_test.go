package cuda

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
)

// TestPrograms compiles, with NVIDIA's compiler, what the kernels of the op case table ask for on each kind of device: a program of each
// name, or with BYES_TEST_FULL=1 all of them. The compiler is looked for in $BYES_NVRTC, a list of folders, and then as always; devices
// that no compiler found here builds for are skipped.
func TestPrograms(t *testing.T) {
	if hasGPU() {
		t.Skip("what the device compiles is shown by the other tests; other devices need the emulator")
	}
	emulator.Use(t)
	uses, err := optest.Uses()
	require.NoError(t, err)
	driver := emulated(t)
	for _, cc := range []int{70, 75, 80, 86, 89, 90, 100, 120} {
		t.Run(nvrtc.Capability(cc), func(t *testing.T) {
			compiler := realCompiler(t, cc)
			t.Setenv(ffi.PathVariable, driver)
			sources := programsOf(t, cc, uses)
			for _, s := range sources {
				_, err := compiler.Compile(s)
				require.NoError(t, err)
			}
			t.Logf("%d programs by %s", len(sources), compiler.Path())
		})
	}
}

// emulated is the path variable's value that Use has set.
func emulated(t *testing.T) string {
	v := os.Getenv(ffi.PathVariable)
	require.NotEmpty(t, v)
	return v
}

func realCompiler(t *testing.T, capability int) *nvrtc.Compiler {
	t.Helper()
	t.Setenv(ffi.PathVariable, os.Getenv("BYES_NVRTC"))
	c, err := nvrtc.Open(nvrtc.Want{Driver: 13000, Capability: capability})
	if err != nil {
		t.Skipf("no compiler for %s: set BYES_NVRTC to its folder (%v)", nvrtc.Capability(capability), err)
	}
	return c
}

// programsOf builds the kernels of all ops for an emulated device of a capability, without compiling them there.
func programsOf(t *testing.T, capability int, uses map[string]*optest.Use) []nvrtc.Source {
	t.Helper()
	require.NoError(t, emulator.Set(fmt.Sprintf("compile=0,capability=%d", capability)))
	defer func() { require.NoError(t, emulator.Reset()) }()
	d, err := New(Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	for _, name := range slices.Sorted(maps.Keys(uses)) {
		for _, n := range uses[name].Types {
			if n == nil {
				continue
			}
			_, err := d.Kernel(device.Spec{Op: n.Op, In: n.InTypes(), Out: n.Out})
			if err != nil && !errors.Is(err, device.ErrNoKernel) {
				require.NoError(t, err, name)
			}
		}
	}
	all := d.Programs()
	if os.Getenv("BYES_TEST_FULL") == "1" {
		return all
	}
	some := map[string]nvrtc.Source{}
	for _, s := range all {
		if old, ok := some[s.Name]; !ok || s.Text < old.Text {
			some[s.Name] = s
		}
	}
	return slices.Collect(maps.Values(some))
}
