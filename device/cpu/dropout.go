package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
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
			for f := 0; f < n; f += 4 {
				var w [4]uint32
				w[0], w[1], w[2], w[3] = ids.words(r, f)
				from := x[f:min(f+4, n)]
				to := y[f : f+len(from)]
				for i, v := range from {
					if w[i&3] < threshold {
						v = 0
					} else {
						v *= scale
					}
					to[i] = v
				}
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
			for f := 0; f < n; f += 4 {
				var w [4]uint32
				w[0], w[1], w[2], w[3] = ids.words(r, f)
				copy(out[r*n+f:(r+1)*n], w[:])
			}
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

// words are the random words of features f..f+3 of a token; f is a multiple of 4.
func (t *tokenIDs) words(token, f int) (r0, r1, r2, r3 uint32) {
	return ops.Philox4x32(uint32(f/4), t.pos[token], t.sample[token], t.site, t.seed, t.step)
}
