package cpu_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/onnx"
)

var updateONNX = flag.Bool("update", false, "rewrite docs/onnx-ops.md")

const onnxHead = "# Operator cases of the ONNX standard\n\n" +
	"Printed by `go test ./device/cpu -run TestONNX -update`; do not edit. The cases are the node tests of ONNX (operator sets 7 to 28).\n" +
	"Floats must agree within 1e-7 + 1e-3·|want|, everything else must be equal; a differentiable operator's gradient, and the gradient\n" +
	"of that, are compared with central differences in float64 on the inputs of each case that has floating-point inputs and outputs.\n\n"

// TestONNX runs the operator cases of the ONNX standard on this device and keeps docs/onnx-ops.md true.
func TestONNX(t *testing.T) {
	report := onnx.Run(t, cpu.New(cpu.Options{Threads: 2}))
	if !report.Complete() {
		return // -run chose some cases
	}
	t.Log(report.Summary())
	require.Empty(t, report.Unmet(), "every case of a differentiable operator passes")
	require.GreaterOrEqual(t, report.Share(), 0.75, "of all cases pass")
	want := onnxHead + report.Summary() + "\n" + report.Table()
	path := filepath.Join(golden.Root(t), "docs", "onnx-ops.md")
	if *updateONNX {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
		return
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err, "run with -update to write it")
	require.True(t, want == string(got), "docs/onnx-ops.md is stale: run this test with -update")
}
