package trainer_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestSide: runs whose gradients are computed beside the main lane have the bits of those on one: with packed rows, padded ones of several lengths,
// micro-batches, recomputed blocks and activations in host memory.
func TestSide(t *testing.T) {
	plain := adapt(t, model(t, shape{32, 96, 512, 3, 64}))
	plain.Train.Batch, plain.Train.MicroBatch = 8, 8
	parts := plain
	parts.Train.MicroBatch = 4
	padded := parts
	padded.Data.Pack = false
	kept := plain
	kept.Train.Checkpointing, kept.Train.Offload = "on", "inputs"
	for i, tc := range []struct {
		name string
		c    config.Config
	}{{"packed", plain}, {"micro-batches", parts}, {"padded", padded}, {"offloaded", kept}} {
		t.Run(tc.name, func(t *testing.T) {
			c := tc.c
			c.Train.Side, c.Out = "off", filepath.Join(t.TempDir(), "whole")
			dev := beside(0)
			want := run(t, c, trainer.Hooks{Device: dev})
			before := dev.Beside
			for order := range uint64(2) {
				c.Train.Side, c.Out = "all", filepath.Join(t.TempDir(), "beside")
				dev := beside(order + uint64(2*i))
				require.Equal(t, want.WeightsDigest, run(t, c, trainer.Hooks{Device: dev}).WeightsDigest)
				require.Greater(t, dev.Beside, before)
				require.Zero(t, dev.Allocated())
			}
		})
	}
	plain.Train.Side = "left"
	require.ErrorContains(t, plain.Validate(), "train.side")
}
