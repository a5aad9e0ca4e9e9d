package ops_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// TestFloat32Loops: each float32 loop against its float64 function over the whole range, in units in the last place.
func TestFloat32Loops(t *testing.T) {
	for _, f := range []ops.Func{ops.FnExpm1, ops.FnSoftplus, ops.FnExp, ops.FnSigmoid} {
		r, worst, at := ops.Table[f], 0.0, float32(0)
		for bits := uint32(0); bits < 0xff800000; bits += 9973 {
			x := math.Float32frombits(bits)
			if x != x || x < -80 || x > 88 { // below, results are denormal and flushed
				continue
			}
			dst := []float32{0}
			r.F32(dst, []float32{x}, nil, nil)
			want := r.F64(float64(x), 0, 0)
			ulp := float64(math.Nextafter32(float32(math.Abs(want)), math.MaxFloat32)) - float64(float32(math.Abs(want)))
			if e := math.Abs(float64(dst[0])-want) / ulp; e > worst {
				worst, at = e, x
			}
		}
		t.Logf("%s: %.2f units in the last place, at %v", r.Name, worst, at)
		require.LessOrEqual(t, worst, 8.0, "%s(%v)", r.Name, at)
	}
}
