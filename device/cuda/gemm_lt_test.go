package cuda

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/device/cuda/cublaslt"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// What was chosen is read as it was written, for the problem that it was chosen for and no other.
func TestChoicesAreKept(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := cublaslt.Algorithm{Workspace: rapid.Int64Range(0, 1<<40).Draw(rt, "workspace")}
		for i := range a.Data {
			a.Data[i] = rapid.Uint64().Draw(rt, "word")
		}
		key := rapid.String().Draw(rt, "key")
		image := encodeChoice(a, key)
		got, ok := decodeChoice(image, key)
		require.True(rt, ok)
		require.Equal(rt, a, got)
		_, ok = decodeChoice(image, key+"x")
		require.False(rt, ok)
		if cut := rapid.IntRange(0, len(image)).Draw(rt, "cut"); cut < len(image) {
			_, ok = decodeChoice(image[:cut], key)
			require.False(rt, ok && key != string(image[72:cut]))
		}
	})
}

// The library's order counts unless a later algorithm is faster by more than noise; what it refuses is never taken.
func TestFastest(t *testing.T) {
	for _, c := range []struct {
		times []time.Duration
		best  int
	}{
		{[]time.Duration{1000, 995, 989, 985}, 2},
		{[]time.Duration{refused, 1000, refused, 900}, 3},
		{[]time.Duration{1000, refused}, 0},
		{[]time.Duration{refused, refused}, -1},
		{nil, -1},
	} {
		require.Equal(t, c.best, fastest(c.times), "%v", c.times)
	}
}

// Long runs that are far behind are not repeated; short ones are, whose first look says little.
func TestLeave(t *testing.T) {
	const ms, us = time.Millisecond, time.Microsecond
	times := []time.Duration{2 * ms, 1600 * us, 1900 * us, refused, 2100 * us}
	runs := []int{2, 2, 2, 0, 2}
	leave(times, runs)
	require.Equal(t, []int{2, 2, 2, 0, 0}, []int{runs[0], runs[1], runs[2], runs[3], runs[4]})
	require.Equal(t, []time.Duration{refused, refused, refused, refused, 2100 * us}, times)
	times, runs = []time.Duration{10 * us, 150 * us, 210 * us}, []int{50, 3, 2}
	leave(times, runs)
	require.Equal(t, []int{50, 3, 0}, runs)
	leave(nil, nil)
}

// TestLookAgain: one that the host held up at the first look is still timed.
func TestLookAgain(t *testing.T) {
	const ms = time.Millisecond
	times, runs := []time.Duration{4 * ms, 30 * ms, 6 * ms, refused, 4 * ms}, []int{2, 2, 2, 0, 2}
	var looked []int
	require.NoError(t, lookAgain(times, runs, func(i int) (time.Duration, error) {
		looked = append(looked, i)
		return []time.Duration{0, 3 * ms, 7 * ms}[i], nil
	}))
	require.Equal(t, []int{1, 2}, looked)
	leave(times, runs)
	require.Equal(t, []int{0, 2, 0, 0, 0}, runs)
	require.Error(t, lookAgain([]time.Duration{ms, 2 * ms}, []int{2, 2}, func(int) (time.Duration, error) { return 0, errors.New("lost") }))
}

// Products go to the library with the types that it has, summed as they must be.
func TestProblemsForTheLibrary(t *testing.T) {
	s := dense(3, 5, 8, tensor.BF16, tensor.BF16, tensor.BF16, true)
	p, ok := s.problem(true)
	require.True(t, ok)
	require.Equal(t, cublaslt.Compute32F, p.Compute, "halves are never summed in less, TF32 or not")
	require.Equal(t, cublaslt.Matrix{Type: cublaslt.R16BF, LD: 8, Trans: true}, p.B)
	for _, c := range []struct {
		a, b, c tensor.DType
		tf32    bool
		compute cublaslt.Compute
		ok      bool
	}{
		{tensor.F32, tensor.F32, tensor.F32, false, cublaslt.Compute32F, true},
		{tensor.F32, tensor.F32, tensor.F32, true, cublaslt.ComputeTF32, true},
		{tensor.F64, tensor.F64, tensor.F64, true, cublaslt.Compute64F, true},
		{tensor.F16, tensor.F16, tensor.F32, false, cublaslt.Compute32F, true},
		{tensor.F32, tensor.BF16, tensor.F32, false, 0, false},
		{tensor.I8, tensor.I8, tensor.I32, false, cublaslt.Compute32I, true},
	} {
		p, ok := dense(3, 12, 8, c.a, c.b, c.c, true).problem(c.tf32)
		require.Equal(t, c.ok, ok)
		if ok {
			require.Equal(t, c.compute, p.Compute)
		}
	}
	_, ok = dense(3, 12, 8, tensor.I8, tensor.I8, tensor.I32, false).problem(false)
	require.False(t, ok, "int8 columns across")
	for _, z := range [][2]int{{5, 8}, {12, 7}, {6, 8}, {12, 10}} {
		_, ok = dense(3, z[0], z[1], tensor.I8, tensor.I8, tensor.I32, true).problem(false)
		require.False(t, ok, "int8 sizes that are no multiples of 4: %v", z)
	}
	_, ok = dense(3, 5, 0, tensor.F32, tensor.F32, tensor.F32, true).problem(false)
	require.False(t, ok, "an empty sum")
}

// Algorithms are timed on numbers that a product may have, to the last one.
func TestNoise(t *testing.T) {
	d := testDevice(t)
	for _, n := range []int{5000, len(noise())/2 + 1, 5*len(noise())/2 + 33} {
		p, at := allocate(t, d, 2*int64(n)+2)
		require.NoError(t, d.enter(func() error {
			r, err := d.newTrial()
			if err != nil {
				return err
			}
			defer r.close()
			return errors.Join(r.noise(at, 2*int64(n)), d.api.Sync(r.stream.handle))
		}))
		raw := make([]byte, 2*n+2)
		require.NoError(t, d.Stream(0).Download(raw, p))
		require.Zero(t, raw[2*n]|raw[2*n+1], "nothing behind")
		seen, negative := map[uint16]bool{}, 0
		for i := range n {
			bits := binary.LittleEndian.Uint16(raw[2*i:])
			v := math.Float32frombits(uint32(bits) << 16)
			if v < 0 {
				negative, v = negative+1, -v
			}
			if v < 0.5 || v >= 1 {
				t.Fatalf("number %d of %d is %v", i, n, v)
			}
			seen[bits] = true
		}
		require.Len(t, seen, 256)
		require.InDelta(t, n/2, negative, float64(n)/10)
	}
}
