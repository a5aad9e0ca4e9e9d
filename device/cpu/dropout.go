package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildDropout)
	Register(buildPhilox)
}

func buildDropout(d *Device, op ops.DropoutOp, s device.Spec) (*Kernel, error) {
	if s.In[0].DType == tensor.F64 {
		return dropoutKernel[float64](d, op, s), nil
	}
	return dropoutKernel[float32](d, op, s), nil
}

func dropoutKernel[T floats](d *Device, op ops.DropoutOp, s device.Spec) *Kernel {
	dt, tokens := s.In[0].DType, s.In[2].Size()
	n := s.In[0].Size() / max(tokens, 1)
	threshold, scale := op.Threshold(), T(op.Scale())
	return rowKernel(d, dt, tokens, n, 2, func(c *Call, lo, hi int, b buffers[T]) {
		ids := newTokenIDs(c.In[1:], op.Site)
		for r := lo; r < hi; r++ {
			x := readRow(dt, c.In[0], r*n, n, b.row(0))
			y := targetRow(dt, c.Out[0], r*n, n, b.row(1))
			words := tensor.View[uint32](tensor.AsBytes(b.block))[:expBlock]
			for f := 0; f < n; f += expBlock {
				w := words[:min(expBlock, n-f)]
				ids.words(w, r, f)
				dropRow(y[f:f+len(w)], x[f:f+len(w)], w, threshold, scale)
			}
			writeRow(dt, c.Out[0], r*n, y)
		}
	})
}

func buildPhilox(d *Device, op ops.PhiloxOp, s device.Spec) (*Kernel, error) {
	tokens, n := s.In[1].Size(), int(op.N)
	return rowKernel(d, tensor.F32, tokens, n, 0, func(c *Call, lo, hi int, _ buffers[float32]) {
		ids := newTokenIDs(c.In, op.Site)
		out := tensor.View[uint32](c.Out[0])
		for r := lo; r < hi; r++ {
			ids.words(out[r*n:(r+1)*n], r, 0)
		}
	}), nil
}

// tokenIDs are the parts of the random generator's key and counter that do not depend on the feature.
type tokenIDs struct {
	seed, step, site uint32
	sample, pos      []uint32
}

// newTokenIDs reads the inputs key, sample, pos.
func newTokenIDs(in [][]byte, site uint32) tokenIDs {
	key := tensor.View[uint32](in[0])
	return tokenIDs{key[0], key[1], site, tensor.View[uint32](in[1]), tensor.View[uint32](in[2])}
}

// words sets w to the random words of features f, f+1, ... of a token; f is a multiple of 4.
func (t *tokenIDs) words(w []uint32, token, f int) {
	vec.Philox(w, [4]uint32{uint32(f / 4), t.pos[token], t.sample[token], t.site}, [2]uint32{t.seed, t.step})
}

// dropRow is y = x·scale, or 0 where the word is below the threshold.
func dropRow[T floats](y, x []T, words []uint32, threshold uint32, scale T) {
	if y := f32s(y); y != nil {
		vec.Drop(y, f32s(x), words, threshold, float32(scale))
		return
	}
	for i, v := range x {
		if words[i] < threshold {
			v = 0
		} else {
			v *= scale
		}
		y[i] = v
	}
}
