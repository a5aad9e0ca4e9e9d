package trainer_test

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// TestParam trains weights and adapters stored in bfloat16: files hold them so, a resumed run ends with the same bits whatever the number
// of threads, and the seed of the rounding matters.
func TestParam(t *testing.T) {
	dir := model(t, small)
	for name, base := range map[string]config.Config{"full": pretrain(t), "adapter": adapt(t, dir)} {
		for _, param := range []string{"bf16", "bf16-kahan"} {
			t.Run(name+" "+param, func(t *testing.T) {
				c := base
				c.Train.Param, c.Train.Optimizer, c.Train.Min8bitSize = param, "adamw8bit", 300
				whole := resumes(t, c)
				c = again(t, c)
				require.Equal(t, whole.WeightsDigest, run(t, c, trainer.Hooks{Device: threads(t, 1)}).WeightsDigest, "one thread")
				file := map[string]string{"full": "model/model.safetensors", "adapter": "adapter/adapter_model.safetensors"}[name]
				f, err := checkpoint.OpenSafetensors(vfs.OS{}, filepath.Join(c.Out, file))
				require.NoError(t, err)
				for _, n := range f.Names() {
					typ, _ := f.Type(n)
					require.Equal(t, tensor.BF16, typ.DType, n)
				}
				require.NoError(t, f.Close())
				if name == "adapter" { // what was written can be started from, and merged into what is generated with
					c.Adapter.Init = filepath.Join(c.Out, "adapter")
					run(t, again(t, c), trainer.Hooks{})
				}
			})
		}
	}
}

// TestParamCurve: with a small rate, bfloat16 with either rounding follows the losses of float32.
func TestParamCurve(t *testing.T) {
	losses, bytes := map[string][]float64{}, map[string]int64{}
	for _, param := range []string{"f32", "bf16", "bf16-kahan"} {
		c := pretrain(t)
		c.Train.Param, c.Train.Steps, c.Train.LR, c.Train.EMA = param, 60, 2e-3, 0.9
		c.Save.Every, c.Data.Val, c.Eval.Every = 0, 0.2, 30
		p, err := trainer.Plan(context.Background(), c, trainer.Hooks{})
		require.NoError(t, err)
		bytes[param] = p.TrainBytes
		s := run(t, c, trainer.Hooks{OnStep: func(r report.Row) error { losses[param] = append(losses[param], r.Loss); return nil }})
		require.False(t, math.IsNaN(s.EvalLoss))
	}
	want := losses["f32"]
	for _, param := range []string{"bf16", "bf16-kahan"} {
		got := losses[param]
		t.Logf("last loss: f32 %.4f, %s %.4f", want[59], param, got[59])
		for i := range want {
			require.InEpsilon(t, want[i], got[i], 0.03, "%s, step %d", param, i+1)
		}
	}
	require.Less(t, bytes["bf16"], bytes["bf16-kahan"])
}
