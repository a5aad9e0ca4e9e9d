package device

import (
	"context"
	"time"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Timer streams can tell when the work between two points of the queue was done: CUDA by events, the processor by its clock. A
// profiler falls back to the host's clock and a Sync after each launch where a stream is none.
type Timer interface {
	// Reserve makes room for n marks and forgets earlier ones.
	Reserve(n int) error
	// Mark enqueues a reading of the clock. It does not allocate.
	Mark() error
	// Marks waits for the last mark, ends what Reserve began and returns all marks, valid until the next Reserve.
	Marks() ([]Mark, error)
}

// Mark is a reading of a stream's clock.
type Mark struct {
	At time.Duration // since Reserve, or the first mark
	// Busy is the sum of the times that the device's threads have worked for the stream so far; it does not advance where the device
	// cannot tell.
	Busy time.Duration
}

// Limiter devices can measure what they reach at most.
type Limiter interface {
	// Limits takes about a second.
	Limits(ctx context.Context) (Limits, error)
}

// Limits are the most that a device reaches with all its threads, measured.
type Limits struct {
	// Flops is the arithmetic in operations a second by the dtype of the operands; a dtype that is not listed is computed in F32.
	Flops map[tensor.DType]float64
	// Memory is the bandwidth by the size of the working set, ascending; the last is that of memory beyond all caches.
	Memory []Bandwidth
	Notes  string // how it was measured, in a few words
}

// Bandwidth is what moving memory reaches on a working set of so many bytes.
type Bandwidth struct {
	Bytes int64
	Read  float64 // bytes a second
	Copy  float64 // bytes a second, read and written
}

// Rate is the bandwidth for work that touches so many bytes: the higher of reading and copying, of the smallest working set that
// holds them. It is 0 where nothing was measured.
func (l Limits) Rate(bytes int64) float64 {
	rate := 0.0
	for _, b := range l.Memory {
		rate = max(b.Read, b.Copy)
		if b.Bytes >= bytes {
			break
		}
	}
	return rate
}

// FlopRate is the arithmetic limit for operands of a dtype.
func (l Limits) FlopRate(d tensor.DType) float64 {
	if r, ok := l.Flops[d]; ok {
		return r
	}
	return l.Flops[tensor.F32]
}
