package devicetest

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Environment variables that a process of several, or one that has little time, runs the op cases by.
const (
	// PartEnv is "2/16" for the second of sixteen processes that share the op cases.
	PartEnv = "BYES_TEST_PART"
	// SecondsEnv is for how long op cases may begin. Later ones are skipped; chains of elementwise functions come last.
	SecondsEnv = "BYES_TEST_SECONDS"
)

// sample is an op case in one element type.
type sample struct {
	optest.Case
	dtype tensor.DType
}

// samples are those that this process runs, in order, and until when they may begin; zero: at any time.
func samples(t *testing.T) ([]sample, time.Time) {
	var all []sample
	for _, c := range optest.All() {
		for _, d := range c.Types() {
			all = append(all, sample{c, d})
		}
	}
	part, err := partOf(os.Getenv(PartEnv), all)
	require.NoError(t, err)
	seconds := os.Getenv(SecondsEnv)
	if seconds == "" {
		return part, time.Time{}
	}
	s, err := strconv.ParseFloat(seconds, 64)
	require.NoError(t, err, "%s: how many seconds op cases may begin for", SecondsEnv)
	slices.SortStableFunc(part, func(a, b sample) int { return cmp.Compare(a.worth(), b.worth()) })
	return part, time.Now().Add(time.Duration(s * float64(time.Second)))
}

// partOf is every n-th of a list from the k-th on, for "k/n".
func partOf[T any](which string, all []T) ([]T, error) {
	if which == "" {
		return all, nil
	}
	var k, n int
	if got, err := fmt.Sscanf(which, "%d/%d", &k, &n); err != nil || got != 2 || which != fmt.Sprintf("%d/%d", k, n) || k < 1 || k > n {
		return nil, fmt.Errorf("%s is %q: want k/n, the k-th of n parts, as 2/16", PartEnv, which)
	}
	var part []T
	for i := k - 1; i < len(all); i += n {
		part = append(part, all[i])
	}
	return part, nil
}

// worth is lower for what has more to find: kernels whose threads share work, then elementwise ones.
func (s sample) worth() int {
	for _, n := range s.New(s.dtype).Graph.Nodes() {
		if _, ok := n.Op.(ops.Pointwise); !ok && len(n.In) > 0 {
			return 0
		}
	}
	return 1
}
