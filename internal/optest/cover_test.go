package optest_test

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/cuda"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
)

// uncovered are the op types without a row, each with the reason.
var uncovered = map[string]string{}

// TestEveryOpHasACase: each op type of graph/ops occurs in the graph of some row, forward or backward, and so does each
// pointwise function.
func TestEveryOpHasACase(t *testing.T) {
	types, err := optest.OpTypes(filepath.Join(golden.Root(t), "graph", "ops"))
	require.NoError(t, err)
	uses, err := optest.Uses()
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, u := range uses {
		seen[reflect.TypeOf(u.Op).Name()] = true
	}
	for _, name := range types {
		if why := uncovered[name]; why != "" {
			t.Logf("%s has no case: %s", name, why)
			require.False(t, seen[name], "%s has a case now: take it off the list", name)
			continue
		}
		require.True(t, seen[name], "op type %s of graph/ops has no row in internal/optest", name)
	}
	for f := range ops.NumFuncs {
		require.NotNil(t, uses["Pointwise "+ops.Table[f].Name], "pointwise function %s has no row", ops.Table[f].Name)
	}
	t.Logf("%d op types, %d ops", len(types), len(uses))
}

var update = flag.Bool("update", false, "rewrite docs/support-matrix.md")

const matrixHead = "# Which ops a device runs, by element type\n\n" +
	"Printed from the op case table by `go test ./internal/optest -run TestSupportMatrix -update`; do not edit.\n" +
	"K: a kernel of its own. D: through its decomposition. V: a view, nothing to run. x: cannot. Blank: no such case.\n\n## cpu\n\n"

const cudaHead = "\n## cuda\n\nOn a device of compute capability 9.0, without cuBLASLt and cuDNN.\n\n"

// TestSupportMatrix compares the section of the CPU, and that of CUDA where there is an emulator of a GPU.
func TestSupportMatrix(t *testing.T) {
	table, err := optest.Matrix(cpu.New(cpu.Options{Threads: 1}))
	require.NoError(t, err)
	want := matrixHead + table
	path := filepath.Join(golden.Root(t), "docs", "support-matrix.md")
	gpu, ok := cudaMatrix(t)
	if *update {
		require.True(t, ok, "the section of cuda needs the emulator: write it where there is g++")
		require.NoError(t, os.WriteFile(path, []byte(want+cudaHead+gpu), 0o644))
		return
	}
	raw, err := os.ReadFile(path)
	require.NoError(t, err, "run with -update to write it")
	got := string(raw)
	if ok {
		want += cudaHead + gpu
	} else {
		got, _, _ = strings.Cut(got, cudaHead)
	}
	require.True(t, want == got, "docs/support-matrix.md is stale: run this test with -update")
}

// cudaMatrix asks the emulator which kernels there are, without compiling them.
func cudaMatrix(t *testing.T) (string, bool) {
	if _, err := emulator.Folder(); err != nil {
		require.ErrorIs(t, err, emulator.ErrNone)
		return "", false
	}
	emulator.Use(t)
	require.NoError(t, emulator.Set("compile=0"))
	dev, err := cuda.New(cuda.Options{})
	require.NoError(t, err)
	table, err := optest.Matrix(dev)
	require.NoError(t, err)
	require.NoError(t, dev.Close())
	return table, true
}

// BenchmarkOps measures the rows that ask for it, against the bytes they must move or the products they compute.
func BenchmarkOps(b *testing.B) {
	dev := cpu.New(cpu.Options{})
	for _, c := range optest.All() {
		if c.Bench != nil {
			b.Run(c.Name, func(b *testing.B) { optest.Bench(b, dev, c) })
		}
	}
}
