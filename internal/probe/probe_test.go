package probe

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

// TestLoops: every level computes the same: the loops do their work, and as much of it as they are credited with.
func TestLoops(t *testing.T) {
	b := make([]byte, 3*block)
	for i := range b {
		b[i] = byte(i*i>>3 + i)
	}
	for _, level := range isa.Levels {
		l, ok := loopsOf(level)
		if !ok {
			t.Logf("%v is not present", level)
			continue
		}
		require.InDelta(t, l.fmaOps/2, l.fma(1), 0, "%v: after a round every number is 1", level)
		require.InDelta(t, l.fmaOps/2*fmaLimit, l.fma(100), 0, "%v", level)
		for n := 1; n <= 3; n++ {
			require.Equal(t, readGo(b[:n*block]), l.read(b[:n*block]), "%v, %d blocks", level, n)
		}
		if l.dot8 != nil {
			require.EqualValues(t, 7*l.dot8Ops/2, l.dot8(7))
		}
		if l.dotBF16 != nil {
			require.InDelta(t, 7*l.dotBF16Ops/2, l.dotBF16(7), 0)
		}
		if l.stream != nil {
			dst, free, err := reserve(int64(len(b) + block))
			require.NoError(t, err)
			l.stream(dst, b)
			require.Equal(t, b, dst[:len(b)], "%v", level)
			require.Equal(t, make([]byte, block), dst[len(b):], "%v writes past its end", level)
			free()
		}
	}
}

// TestMeasure: rates are positive and ordered by what they measure.
func TestMeasure(t *testing.T) {
	for _, threads := range []int{1, 3} {
		r, err := Measure(context.Background(), Options{Threads: threads, Bytes: 3 << 20})
		require.NoError(t, err)
		require.Equal(t, threads, r.Threads)
		require.Greater(t, r.FMA, 1e8)
		require.Len(t, r.Memory, 3)
		last := int64(0)
		for _, s := range r.Memory {
			require.Greater(t, s.Bytes, last)
			require.Greater(t, s.Read, 1e7)
			require.Greater(t, s.Copy, 1e7)
			last = s.Bytes
		}
		require.Equal(t, r.Memory[1], r.Holding(r.Memory[0].Bytes+1))
		require.Equal(t, r.Largest(), r.Holding(1<<40))
	}
	require.Equal(t, Set{}, Result{}.Holding(1))
}

// TestMeasureStops: a cancelled probe ends with the context's error; a level that is not there is named.
func TestMeasureStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Measure(ctx, Options{Threads: 1, Bytes: 1 << 20})
	require.ErrorIs(t, err, context.Canceled)
	none := isa.Level(9)
	_, err = Measure(context.Background(), Options{Level: &none})
	require.ErrorContains(t, err, "unknown")
}

// BenchmarkProbe prints what this machine reaches.
func BenchmarkProbe(b *testing.B) {
	for b.Loop() {
		r, err := Measure(context.Background(), Options{})
		require.NoError(b, err)
		b.ReportMetric(r.FMA/1e9, "GFLOP/s")
		b.ReportMetric(r.Dot8/1e9, "int8-GOP/s")
		b.ReportMetric(r.DotBF16/1e9, "bf16-GFLOP/s")
		b.ReportMetric(r.Largest().Read/1e9, "read-GB/s")
		b.ReportMetric(r.Largest().Copy/1e9, "copy-GB/s")
	}
}
