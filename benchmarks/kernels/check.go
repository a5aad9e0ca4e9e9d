package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/cputime"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/internal/probe"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// guard is a kernel that must stay faster than its Go twin, and near enough to the limit. The floors are half of what is usual or less, as
// the machine may be busy: they catch a kernel that is no longer chosen, not one that lost a tenth.
type guard struct {
	row
	times map[isa.Level]float64 // at least so many times as fast as the Go twin
	share map[isa.Level]float64 // of the limit, at least
}

// tries is how often a guard may fail before it counts.
const tries = 4

// A try times the kernel and probes the limit in turn, so that what slows the machine meets both. Each time is the least of many windows
// that are much shorter than other programs run at a stretch, so that on a busy machine too some are undisturbed.
const (
	turns  = 5
	window = time.Millisecond
)

// check measures ratios on one thread and fails if one stays below its floor.
func check(ctx context.Context, o options, out io.Writer) error {
	if isa.Best() == isa.Generic {
		fmt.Fprintln(out, "this processor or build has no assembly: nothing to compare")
		return nil
	}
	twins, err := runTwins(ctx, o)
	if err != nil {
		return err
	}
	var bad []string
	for _, g := range guards() {
		if !o.wanted(g.name) {
			continue
		}
		line, ok, err := g.hold(ctx, o, twins)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		fmt.Fprintln(out, line)
		if !ok {
			bad = append(bad, g.name)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("below the floor in %d tries: %s", tries, strings.Join(bad, ", "))
	}
	return nil
}

// hold times a guard until it is above its floors. After a try that failed the twin is timed again, as the machine may have become slower.
func (g *guard) hold(ctx context.Context, o options, twins map[string]float64) (line string, ok bool, err error) {
	level := isa.Best()
	for try := range tries {
		if try > 0 {
			if twins, err = runTwins(ctx, options{only: []string{g.name}}); err != nil {
				return "", false, err
			}
		}
		took, p, err := g.measure(ctx, o)
		if err != nil {
			return "", false, err
		}
		times := twins[g.name] / took.Seconds()
		ok = times >= g.times[level]
		line = fmt.Sprintf("%-22s %-14s %6.1f times its Go twin (floor %.1f)", g.name, g.value(took.Seconds()), times, g.times[level])
		if limit := limitOf(g.bound, p); limit > 0 {
			share := g.scale / took.Seconds() / limit
			ok = ok && share >= g.share[level]
			line += fmt.Sprintf(", %3.0f%% of the limit (floor %.0f%%)", 100*share, 100*g.share[level])
		}
		if ok {
			break
		}
	}
	return line, ok, nil
}

// measure times the kernel and probes the machine's arithmetic in turn.
func (g *guard) measure(ctx context.Context, o options) (took time.Duration, limits probe.Result, err error) {
	took = math.MaxInt64
	for range turns {
		p, err := probe.Measure(ctx, probe.Options{Threads: 1, Bytes: 256 << 10}) // no guard is held against memory
		if err != nil {
			return 0, limits, err
		}
		limits = larger(limits, p)
		t, err := timeAlone(ctx, g.row, o.share(4*turns))
		if err != nil {
			return 0, limits, err
		}
		took = min(took, t)
	}
	return took, limits, nil
}

// timeAlone times a row on one thread by the processor time of that thread, in windows of which there are so many that they last for some time
// together.
func timeAlone(ctx context.Context, r row, together time.Duration) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return timeRow(ctx, r, 1, cputime.Clock(cputime.Thread), max(int(together/window), 3), window)
}

// printTwins times the guards with whatever level this process has.
func printTwins(ctx context.Context, o options, out io.Writer) error {
	found := map[string]float64{}
	for _, g := range guards() {
		if !o.wanted(g.name) {
			continue
		}
		took, err := timeAlone(ctx, g.row, o.share(20))
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		found[g.name] = took.Seconds()
	}
	return json.NewEncoder(out).Encode(found)
}

// runTwins runs this program with the Go kernels: which kernels a process has is decided once.
func runTwins(ctx context.Context, o options) (map[string]float64, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-twin", "-only", strings.Join(o.only, ","))
	cmd.Env = append(os.Environ(), "BYES_CPU=generic")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the Go twins: %w: %s", err, lastLine(stderr.String()))
	}
	found := map[string]float64{}
	return found, json.Unmarshal(out.Bytes(), &found)
}

// guards are small enough for a few seconds in Go loops.
func guards() []guard {
	const side = 256
	const flops = 2. * side * side * side / 1e9
	both := func(avx2, avx512 float64) map[isa.Level]float64 {
		return map[isa.Level]float64{isa.AVX2: avx2, isa.AVX512: avx512}
	}
	all := []guard{
		{row: row{name: "gemm_f32", unit: "GFLOP/s", scale: flops, bound: peakF32, open: gemmCase(tensor.F32, side, side, side)}, times: both(4, 7), share: both(0.35, 0.35)},
		{row: row{name: "gemm_bf16", unit: "GFLOP/s", scale: flops, bound: peakBF16, open: gemmCase(tensor.BF16, side, side, side)}, times: both(4, 7), share: both(0.3, 0.25)},
		{row: row{name: "gemm_int8", unit: "GOP/s", scale: flops, bound: peakInt8, open: gemmCase(tensor.I8, side, side, side)}, times: both(4, 15), share: both(0, 0.25)},
	}
	return append(append(all, quantGuards(both)...), vectorGuards(both)...)
}

func quantGuards(both func(avx2, avx512 float64) map[isa.Level]float64) []guard {
	const n, side, m = 1 << 20, 512, 64
	const flops = 2. * m * side * side / 1e9
	return []guard{
		{row: row{name: "nf4_product", unit: "GFLOP/s", scale: flops, bound: peakF32, open: nf4Case(tensor.F32, m, side, 0)}, times: both(4, 7), share: both(0.3, 0.3)},
		{row: row{name: "nf4_vector", unit: "ms", open: nf4Case(tensor.F32, 1, side, 0)}, times: both(2, 2)},
		{row: row{name: "nf4_dequantize", unit: "ms", open: nf4Dequantize(tensor.F32, 1<<10, 0)}, times: both(2, 2)},
		{row: row{name: "nf4_quantize", unit: "ms", open: launchCase(ops.Quantize4{Scheme: quant.NF4, Blocksize: 64}, n)}, times: both(2, 3)},
		{row: row{name: "int8_quantize", unit: "ms", open: launchCase(ops.Quantize8{Blocksize: 256}, n)}, times: both(2, 2.5)},
	}
}

// vectorGuards work in place on values that stay ordinary numbers however often they are computed again.
func vectorGuards(both func(avx2, avx512 float64) map[isa.Level]float64) []guard {
	const rows, cols, tokens = 256, 1024, 256
	return []guard{
		{row: row{name: "sigmoid", unit: "ms", open: launchCase(ops.Pointwise{F: ops.FnSigmoid}, rows*cols)}, times: both(2, 4)},
		{row: row{name: "softmax", unit: "ms", open: launchCase(ops.SoftmaxOp{}, rows, cols)}, times: both(2, 4)},
		{row: row{name: "rmsnorm", unit: "ms", open: rmsNormCase(rows, cols)}, times: both(2, 4)},
		{row: row{name: "attention", unit: "ms", open: attentionCase(tokens, true)}, times: both(4, 7)},
		{row: row{name: "adamw32bit", unit: "ms", open: adamCase(false, rows*cols, 0)}, times: both(1.5, 1.5)},
		{row: row{name: "adamw8bit", unit: "ms", open: adamCase(true, rows*cols, 0)}, times: both(2, 3)},
	}
}
