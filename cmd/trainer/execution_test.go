package main

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest/queued"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// queues is a backend of devices with queues, which are the processor's in the end. It has one only while a test runs, or the other tests
// would take it for a GPU.
type queues struct{}

var (
	opened         []*queued.Device                                                    // by the test that runs; nil while none does
	registerQueues = sync.OnceValue(func() error { return device.Register(queues{}) }) // a test may run twice in one process
)

func (queues) Name() string { return "opencl" }

func (queues) Count() int {
	if opened == nil {
		return 0
	}
	return 1
}

func (queues) Open(int) (device.Device, error) {
	d := queued.New(cpu.New(cpu.Options{Threads: 2}), queued.Options{Total: 1 << 30})
	opened = append(opened, d)
	return d, nil
}

// TestExecution: every command that computes takes --launch and --deterministic, by the names that runs give them too, and what its plans do
// follows.
func TestExecution(t *testing.T) {
	require.NoError(t, registerQueues())
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		return path
	}
	model := filepath.Join(dir, "model")
	code, _, msg := command(t, "quantize", "builtin:tiny", model, "--scheme", "nf4")
	require.Zero(t, code, msg)
	text := write("text.txt", "The fox ran to the hill. The owl saw the fox. The hen sat on the wall and saw the owl.")
	commands := map[string][]string{
		"generate": {"--model", model, "--prompt", "Story:", "--max-tokens", "6", "--ignore-end"},
		"eval":     {"--model", model, "--text", text, "--context", "8"},
		"verify":   {"--model", model, "--against", reference(t, dir), "--tol", "1e9"},
		"quantize": {"builtin:tiny", filepath.Join(dir, "again"), "--scheme", "nf4", "--data", text, "--calibrate", text, "--method", "awq"},
		"bench":    {"--shape", "tiny", "--seq", "64", "--batch", "1", "--steps", "3", "--warmup", "1", "--profile", "-1"},
		"finetune": {"--train.steps=3", "--eval.every=0", "--data.val=0", "--eval.samples=0", "--out", filepath.Join(dir, "run")},
	}
	for name, args := range commands {
		for _, flag := range []string{"--launch", "--train.launch"} {
			if flag == "--train.launch" && name != "generate" {
				continue // all of them have it from one place
			}
			t.Run(name+flag, func(t *testing.T) {
				opened = []*queued.Device{}
				defer func() {
					opened = nil
					_ = os.RemoveAll(filepath.Join(dir, "run"))
					_ = os.RemoveAll(filepath.Join(dir, "again"))
				}()
				code, out, msg := command(t, append([]string{name, "--device", "opencl", "--deterministic", flag, "synced"}, args...)...)
				require.Zero(t, code, out+msg)
				require.NotEmpty(t, opened)
				for _, d := range opened {
					require.Zero(t, d.Captures)
					require.Positive(t, d.Launches)
					require.GreaterOrEqual(t, d.Waits, d.Launches)
					require.Equal(t, device.Arithmetic{Deterministic: true}, d.Choice())
				}
			})
		}
	}
	opened = []*queued.Device{}
	defer func() { opened = nil }()
	code, _, msg = command(t, append([]string{"generate"}, commands["generate"]...)...)
	require.Zero(t, code, msg)
	require.Positive(t, opened[0].Captures, "without being asked, the second run of a plan is recorded")
	require.Equal(t, device.Arithmetic{}, opened[0].Choice())
	commands["quantize"] = []string{"builtin:tiny", filepath.Join(dir, "again"), "--scheme", "nf4"} // which opens no device
	for name, args := range commands {
		code, _, msg = command(t, append([]string{name, "--launch", "eager"}, args...)...)
		require.Equal(t, 2, code, name)
		require.Contains(t, msg, "captured, plain, synced", name)
	}
}

// reference writes a loss that is wrong: whether it is near is no matter here.
func reference(t *testing.T, dir string) string {
	t.Helper()
	ids, err := tensor.Of([]int32{1, 2, 3, 4}, 1, 4)
	require.NoError(t, err)
	loss, err := tensor.Of([]float32{0}, 1)
	require.NoError(t, err)
	path := filepath.Join(dir, "reference.safetensors")
	require.NoError(t, checkpoint.WriteSafetensors(vfs.OS{}, path, []checkpoint.Named{{Name: "input_ids", Tensor: ids}, {Name: "labels", Tensor: ids}, {Name: "loss", Tensor: loss}}, nil))
	return path
}
