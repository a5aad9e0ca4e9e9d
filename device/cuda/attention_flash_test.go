package cuda

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestAttentionTiles: every tile that some device needs gives the same, on documents of odd lengths.
func TestAttentionTiles(t *testing.T) {
	d := testDevice(t)
	c := attnCase{name: "tiles", dtype: tensor.BF16, b: 1, tq: 75, tk: 75, hq: 2, hkv: 1, d: 32, op: ops.Attention{Scale: 0.2, Causal: true},
		doc: starts(1, 75, 40, 9)}
	want := c.reference(t)
	for i := range max(len(attnTilesForward), len(attnTilesDQ), len(attnTilesDKV)) {
		f, q, k := attnTilesForward[min(i, len(attnTilesForward)-1)], attnTilesDQ[min(i, len(attnTilesDQ)-1)], attnTilesDKV[min(i, len(attnTilesDKV)-1)]
		t.Run(fmt.Sprint(f, q, k), func(t *testing.T) {
			if onEmulator() && i != 0 && i != len(attnTilesDKV)-1 {
				t.Skip("on a GPU only: the first and the last tile stand for those between")
			}
			c.compute(t, d, attnChoice{
				forward:  func(a *attention) (attnRun, error) { return a.flashTiled(f) },
				backward: func(a *attention) (attnRun, error) { return a.flashGradTiled(q, k) },
			}).near(t, want, attnLimits[c.dtype])
		})
	}
}

// TestAttentionSimtTiles: likewise for the tiles in float32, which the size of shared memory chooses.
func TestAttentionSimtTiles(t *testing.T) {
	d := testDevice(t)
	was := d.shared
	defer func() { d.shared = was }()
	c := attnCase{dtype: tensor.F32, b: 1, tq: 75, tk: 75, hq: 2, hkv: 1, d: 32, op: ops.Attention{Scale: 0.2, Causal: true}, doc: starts(1, 75, 40, 9)}
	want := c.reference(t)
	for _, kib := range []int{40, 44, 66} {
		d.shared = kib << 10
		c.compute(t, d, ownAttention[2]).near(t, want, attnLimits[c.dtype])
	}
}

// TestAttentionTileFits: there is a tile for every head size in the shared memory of every device: 64 KiB on 7.5, 99 on 8.6, 8.9 and 12,
// 163 on 8.0, 227 on 9.0 and 10.
func TestAttentionTileFits(t *testing.T) {
	for _, kib := range []int{64, 99, 163, 227} {
		for size := 8; size <= attnFlashMax; size += 8 {
			a := &attention{AttentionDims: ops.AttentionDims{D: size}, dev: &Device{shared: kib << 10}}
			forward := attnTilesForward
			if size > 128 {
				forward = attnTilesWide
			}
			_, err := a.tile(forward, attnTile.forwardRows)
			require.NoError(t, err, "%d KiB", kib)
			_, err = a.tile(attnTilesDQ, attnTile.dqRows)
			require.NoError(t, err, "%d KiB", kib)
			_, err = a.tile(attnTilesDKV, attnTile.dkvRows)
			require.NoError(t, err, "%d KiB", kib)
			if size <= simtMax {
				_, err = a.simtTile(func(t simtTile) int { return 2 * (t.rows + t.columns) })
				require.NoError(t, err, "%d KiB", kib)
			}
		}
	}
	a := &attention{AttentionDims: ops.AttentionDims{D: 256}, dev: &Device{shared: 16 << 10}}
	_, err := a.tile(attnTilesWide, attnTile.forwardRows)
	require.ErrorContains(t, err, "shared memory")
}
