package trainer

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// wrong is a device that does without something.
type wrong struct{ device.Device }

func (wrong) Check() []device.Problem { return nil }
func (wrong) Problems() []device.Problem {
	return []device.Problem{{What: "sums are wrong", Remedy: "use a pencil"}}
}

// TestProblemsAreLogged: a run tells what its device found wrong with itself.
func TestProblemsAreLogged(t *testing.T) {
	var b bytes.Buffer
	j := &job{log: slog.New(slog.NewTextHandler(&b, nil))}
	j.warnOf(wrong{})
	require.Contains(t, b.String(), `level=WARN msg="sums are wrong" remedy="use a pencil"`)
}
