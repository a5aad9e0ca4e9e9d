package cpu

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildCacheWrite) }

// buildCacheWrite copies (B, T, H, D) into (B, H, Tmax, D) at a position of its own for each row. Nothing is written when a
// position is outside the capacity.
func buildCacheWrite(d *Device, _ ops.CacheWrite, s device.Spec) (*Kernel, error) {
	x, size := s.In[1], s.In[0].Dim(2)
	b, t, h := x.Dim(0), x.Dim(1), x.Dim(2)
	unit := x.Dim(3) * x.DType.Size()
	return &Kernel{Run: func(c *Call) error {
		pos := tensor.View[int32](c.In[2])
		for row, p := range pos {
			if p < 0 || int(p)+t > size {
				return fmt.Errorf("row %d: positions %d to %d do not fit the cache's capacity of %d; make the cache longer or stop earlier",
					row, p, int(p)+t-1, size)
			}
		}
		if len(c.Out[0]) > 0 && &c.Out[0][0] != &c.In[0][0] {
			copy(c.Out[0], c.In[0])
		}
		return d.ranges(b*h, max(shapeGrain/max(t*unit, 1), 1), func(lo, hi int) {
			for i := lo; i < hi; i++ {
				row, head := i/h, i%h
				to := c.Out[0][(i*size+int(pos[row]))*unit:]
				for k := range t {
					at := ((row*t+k)*h + head) * unit
					copy(to[k*unit:(k+1)*unit], c.In[1][at:at+unit])
				}
			}
		})
	}}, nil
}
