package cpu

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestStrided: any strides, broadcast and empty axes too, against picking every element.
func TestStrided(t *testing.T) {
	devs := []*Device{New(Options{Threads: 1}), New(Options{Threads: 3})}
	defer func() {
		for _, d := range devs {
			require.NoError(t, d.Close())
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		rank := rapid.IntRange(0, 5).Draw(t, "rank")
		s := strided{elem: 1 << rapid.IntRange(0, 3).Draw(t, "elem"), start: rapid.IntRange(0, 4).Draw(t, "start")}
		size, stride := 1, make([]int, rank)
		order := rapid.Permutation(identity(rank)).Draw(t, "order")
		s.dims = make([]int, rank)
		span := 1
		for i := range rank {
			s.dims[i] = rapid.SampledFrom([]int{0, 1, 2, 3, 4, 8, 17, 40, 70}).Draw(t, "extent")
			if size *= s.dims[i]; size > 1<<17 {
				t.Skip("large")
			}
		}
		for _, i := range order { // from the axis that src holds closest together
			stride[i] = span * rapid.SampledFrom([]int{0, 1, 1, 1, 1, 2}).Draw(t, "step")
			span = max(span, stride[i]*max(s.dims[i], 1))
		}
		s.strides = stride
		src := tensor.AlignedBytes((span + s.start + 1) * s.elem)
		for i := range src {
			src[i] = byte(i*7 + i>>8)
		}
		want := tensor.AlignedBytes(size * s.elem)
		for k := range size {
			off := s.start + offset(k, s.dims, s.strides)
			copy(want[k*s.elem:(k+1)*s.elem], src[off*s.elem:])
		}
		for _, d := range devs {
			got := tensor.AlignedBytes(size * s.elem)
			require.NoError(t, s.kernel(d).Run(&Call{In: [][]byte{src}, Out: [][]byte{got}}))
			require.Equal(t, want, got)
		}
	})
}

func identity(n int) []int {
	p := make([]int, n)
	for i := range p {
		p[i] = i
	}
	return p
}

// BenchmarkPermute counts bytes read and written.
func BenchmarkPermute(b *testing.B) {
	for _, c := range []struct {
		dims []int
		perm []int8
	}{
		{[]int{4096, 4096}, []int8{1, 0}},
		{[]int{2048, 256}, []int8{1, 0}},
		{[]int{32, 512, 1000}, []int8{0, 2, 1}},
		{[]int{8, 256, 4, 64}, []int8{0, 2, 1, 3}},
		{[]int{64, 32, 32, 64}, []int8{0, 3, 1, 2}},
	} {
		for _, d := range []tensor.DType{tensor.F32, tensor.BF16} {
			for _, threads := range []int{1, 2} {
				b.Run(fmt.Sprintf("%v/%v/%v/threads=%d", d, c.dims, c.perm, threads), func(b *testing.B) {
					op := ops.Permute{Rank: int8(len(c.perm))}
					copy(op.Perm[:], c.perm)
					in := tensor.T(d, c.dims...)
					out, err := op.Infer([]tensor.Type{in})
					require.NoError(b, err)
					benchLaunch(b, threads, device.Spec{Op: op, In: []tensor.Type{in}, Out: out}, 2*in.Bytes())
				})
			}
		}
	}
}
