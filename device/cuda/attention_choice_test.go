package cuda

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestTypicalDocuments: a trial's documents keep the bounds, where some do, and are as many as are expected or less.
func TestTypicalDocuments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, tokens := rapid.IntRange(1, 4).Draw(t, "rows"), rapid.IntRange(1, 300).Draw(t, "tokens")
		longest := rapid.IntRange(1, tokens).Draw(t, "longest")
		least := rows * ((tokens + longest - 1) / longest)
		slots := rapid.IntRange(least, 2*least+8).Draw(t, "expected") * 5 / 4
		start := typicalDocuments(rows, tokens, slots, longest)
		require.Len(t, start, rows*tokens)
		count := 0
		for i, at := range start {
			n := i % tokens
			if int(at) == n {
				count++
			} else {
				require.Equal(t, start[i-1], at, "token %d", i)
			}
			require.Less(t, n-int(at), longest, "token %d", i)
		}
		require.LessOrEqual(t, count, slots)
	})
}

// TestAttentionTrial: where the library and own kernels are timed, they have documents, with a list of them.
func TestAttentionTrial(t *testing.T) {
	d := testDevice(t)
	t.Setenv("BYES_CACHE", t.TempDir())
	d.ways.cache, d.ways.chosen = nil, nil
	t.Cleanup(func() { d.ways.cache, d.ways.chosen = nil, nil })
	op := ops.Attention{Scale: 0.1, Causal: true, Longest: 128}
	q, k, lse, doc := tensor.T(tensor.BF16, 2, 256, 2, 64), tensor.T(tensor.BF16, 2, 256, 1, 64), tensor.T(tensor.F32, 2, 2, 256), tensor.T(tensor.I32, 2, 256)
	lengths, offsets := tensor.T(tensor.I32, 7), tensor.T(tensor.I64, 3, 8)
	s := device.Spec{Op: ops.AttentionGrad(op), In: []tensor.Type{q, k, k, q, lse, q, doc, {}, {}, {}, lengths, offsets}, Out: []tensor.Type{q, k, k}}
	a, err := newAttention(d, op, s)
	require.NoError(t, err)
	a.listed(lengths)
	place, free, err := attnBackward.trialDocuments(a, s)
	require.NoError(t, err)
	b, err := d.Alloc(doc.Bytes() + 256)
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Free()) }()
	at, err := d.address(device.Ptr{Buf: b}, doc.Bytes()+256)
	require.NoError(t, err)
	run, err := a.groupBackward()
	require.NoError(t, err)
	watched := func() (*Kernel, error) {
		k := attnBackward.kernel(a, run)
		inner := k.Enqueue
		k.Label, k.Enqueue = "watched", func(c *Call) error {
			if err := d.api.CopyAny(driver.Addr(at), driver.Addr(c.In[6]), doc.Bytes(), c.Stream.handle); err != nil {
				return err
			}
			if err := d.api.CopyAny(driver.Addr(at)+driver.Addr(doc.Bytes()), driver.Addr(c.In[10]), lengths.Bytes(), c.Stream.handle); err != nil {
				return err
			}
			return inner(c)
		}
		return k, nil
	}
	best, err := d.pickBy("a trial", s, []way{{"one", watched}, {"other", watched}}, place)
	require.NoError(t, err)
	require.Equal(t, "watched", best.Label)
	require.NoError(t, free())
	got := make([]byte, doc.Bytes()+256)
	require.NoError(t, d.Stream(0).Download(got, device.Ptr{Buf: b}))
	require.Equal(t, typicalDocuments(2, 256, 6, 128), tensor.View[int32](got[:doc.Bytes()]))
	require.Equal(t, []int32{128, 128, 128, 128, 0, 0, 0}, tensor.View[int32](got[doc.Bytes():doc.Bytes()+lengths.Bytes()]))
}
