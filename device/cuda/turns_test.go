package cuda

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/device/devicetest"
)

// TestTurns: sessions of several goroutines on one device, and plans of one session.
func TestTurns(t *testing.T) {
	d := testDevice(t)
	t.Run("sessions", func(t *testing.T) { devicetest.RunTurns(t, d) })
	t.Run("plans", func(t *testing.T) { devicetest.RunShared(t, d) })
	t.Run("one plan", func(t *testing.T) { devicetest.RunOnePlan(t, d) })
}
