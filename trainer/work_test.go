package trainer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// TestTellWork: what a first start waits for is logged when it changes, and nothing once it is done.
func TestTellWork(t *testing.T) {
	require.Empty(t, workText([]device.Spent{{What: "opened"}, {What: "programs", Count: 3, Of: 3}, {What: "ways", Count: 2}}))
	list := []device.Spent{{What: "opened"}, {What: "programs", Count: 3, Of: 5}, {What: "plans", Count: 2, Of: 2}}
	require.Equal(t, "programs: 3 of 5, plans: 2 of 2", workText(list))
	var out written
	log := slog.New(slog.NewTextHandler(&out, nil))
	end := tellWork(context.Background(), &spender{list: list}, log, time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "programs: 3 of 5") }, time.Minute, time.Millisecond)
	end()
	end()
	require.Equal(t, 1, strings.Count(out.String(), "\n"), "the same is not told twice")
	tellWork(context.Background(), struct{ device.Device }{}, log, time.Millisecond)()
	require.Contains(t, out.String(), "what it finds out is kept")

	end = tellWork(context.Background(), &forgetful{spender{list: list}}, log, time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "level=WARN") }, time.Minute, time.Millisecond)
	end()
	require.Contains(t, out.String(), "each start on this device takes longer")
	require.Contains(t, out.String(), "the folder is read only")
	require.Equal(t, 2, strings.Count(out.String(), "\n"))
}

// forgetful is a device that can keep nothing.
type forgetful struct{ spender }

func (*forgetful) Unkept() error { return errors.New("the folder is read only") }

// written is a buffer for several goroutines.
type written struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}
