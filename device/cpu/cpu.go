// Package cpu runs plans on the processor: pure-Go kernels for every op, assembly for the matrix product, and a persistent
// worker pool. Results do not depend on the number of threads: work is cut by shape, never by worker.
//
// Importing the package registers the backend "cpu".
package cpu

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

type backend struct{}

func init() {
	if err := device.Register(backend{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// Name implements device.Backend.
func (backend) Name() string { return "cpu" }

// Count implements device.Backend.
func (backend) Count() int { return 1 }

// Open implements device.Backend with the default options. A BYES_CPU that this processor cannot follow is an error.
func (b backend) Open(i int) (device.Device, error) { return b.OpenWith(i, "", "") }

// OpenWith implements device.Tuner: cpu:threads=2 has two workers.
func (backend) OpenWith(_ int, key, value string) (device.Device, error) {
	if err := isa.Err(); err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	var o Options
	switch key {
	case "":
	case "threads":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > maxThreads {
			return nil, fmt.Errorf("threads=%s: want a number from 1 to %d", value, maxThreads)
		}
		o.Threads = n
	default:
		return nil, fmt.Errorf("%s is no setting of cpu; it has threads", key)
	}
	return New(o), nil
}

// maxThreads refuses numbers that can only be a mistake.
const maxThreads = 4096

// Options of a CPU device.
type Options struct {
	// Threads is the number of workers, the caller included. 0 takes as many as there are processors that this process may use: what
	// the system and its control groups (containers) allow, or GOMAXPROCS if that is set in the environment.
	Threads int
}

// Device is the processor and its worker pool.
type Device struct {
	threads int
	pool    *pool.Pool
	mu      sync.Mutex
	held    int64  // bytes allocated and not freed
	chunk   []byte // what is left for buffers that share large pages
	stream  stream
}

// New opens the processor.
func New(o Options) *Device {
	if o.Threads <= 0 {
		o.Threads = defaultThreads()
	}
	d := &Device{threads: o.Threads}
	d.pool = pool.New(o.Threads)
	d.stream.dev = d
	return d
}

// Threads is the number of workers, the caller included.
func (d *Device) Threads() int { return d.threads }

// Stream implements device.Device. The processor has one queue, which is synchronous.
func (d *Device) Stream(int) device.Stream { return &d.stream }

// Info implements device.Device. BF16 is false on every processor: only large products gain from bfloat16 instructions, where they exist,
// and a default that differs between processors would give results that do.
func (d *Device) Info() device.Info {
	total, free := memory()
	return device.Info{Name: modelName() + ", " + isa.String() + ", " + strconv.Itoa(d.threads) + " threads", Kind: "cpu", MemoryTotal: total, MemoryFree: free, Threads: d.threads}
}

// Close implements device.Device.
func (d *Device) Close() error {
	d.pool.Close()
	return nil
}

type stream struct {
	dev    *Device
	timing timing
}

// Upload implements device.Stream.
func (s *stream) Upload(dst device.Ptr, src []byte) error {
	b, err := bytesAt(dst, int64(len(src)))
	if err == nil {
		copy(b, src)
	}
	runtime.KeepAlive(dst.Buf)
	return err
}

// Download implements device.Stream.
func (s *stream) Download(dst []byte, src device.Ptr) error {
	b, err := bytesAt(src, int64(len(dst)))
	if err == nil {
		copy(dst, b)
	}
	runtime.KeepAlive(src.Buf)
	return err
}

// Copy implements device.Stream.
func (s *stream) Copy(dst, src device.Ptr, n int64) error {
	d, err := bytesAt(dst, n)
	if err != nil {
		return err
	}
	b, err := bytesAt(src, n)
	if err == nil {
		copy(d, b)
	}
	runtime.KeepAlive(dst.Buf)
	runtime.KeepAlive(src.Buf)
	return err
}

// Record implements device.Stream.
func (s *stream) Record() device.Event { return nil }

// Wait implements device.Stream.
func (s *stream) Wait(device.Event) error { return nil }

// Sync implements device.Stream.
func (s *stream) Sync() error { return nil }
