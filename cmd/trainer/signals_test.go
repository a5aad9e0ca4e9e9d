package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// startRun starts a training of the built-in model that is longer than any test, and waits for its first steps.
func startRun(t *testing.T, stderr io.Writer, wrap ...string) (cmd *exec.Cmd, dir string) {
	exe, err := binary()
	require.NoError(t, err)
	dir = filepath.Join(t.TempDir(), "run")
	args := append(wrap, exe, "finetune", "--train.steps=100000", "--train.batch=2", "--train.micro_batch=1", "--data.seq_len=32", "--data.val=0", "--save.every=0", "--device=cpu", "--out", dir)
	cmd = exec.Command(args[0], args[1:]...)
	cmd.Stderr = stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // if it still runs, the test has failed
	awaitSteps(t, dir, 2)
	return cmd, dir
}

func metricsRows(dir string) int {
	rows, err := report.ReadMetricsFile(filepath.Join(dir, "metrics.jsonl"))
	if err != nil {
		return 0
	}
	return len(rows)
}

func awaitSteps(t *testing.T, dir string, steps int) {
	require.Eventually(t, func() bool { return metricsRows(dir) > steps }, 2*time.Minute, 10*time.Millisecond)
}

func requireStopped(t *testing.T, cmd *exec.Cmd, dir string) {
	var exit *exec.ExitError
	err := cmd.Wait()
	require.True(t, errors.As(err, &exit), "%v", err)
	require.Equal(t, config.ExitStopped, exit.ExitCode(), exit.String())
	steps, err := filepath.Glob(filepath.Join(dir, "checkpoints", "step-*"))
	require.NoError(t, err)
	require.Len(t, steps, 1)
}

// TestStop sends the signals that end a program: a durable checkpoint is written, and the exit code says so. A terminal that closes
// sends SIGHUP more than once.
func TestStop(t *testing.T) {
	for name, signals := range map[string][]os.Signal{
		"term": {syscall.SIGTERM}, "interrupt": {os.Interrupt}, "hangup": {syscall.SIGHUP, syscall.SIGHUP, syscall.SIGHUP},
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan os.Signal, len(signals)) // what a program waits for is not ignored by what it starts, as it is where the tests run under nohup
			signal.Notify(heard, syscall.SIGHUP)
			defer signal.Stop(heard)
			cmd, dir := startRun(t, nil)
			for _, s := range signals {
				require.NoError(t, cmd.Process.Signal(s))
				time.Sleep(time.Millisecond)
			}
			requireStopped(t, cmd, dir)
		})
	}
}

// TestOthersSignals: the first signal ends what waits for it, and others that wait for signals get the next ones too: each Ctrl-C of a chat ends
// one answer.
func TestOthersSignals(t *testing.T) {
	others := make(chan os.Signal, 4)
	signal.Notify(others, os.Interrupt)
	defer signal.Stop(others)
	self, err := os.FindProcess(os.Getpid())
	require.NoError(t, err)
	ctx := untilSignal(t.Context())
	for range 3 {
		require.NoError(t, self.Signal(os.Interrupt)) // where nobody waits for it, it ends the tests
		require.Equal(t, os.Interrupt, <-others)
		<-ctx.Done()
	}
}

// TestLostReader: a run whose progress nobody reads any more goes on, and a signal still ends it with a checkpoint.
func TestLostReader(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd, dir := startRun(t, w)
	require.NoError(t, errors.Join(w.Close(), r.Close()))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM)) // the line that says so meets the closed pipe
	requireStopped(t, cmd, dir)
}

// TestLostReaderOfAnError: the line about an error meets the closed pipe, and the exit code is that of the error.
func TestLostReaderOfAnError(t *testing.T) {
	exe, err := binary()
	require.NoError(t, err)
	for want, args := range map[int][]string{
		config.ExitInput:  {"--model", t.TempDir()},
		config.ExitMemory: {"--memory=64KiB"},
	} {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		require.NoError(t, r.Close())
		cmd := exec.Command(exe, append([]string{"finetune", "--device=cpu", "--out", filepath.Join(t.TempDir(), "run")}, args...)...)
		cmd.Stderr = w
		err = cmd.Run()
		require.NoError(t, w.Close())
		require.Equal(t, want, cmd.ProcessState.ExitCode(), "%v", err)
	}
}

// TestNohup: a run that was started to outlive its terminal does.
func TestNohup(t *testing.T) {
	nohup, err := exec.LookPath("nohup")
	if err != nil {
		t.Skipf("no nohup: %v", err)
	}
	cmd, dir := startRun(t, nil, nohup)
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	awaitSteps(t, dir, metricsRows(dir)+3)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	requireStopped(t, cmd, dir)
}
