package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOverrides(t *testing.T) {
	c, err := Load("", []string{
		"--model", "m", "--adapter.r=4", "--train.betas", "[0.8,0.9]", "--adapter.targets=[q_proj,v_proj]",
		"--resume", "--out=runs/a", "--deterministic=true", "--data.pack=false", "--memory", "8GB", "--fit", "--template", "t.jinja",
		"--device=cpu", "--data.path=[{path: a, weight: 3},b]", "--train.lr", "1", "--train.lr=2",
	})
	require.NoError(t, err)
	require.Equal(t, 4, c.Adapter.R)
	require.Equal(t, []float64{0.8, 0.9}, c.Train.Betas)
	require.Equal(t, []string{"q_proj", "v_proj"}, c.Adapter.Targets.Names)
	require.True(t, c.Resume && c.Deterministic && c.Train.Fit)
	require.False(t, c.Data.Pack)
	require.Equal(t, "8GB", c.Train.Memory)
	require.Equal(t, "t.jinja", c.Data.Template)
	require.Equal(t, []Source{{"a", 3}, {"b", 1}}, c.Data.Path)
	require.Equal(t, 2.0, c.Train.LR)
}

func TestOverrideTextIsTakenAsItIs(t *testing.T) {
	for _, text := range []string{"true", "12", "null", "a: b", "#x", "  s ", "[x].jsonl", "[", "é"} {
		c, err := Load("", []string{"--out=" + text, "--data.path=" + text})
		require.NoError(t, err, text)
		require.Equal(t, text, c.Out)
		require.Equal(t, text, c.Data.Path[0].Path)
	}
}

func TestOverrideErrors(t *testing.T) {
	cases := []struct {
		args []string
		want string
	}{
		{[]string{"--adapter.rr=4"}, "--adapter.rr: unknown flag; did you mean --adapter.r?"},
		{[]string{"--modle", "m"}, "did you mean --model?"},
		{[]string{"--learning_rate=3"}, "did you mean --train.lr?"},
		{[]string{"--learning-rate=3"}, "did you mean --train.lr?"},
		{[]string{"--memry=3"}, "did you mean --memory?"},
		{[]string{"--adapter=3"}, "is a section: set one of its keys, such as --adapter.type"},
		{[]string{"--train.lr"}, "--train.lr: needs a value"},
		{[]string{"--train.lr", "--resume"}, "--train.lr: needs a value"},
		{[]string{"--resume", "true"}, `unexpected argument "true"`},
		{[]string{"--resume=maybe"}, `--resume: expected true or false, got the text "maybe"; for example --resume=true`},
		{[]string{"--adapter.r=x"}, "for example --adapter.r=16"},
		{[]string{"--train.betas=[1,"}, "expected a list of numbers"},
		{[]string{"--train.betas=[{]"}, "is not a list"},
		{[]string{"--out=\xff"}, "UTF-8"},
		{[]string{"--"}, "unknown flag"},
		{[]string{"--=x"}, "unknown flag"},
		{[]string{"--train.clip=-1"}, "--train.clip: is -1"},
	}
	for _, tc := range cases {
		_, err := Load("", tc.args)
		require.ErrorContains(t, err, tc.want, "%q", tc.args)
		require.Equal(t, ExitConfig, ExitCode(err))
	}
}

func TestSplit(t *testing.T) {
	own := map[string]bool{"print-config": false, "against": true}
	pos, over, flags, err := Split([]string{
		"--resume", "run.yaml", "--train.lr", "-1", "--print-config", "--against", "x", "--fit=false", "--out", "o", "--", "--odd",
	}, own)
	require.NoError(t, err)
	require.Equal(t, []string{"run.yaml", "--odd"}, pos)
	require.Equal(t, []string{"--resume", "--train.lr", "-1", "--fit=false", "--out", "o"}, over)
	require.Equal(t, []string{"--print-config", "--against", "x"}, flags)

	_, _, _, err = Split([]string{"--prnt-config"}, own)
	require.ErrorContains(t, err, "did you mean --print-config?")
	_, _, _, err = Split([]string{"--out"}, own)
	require.ErrorContains(t, err, "needs a value")
}
