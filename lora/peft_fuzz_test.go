package lora

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzConfig feeds configurations to the parser. What it accepts must be written, read again and written the same.
func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		`{"peft_type": "LORA"}`,
		`{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["b", "a"], "rank_pattern": {"x": 2, ".*y": 3}, "new": {"a": [1, "\u00fc"]}}`,
		`{"peft_type": "LORA", "target_modules": ".*\\.q_proj", "use_rslora": true, "lora_dropout": 0.05}`,
		`{"peft_type": "LORA", "use_dora": true}`,
		`{"peft_type": "LORA", "target_modules": [], "target_parameters": ["experts.down_proj", "a.gate.weight"], "rank_pattern": {".*\\.gate_up_proj": 2}}`,
		`{"peft_type": 1}`, `[]`, `null`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseConfig(data)
		if err != nil {
			return
		}
		a := &Adapter{Config: s.Config, saved: s}
		once, err := a.peftConfig(SaveInfo{})
		require.NoError(t, err)
		again, err := parseConfig(once)
		require.NoError(t, err, "%s", once)
		require.Equal(t, s.Config, again.Config)
		b := &Adapter{Config: again.Config, saved: again}
		twice, err := b.peftConfig(SaveInfo{})
		require.NoError(t, err)
		require.True(t, bytes.Equal(once, twice), "%s\n%s", once, twice)
	})
}

func TestPythonFloats(t *testing.T) {
	for _, c := range []struct {
		x    float64
		bits int
		want string
	}{
		{0, 32, "0.0"}, {float64(float32(0.1)), 32, "0.1"}, {0.05, 64, "0.05"}, {1, 64, "1.0"}, {1e-4, 64, "0.0001"}, {1e-5, 64, "1e-05"},
		{1.5e-7, 64, "1.5e-07"}, {1e15, 64, "1000000000000000.0"}, {1e16, 64, "1e+16"}, {2.5, 64, "2.5"},
	} {
		require.Equal(t, c.want, pyFloat(c.x, c.bits))
	}
}
