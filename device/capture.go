package device

import (
	"context"
	"sync"
)

// The interfaces of this file are upgrades that devices with queues of their own have. Each is found by a type assertion.

// Capturer devices record what is enqueued on a stream once, and replay it with one call.
type Capturer interface {
	// Capture calls record and records the launches and copies that it enqueues on s instead of running them. Another stream takes part
	// once it waits for an event of s, and s must wait for its last event before record returns. Meanwhile Upload, Download and Sync of
	// these streams are errors, and so is whatever the driver refuses to record; the error names the launch. Addresses are fixed by the
	// recording, the bytes there are not.
	Capture(s Stream, record func() error) (Graph, error)
}

// Exclusive devices have queues, and libraries behind them, that serve one goroutine at a time. Who uses a queue holds the lock, from the first call that
// belongs together with others to the last, so that no other's work gets into what Capture records. Plans and stores do. Waiting for an event
// needs no lock, nor do Alloc and the building of kernels.
type Exclusive interface{ sync.Locker }

// Graph is a recorded list of launches.
type Graph interface {
	// Launch enqueues all of it.
	Launch(s Stream) error
	// Free waits until no launch of it runs, and gives back what it takes.
	Free() error
}

// Reserver devices have memory that grows without moving, so that what was recorded stays valid.
type Reserver interface {
	// Reserve returns an empty buffer that can grow to limit bytes at its address. It takes no memory; where it fails, Alloc may serve.
	Reserve(limit int64) (Growable, error)

	// PageBytes is what the size of a reserved buffer is a multiple of, so that a plan can count what it will take; 0 where nothing can be reserved.
	PageBytes() int64
}

// Growable is a buffer that can grow. Its Size is what it has now, in whole pages of the device.
type Growable interface {
	Buffer
	// Grow gives the buffer memory for at least so many bytes. What it held is kept, the addresses of it too; the new bytes are zeroed.
	Grow(bytes int64) error
}

// HostBuffer is a buffer of AllocHost. Stream.Copy to and from it does not wait.
type HostBuffer interface {
	Buffer
	// Bytes is the memory itself, until Free. Who reads it must have waited for the copy that wrote it.
	Bytes() []byte
}

// Awaiter streams let the host wait for a point of a queue without waiting for what comes after.
type Awaiter interface {
	// Await blocks until the event has happened and returns the first error of the work before it.
	Await(Event) error
}

// Parallel devices run the work of several streams beside each other, so that copies and collectives need not wait for arithmetic.
type Parallel interface {
	// Lanes is how many: streams 0 to Lanes()-1. What of one must come before what of another is said by events.
	Lanes() int
}

// Stacking devices wait for memory when products are thin, so that reading or writing a large operand once for several of them pays.
type Stacking interface {
	// StackFrom is how many bytes of memory traffic that must save, what the launches take which put small operands side by side for it.
	StackFrom() int64
}

// Arithmetic says how a device computes where it has a choice. The zero value is the default.
type Arithmetic struct {
	// Deterministic asks that equal runs give equal bits: no sum in an order that varies, no algorithm chosen by its time.
	Deterministic bool
	// TF32 allows products of float32 to round their operands to 11 significant bits, as tensor cores do.
	TF32 bool
}

// Chooser devices have such choices.
type Chooser interface {
	// SetArithmetic holds for kernels that are built afterwards.
	SetArithmetic(Arithmetic) error
}

// Meter devices count their memory.
type Meter interface {
	// Allocated is the size of all buffers of device memory, as they were asked for.
	Allocated() int64
	// Overhead is what the device took beside them since it was opened: rounding to pages, libraries, kernels, graphs. It is measured by the fall
	// of free memory, so that what other processes take and give back meanwhile is part of it.
	Overhead() int64
}

// Preparer devices compile the code of kernels, which Kernel only chooses.
type Preparer interface {
	// Prepare makes kernels of this device ready, several at a time; a kernel that was not prepared is so at its first launch. The result has
	// the error of each kernel, or is nil where all are ready. Once the context has ended nothing more is begun, and its error is theirs.
	Prepare(ctx context.Context, kernels []Kernel) []error
}

// Drafter devices have kernels whose choice takes long: they time algorithms, or wait for a library.
type Drafter interface {
	// Draft is Kernel without what takes long. A draft may not be launched, nor asked for Scratch, before it is settled.
	Draft(s Spec) (Kernel, error)
	// Settle makes drafts of this device what Kernel would have made, all that takes long side by side; kernels that are no drafts stay as they are. It
	// begins to prepare all of them. The result and the context are those of Prepare.
	Settle(ctx context.Context, kernels []Kernel) []error
}
