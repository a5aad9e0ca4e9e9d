package cuda

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BenchmarkUpdate8bit times AdamW and Lion with 8-bit moments on 2e8 parameters. It needs a GPU:
//
//	cuda.test -test.run NONE -test.bench Update8bit -test.benchtime 1x
func BenchmarkUpdate8bit(b *testing.B) {
	if onEmulator() {
		b.Skip("times of the emulator say nothing")
	}
	adam := ops.Hyper{Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01}
	lion := ops.Hyper{Rule: ops.Lion, Beta1: 0.9, Beta2: 0.99, WeightDecay: 0.01}
	for _, dt := range []tensor.DType{tensor.BF16, tensor.F32} {
		for i, h := range []ops.Hyper{adam, lion} {
			benchUpdate(b, fmt.Sprintf("%s/%v", []string{"adam", "lion"}[i], dt), h, dt)
		}
	}
}

func benchUpdate(b *testing.B, name string, h ops.Hyper, dt tensor.DType) {
	b.Run(name, func(b *testing.B) {
		d := testDevice(b)
		const n = 200_000_000 / 256 * 256
		l := ops.NewLayout(n)
		l.DType = dt
		u := &updater{Hyper: h, eight: true, moments: len(h.Moments()), hyper: hyperOf(h)}
		p, err := u.program(dt, dt)
		require.NoError(b, err)
		f, err := d.Function(p, "optimizer_step")
		require.NoError(b, err)
		table, err := d.slabTable(l, h.WeightDecay)
		require.NoError(b, err)
		size := int64(dt.Size())
		params, grads, few := space(b, d, 1, size*n)[0], space(b, d, 1, size*n)[0], space(b, d, 4, 4)
		s := updateSlab{P: params, G: grads, LR: few[0], Step: few[1], GScale: few[2], OK: few[3], Slots: table.slots, Chunks: table.list, Count: int64(table.chunks)}
		for k := range u.moments {
			s.State[k], s.Absmax[k] = space(b, d, 1, n)[0], space(b, d, 1, n/64)[0]
		}
		fill, err := d.Function(Program{Define: []string{"T " + cType(dt)}, Text: `KERNEL bench_fill(T *p, T *g, float *lr, float *step, float *scale, float *ok, i64 n) {
  for (i64 i = global_thread(); i < n; i += global_threads()) {
    u32 h = (u32)i * 2654435761u, sum = 0;
    for (int k = 0; k < 4; k++) h = (h ^ h >> 15) * 2246822519u, sum += h >> 16;  // nearly normal
    p[i] = narrow<T>(((float)sum - 131072.0f) / 1e6f), g[i] = narrow<T>(((float)(sum ^ 0x5555) - 131072.0f) / 1e8f);
  }
  if (global_thread() == 0) *lr = 1e-4f, *step = 10, *scale = 1, *ok = 1;
}`}, "bench_fill")
		require.NoError(b, err)
		c := &Call{Dev: d, Stream: d.Stream(0).(*Stream)}
		grid := 0
		require.NoError(b, d.enter(func() error {
			grid, err = c.Resident(f, updateThreads, u.shared)
			return err
		}))
		require.NoError(b, d.enter(func() error {
			return c.Launch(fill, Rows(4096, 256), params, grads, few[0], few[1], few[2], few[3], int64(n))
		}))
		graphTime(b, d, float64(n)*float64(3*size+2*int64(u.moments)), 1, func(c *Call, _ int) error {
			return c.Launch(f, Geometry{Grid: [3]int{min(grid, table.chunks)}, Block: [3]int{updateThreads}, Shared: u.shared}, &s, &u.hyper)
		})
	})
}
