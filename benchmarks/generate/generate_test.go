// Package generate compares the speed of text generation with llama2.c, the C program that the model stories260K comes with.
package generate

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// tokens generated from the start of a text, greedily.
const tokens = 200

// BenchmarkOurs generates on one thread with the key/value cache, after one generation that compiles the plans. Every token
// counts; llama2.c leaves its first one out of its figure.
func BenchmarkOurs(b *testing.B) {
	dir := filepath.Join(golden.Dir(b), "models", "stories260K")
	m, err := trainer.OpenModel(dir, trainer.ModelOptions{})
	if err != nil {
		b.Skipf("no model: %v", err)
	}
	dev := cpu.New(cpu.Options{Threads: 1})
	session := plan.NewSession(plan.NewStore(dev))
	require.NoError(b, m.Source.Load(session.Store()))
	bos, ok := m.BOS()
	require.True(b, ok)
	gen, err := trainer.NewGenerator(m.Model, session, 1, 256)
	require.NoError(b, err)
	var n int
	generate := func() {
		n = 0
		require.NoError(b, gen.Generate(b.Context(), [][]int32{{bos}}, tokens, trainer.Sampling{}, func(int, int32) bool {
			n++
			return true
		}))
	}
	generate()
	for b.Loop() {
		generate()
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
	require.NoError(b, gen.Close())
	require.NoError(b, session.Close())
	require.NoError(b, dev.Close())
	require.NoError(b, m.Close())
}

// BenchmarkLlama2C is the C program, on one thread, by the figure that it prints itself.
func BenchmarkLlama2C(b *testing.B) {
	root := golden.Dir(b)
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		b.Skip("no gcc: the C program cannot be built")
	}
	source := filepath.Join(root, "peers", "llama2.c", "run.c")
	if _, err := os.Stat(source); err != nil {
		b.Skipf("no C program: %v", err)
	}
	bin := filepath.Join(b.TempDir(), "run")
	out, err := exec.Command(gcc, "-O3", "-march=native", "-o", bin, source, "-lm").CombinedOutput()
	require.NoError(b, err, "%s", out)
	dir := filepath.Join(root, "models", "stories260K")
	speed := regexp.MustCompile(`achieved tok/s: ([0-9.]+)`)
	var best float64
	for b.Loop() {
		out, err := exec.Command(bin, filepath.Join(dir, "stories260K.bin"), "-z", filepath.Join(dir, "tok512.bin"), "-t", "0", "-n",
			strconv.Itoa(tokens)).CombinedOutput()
		require.NoError(b, err, "%s", out)
		found := speed.FindSubmatch(out)
		require.NotNil(b, found, "%s", out)
		v, err := strconv.ParseFloat(string(found[1]), 64)
		require.NoError(b, err)
		best = max(best, v)
	}
	b.ReportMetric(best, "best-tokens/s")
}
