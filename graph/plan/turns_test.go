package plan_test

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest/queued"
)

// TestTurns: goroutines train on one device at once, each with a session of its own.
func TestTurns(t *testing.T) {
	t.Run("queued", func(t *testing.T) {
		devicetest.RunTurns(t, queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 24}))
	})
	t.Run("cpu", func(t *testing.T) { devicetest.RunTurns(t, cpu.New(cpu.Options{Threads: 3})) })
}

// TestSharedTurns: goroutines run plans of one session at once.
func TestSharedTurns(t *testing.T) {
	t.Run("queued", func(t *testing.T) {
		devicetest.RunShared(t, queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 24}))
	})
	t.Run("cpu", func(t *testing.T) { devicetest.RunShared(t, cpu.New(cpu.Options{Threads: 3})) })
}

// TestOnePlanTurns: goroutines run one plan at once.
func TestOnePlanTurns(t *testing.T) {
	t.Run("queued", func(t *testing.T) {
		devicetest.RunOnePlan(t, queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 24}))
	})
	t.Run("cpu", func(t *testing.T) { devicetest.RunOnePlan(t, cpu.New(cpu.Options{Threads: 3})) })
}
