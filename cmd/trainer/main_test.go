package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// command runs the program inside the test.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(context.Background(), args, &out, &err)
	return code, out.String(), err.String()
}

func stories(t *testing.T) string {
	dir := filepath.Join(golden.Dir(t), "models", "stories260K")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no stories260K in the reference data: %v", err)
	}
	return dir
}

// TestGoldenStories generates the text that llama2.c gives, with and without the key/value cache.
func TestGoldenStories(t *testing.T) {
	dir := stories(t)
	want, err := os.ReadFile(filepath.Join(dir, "expected_greedy_200.txt"))
	require.NoError(t, err)
	for _, cache := range []string{"--cache=true", "--cache=false"} {
		code, out, msg := command(t, "generate", "--model", dir, "--max-tokens", "200", "--temperature", "0", cache)
		require.Zero(t, code, msg)
		require.Equal(t, string(want), out, cache)
	}
}

// corpusFile writes part of a reference text.
func corpusFile(t *testing.T, bytes int64) string {
	f, err := os.Open(filepath.Join(golden.Dir(t), "text", "tinyshakespeare.txt.gz"))
	if err != nil {
		t.Skipf("no text in the reference data: %v", err)
	}
	defer f.Close() //nolint:errcheck // read only
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	text, err := io.ReadAll(io.LimitReader(z, bytes))
	require.NoError(t, err)
	name := filepath.Join(t.TempDir(), "text.txt")
	require.NoError(t, os.WriteFile(name, text, 0o666))
	return name
}

// mode is a way to train stories260K.
type mode struct {
	name string
	args []string
}

var modes = []mode{
	{"full", []string{"--adapter.type=none", "--train.optimizer=adamw", "--train.lr=1e-3"}},
	{"lora", []string{"--quantize.scheme=none", "--adapter.r=4", "--adapter.dropout=0.1", "--train.optimizer=adamw", "--train.lr=5e-3"}},
	{"qlora", []string{"--quantize.scheme=nf4", "--adapter.r=8", "--train.optimizer=adamw8bit", "--train.min_8bit_size=0", "--train.lr=5e-3"}},
}

func trainArgs(t *testing.T, m mode, text, out string, accumulate int, pack bool) []string {
	args := []string{"finetune", "--model", stories(t), "--data.path", text, "--data.format=text", "--data.seq_len=64", "--data.val=0.1",
		"--train.steps=10", "--train.batch=4", fmt.Sprintf("--train.micro_batch=%d", 4/accumulate), fmt.Sprintf("--data.pack=%v", pack),
		"--save.every=2", "--save.keep=2", "--device=cpu", "--out", out}
	return append(args, m.args...)
}

// TestGoldenStoriesLearn fine-tunes in every mode: the held-out loss falls.
func TestGoldenStoriesLearn(t *testing.T) {
	text := corpusFile(t, 60_000)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "run")
			args := append(trainArgs(t, m, text, out, 1, true), "--train.steps=40", "--eval.every=5", "--train.warmup=2")
			code, stdout, msg := command(t, args...)
			require.Zero(t, code, msg)
			rows, err := report.ReadMetricsFile(filepath.Join(out, "metrics.jsonl"))
			require.NoError(t, err)
			require.Len(t, rows, 40)
			first, last := *rows[4].EvalLoss, *rows[39].EvalLoss
			t.Logf("held-out loss %.4f -> %.4f", first, last)
			require.Less(t, last, first-0.05)
			if m.name == "qlora" {
				require.NotContains(t, stdout, " 0 tensors had 8-bit optimizer state")
				require.Contains(t, stdout, "tensors had 8-bit optimizer state")
			}
		})
	}
}

// built is the folder of the program, where a test asked for it.
var built string

// binary builds the program once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "trainer-test-")
	if err != nil {
		return "", err
	}
	built = dir
	name := filepath.Join(dir, "trainer")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", name, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return name, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built) // a leftover in the temporary folder harms nobody
	}
	os.Exit(code)
}

func digest(t *testing.T, out string) string {
	m, err := report.ReadManifest(filepath.Join(out, "manifest.json"))
	require.NoError(t, err)
	require.NotEmpty(t, m.WeightsDigest)
	return m.WeightsDigest
}

// TestGoldenKillResume kills runs with SIGKILL at random instants and resumes them until they finish: the weights are those of
// the undisturbed run, bit for bit.
func TestGoldenKillResume(t *testing.T) {
	text := corpusFile(t, 20_000)
	exe, err := binary()
	require.NoError(t, err)
	kills := 0
	for _, m := range modes {
		for _, accumulate := range []int{1, 4} {
			for _, pack := range []bool{true, false} {
				name := fmt.Sprintf("%s/accumulate%d/pack=%v", m.name, accumulate, pack)
				t.Run(name, func(t *testing.T) {
					kills += killResume(t, exe, m, text, accumulate, pack)
				})
			}
		}
	}
	t.Logf("%d kills", kills)
}

func killResume(t *testing.T, exe string, m mode, text string, accumulate int, pack bool) (kills int) {
	calm := filepath.Join(t.TempDir(), "calm")
	began := time.Now()
	out, err := exec.Command(exe, trainArgs(t, m, text, calm, accumulate, pack)...).CombinedOutput()
	require.NoError(t, err, string(out))
	whole := time.Since(began)
	want := digest(t, calm)
	dir := filepath.Join(t.TempDir(), "killed")
	args := append(trainArgs(t, m, text, dir, accumulate, pack), "--resume")
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for try := range 30 {
		cmd := exec.Command(exe, args...)
		var msg bytes.Buffer
		cmd.Stderr = &msg
		require.NoError(t, cmd.Start())
		if try < 3 { // later tries run to the end
			time.AfterFunc(time.Duration(rng.Float64()*float64(whole)), func() { _ = cmd.Process.Kill() })
		}
		err := cmd.Wait()
		if err == nil {
			break
		}
		var exit *exec.ExitError
		require.True(t, errors.As(err, &exit))
		require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), msg.String())
		kills++
	}
	require.Equal(t, want, digest(t, dir))
	rows, err := report.ReadMetricsFile(filepath.Join(dir, "metrics.jsonl"))
	require.NoError(t, err)
	require.Len(t, rows, 10, "rows after the checkpoint are cut on resume")
	again, err := exec.Command(exe, args...).CombinedOutput()
	require.NoError(t, err, "resuming a finished run: %s", again)
	return kills
}

// TestExitCodes tries the wrong things a user does.
func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		return path
	}
	bad := write("bad.jsonl", `{"prompt": "a", "completion": "b"}`+"\nnot json\n")
	yaml := write("run.yaml", "adapter: {rank: 8}\n")
	used := filepath.Join(dir, "used")
	require.NoError(t, os.MkdirAll(used, 0o777))
	write("used/metrics.jsonl", "")
	cases := []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"unknown command", []string{"finetun"}, 2, []string{"finetun"}},
		{"unknown flag", []string{"generate", "--modle", "x"}, 2, []string{"unknown flag: --modle; did you mean --model?"}},
		{"two adapters", []string{"merge", "--model", "m", "--adapter", "a", "--adapter", "b", "--out", "o"}, 2, []string{`"b" for "--adapter"`, "merge the other into the result"}},
		{"text without its flag", []string{"generate", "--model", "builtin:tiny", "hello", "you"}, 2, []string{`"hello you" is not expected (a text is given by --prompt, in quotes); usage: trainer generate --model PATH`}},
		{"no argument", []string{"inspect"}, 2, []string{"arguments needed besides flags: 1, given: 0; usage: trainer inspect FILE|DIR"}},
		{"rows as settings", []string{"finetune", bad}, 2, []string{"bad.jsonl: holds rows by its name and no settings; name it by --data.path"}},
		{"folder as settings", []string{"finetune", dir}, 2, []string{"is a folder and no file of settings; a model is named by --model"}},
		{"unlike any flag", []string{"generate", "--zzzzzz"}, 2, []string{"trainer generate --help"}},
		{"unknown key", []string{"finetune", "--train.lrr=1"}, 2, []string{"train.lrr", "train.lr"}},
		{"unknown YAML key", []string{"finetune", yaml}, 2, []string{"run.yaml:1", "rank"}},
		{"no such model", []string{"finetune", "--model", filepath.Join(dir, "none"), "--data.path", bad, "--out", filepath.Join(dir, "o0")}, 3, []string{"none"}},
		{"bad data", []string{"finetune", "--data.path", bad, "--out", filepath.Join(dir, "o1")}, 3, []string{"bad.jsonl:2"}},
		{"does not fit", []string{"finetune", "--memory", "1MiB", "--out", filepath.Join(dir, "o2")}, 4, []string{"needs", "budget"}},
		{"out in use", []string{"finetune", "--out", used}, 2, []string{"holds a run", "--resume"}},
		{"format to come", []string{"finetune", "--data.format=bin", "--out", filepath.Join(dir, "o3")}, 2, []string{"bin", "prompt_completion"}},
		{"no data", []string{"finetune", "--model=builtin:tiny", "--data.path=rows.jsonl", "--out", filepath.Join(dir, "o4")}, 2, []string{"--data.path"}},
		{"one-letter flag", []string{"finetune", "-x"}, 2, []string{"x"}},
		{"no such file", []string{"inspect", filepath.Join(dir, "none")}, 3, []string{"none"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			code, _, msg := command(t, c.args...)
			require.Equal(t, c.code, code, msg)
			for _, s := range c.says {
				require.Contains(t, msg, s)
			}
		})
	}
}

// TestBuiltinJob runs the README's job, shortened: it must write everything it promises.
func TestBuiltinJob(t *testing.T) {
	out := filepath.Join(t.TempDir(), "run")
	code, stdout, msg := command(t, "finetune", "--train.steps=3", "--out", out)
	require.Zero(t, code, msg)
	for _, name := range []string{"config.yaml", "metrics.jsonl", "loss.png", "manifest.json", "tensorboard", "adapter/adapter_config.json",
		"adapter/adapter_model.safetensors"} {
		_, err := os.Stat(filepath.Join(out, filepath.FromSlash(name)))
		require.NoError(t, err)
	}
	require.Contains(t, stdout, "exact match")
	require.NotContains(t, stdout, " 0 tensors had 8-bit")
	raw, err := os.ReadFile(filepath.Join(out, "manifest.json"))
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(raw, &m))
	require.Contains(t, m, "exact_match_before")
	require.LessOrEqual(t, m["exact_match_before"], 0.05)
	code, text, msg := command(t, "generate", "--model", "builtin:tiny", "--adapter", filepath.Join(out, "adapter"), "--prompt", "Story:", "--max-tokens", "8")
	require.Zero(t, code, msg)
	require.NotEmpty(t, strings.TrimSpace(text))
}

// TestHelp: every command says more than its name, and every flag what it does.
func TestHelp(t *testing.T) {
	p := &program{in: strings.NewReader(""), out: io.Discard, err: io.Discard}
	for _, c := range p.root().Commands() {
		require.NotEmpty(t, c.Short, c.Name())
		require.Greater(t, len(c.Long), len(c.Short), c.Name())
		c.Flags().VisitAll(func(f *pflag.Flag) { require.NotEmpty(t, f.Usage, "%s --%s", c.Name(), f.Name) })
		code, out, _ := command(t, c.Name(), "--help")
		require.Zero(t, code)
		require.Contains(t, out, c.Long)
	}
	_, out, _ := command(t, "--help")
	for _, code := range []int{config.ExitConfig, config.ExitInput, config.ExitMemory, config.ExitNonFinite, config.ExitDisk, config.ExitDistributed, config.ExitStopped} {
		require.Contains(t, out, fmt.Sprintf("%d ", code))
	}
}
