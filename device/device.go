// Package device is the seam between a compiled plan and the hardware: five small interfaces and a registry.
//
// A backend is a folder (device/cpu, device/cuda, ...) that registers itself in init and is chosen by a blank import in the
// program. It knows the op types, for its kernel table, and nothing above them. Abilities beyond the minimum are upgrade
// interfaces, asked for by type assertion. Package device/devicetest is the conformance suite.
package device

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ErrNoKernel is what Device.Kernel returns (wrapped or not) when it has no kernel for a Spec. The planner then decomposes the
// op.
var ErrNoKernel = errors.New("no kernel")

// ErrLost is in the error of a device after which nothing works on it any more: a fault of a kernel, or of the hardware. What was in its memory is
// gone; the process must start again.
var ErrLost = errors.New("the device is lost")

// Backend finds the devices of one kind.
type Backend interface {
	// Name is the word used in configs: "cpu", "cuda".
	Name() string
	// Count is how many devices are present, 0 when the driver or hardware is absent.
	Count() int
	// Open opens device i in [0, Count).
	Open(i int) (Device, error)
}

// Explainer backends tell why Count is 0.
type Explainer interface {
	// Explain returns what is missing and what to do, or nil where devices are present.
	Explain() error
}

// Tuner backends take a setting in the name of a device, as in cpu:threads=2.
type Tuner interface {
	// OpenWith opens device i with one setting.
	OpenWith(i int, key, value string) (Device, error)
}

// Device is one opened device. Its methods may be called from several goroutines; a Stream belongs to one at a
// time, see Exclusive.
type Device interface {
	// Alloc reserves bytes of device memory, zeroed, aligned to at least 64 bytes.
	Alloc(bytes int64) (Buffer, error)
	// Stream returns queue i; equal i give the same stream.
	Stream(i int) Stream
	// Kernel builds the kernel for one op at fixed types, or ErrNoKernel.
	Kernel(s Spec) (Kernel, error)
	// Info describes the device.
	Info() Info
	// Close frees every buffer, stream and recorded graph.
	Close() error
}

// Buffer is memory of a device.
type Buffer interface {
	// Size is the length in bytes.
	Size() int64
	// Free returns the memory; the buffer must not be used afterwards.
	Free() error
}

// Ptr is an address: a buffer and a byte offset in it. The zero Ptr stands for an absent optional input.
type Ptr struct {
	Buf Buffer
	Off int64
}

// Add returns the address n bytes further.
func (p Ptr) Add(n int64) Ptr { return Ptr{p.Buf, p.Off + n} }

// Op is what a Spec says of an operation; the backend looks its kernel up by the Go type.
type Op interface{ Name() string }

// Spec asks for a kernel: the op with its attributes and the types it is launched with.
type Spec struct {
	Op   Op
	In   []tensor.Type
	Out  []tensor.Type
	Comm Comm // for collectives; nil means a single rank
}

// Kernel is one op ready to launch at fixed types.
type Kernel interface {
	// Scratch is how many bytes of temporary memory a launch needs.
	Scratch() int64
	// Launch enqueues the work. Where the op is an Aliaser an output may be at the address of that input. scratch may be the
	// zero Ptr when Scratch is 0.
	Launch(s Stream, in, out []Ptr, scratch Ptr) error
}

// Named kernels tell reports which of several implementations was chosen.
type Named interface{ KernelName() string }

// Stream is an in-order queue of launches and copies.
type Stream interface {
	// Upload copies host bytes to the device; src may be reused when it returns.
	Upload(dst Ptr, src []byte) error
	// Download waits for the work before it and copies device bytes to the host.
	Download(dst []byte, src Ptr) error
	// Copy copies n bytes on the device. The ranges must not overlap unless they are equal.
	Copy(dst, src Ptr, n int64) error
	// Record marks the present end of the queue.
	Record() Event
	// Wait makes later work of this stream wait for an event of another stream.
	Wait(Event) error
	// Sync blocks until everything enqueued is done and returns the first error of that work.
	Sync() error
}

// Event is a point in a stream.
type Event interface{}

// Info describes a device.
type Info struct {
	Name        string // "AMD EPYC 7B13, AVX2"
	Kind        string // the backend's name
	MemoryTotal int64  // bytes, 0 if unknown
	MemoryFree  int64  // bytes now, 0 if unknown
	Threads     int    // worker threads (CPU) or multiprocessors (GPU)
	BF16        bool   // arithmetic in bfloat16 is fast enough to be the default
}

// Reduce is how a collective combines ranks.
type Reduce uint8

// The reductions.
const (
	Sum Reduce = iota
	Mean
	Max
)

// Comm joins the devices of several ranks. Every rank calls the same collectives in the same order.
type Comm interface {
	Rank() int
	Size() int
	AllReduce(s Stream, p Ptr, t tensor.Type, r Reduce) error
	AllGather(s Stream, dst, src Ptr, each tensor.Type) error
	ReduceScatter(s Stream, dst, src Ptr, each tensor.Type, r Reduce) error
	Broadcast(s Stream, p Ptr, t tensor.Type, root int) error
}

// Describer devices tell what they found and which implementations they chose here.
type Describer interface {
	// Describe is quick and runs nothing.
	Describe() []Fact
}

// Fact is a line about a device: "attention: avx512, tiles of 8 x 32".
type Fact struct {
	Topic string `json:"topic"`
	Text  string `json:"text"`
}

// Checker devices compute some things in ways that only the hardware shows to be right; what comes out wrong they do without.
type Checker interface {
	// Check tries all such ways, which takes a second at most, and returns the Problems.
	Check() []Problem
	// Problems are those that were met so far. It runs nothing.
	Problems() []Problem
}

// Problem is something that a device should be able to do and is not.
type Problem struct {
	What   string `json:"what"` // and what is done instead
	Remedy string `json:"remedy"`
}

// HostAllocator devices have memory of their own and can also use host memory in kernels and copies.
type HostAllocator interface {
	// AllocHost reserves bytes of host memory that kernels may use like those of Alloc, zeroed, aligned to at least 64 bytes. The buffer
	// is a HostBuffer.
	AllocHost(bytes int64) (Buffer, error)
}

// Commer devices can join a communicator.
type Commer interface {
	Join(rank, size int, id []byte) (Comm, error)
}

var registry = struct {
	sync.Mutex
	m map[string]Backend
}{m: map[string]Backend{}}

// Register adds a backend; it is called from init. A second backend of the same name is a programming error and is refused.
func Register(b Backend) error {
	registry.Lock()
	defer registry.Unlock()
	if _, dup := registry.m[b.Name()]; dup {
		return fmt.Errorf("device: backend %q is registered twice", b.Name())
	}
	registry.m[b.Name()] = b
	return nil
}

// Backends returns the registered backends in name order.
func Backends() []Backend {
	registry.Lock()
	defer registry.Unlock()
	out := make([]Backend, 0, len(registry.m))
	for _, b := range registry.m {
		out = append(out, b)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name() < out[j].Name() })
	return out
}

// Open opens a device by name: "cpu", "cuda", "cuda:1", with a setting as in "cpu:threads=2", "cuda:sync=on" and "cuda:1:sync=on", or "auto" for the
// first GPU present and else the CPU.
func Open(name string) (Device, error) {
	if name == "auto" || name == "" {
		return openAuto()
	}
	kind, rest, more := strings.Cut(name, ":")
	for _, b := range Backends() {
		if b.Name() != kind {
			continue
		}
		d, err := openOf(b, rest, more)
		if err != nil {
			return nil, fmt.Errorf("device %q: %w", name, err)
		}
		return d, nil
	}
	return nil, fmt.Errorf("device %q is unknown; this program was built with: %s", name, strings.Join(names(), ", "))
}

// openOf opens the device of a backend that the rest of a name means: a number, a setting, or a number and a setting.
func openOf(b Backend, rest string, more bool) (Device, error) {
	number, setting, both := strings.Cut(rest, ":")
	if strings.Contains(number, "=") {
		number, setting, both = "", rest, false
	}
	index := 0
	if number != "" || more && setting == "" {
		if _, err := fmt.Sscanf(number, "%d", &index); err != nil || fmt.Sprint(index) != number {
			return nil, fmt.Errorf("%q is not a device number; write for example %s:0", number, b.Name())
		}
	}
	t, tunes := b.(Tuner)
	key, value, ok := strings.Cut(setting, "=")
	switch {
	case setting == "" && !both:
	case !ok:
		return nil, fmt.Errorf("%q is not a setting; write KEY=VALUE", setting)
	case !tunes:
		return nil, fmt.Errorf("%s devices have no settings; write a device number after the colon", b.Name())
	}
	if index < 0 || index >= b.Count() {
		return nil, absent(b)
	}
	if !ok {
		return b.Open(index)
	}
	return t.OpenWith(index, key, value)
}

// absent says which devices there are, and why there is none where the backend knows.
func absent(b Backend) error {
	switch n := b.Count(); {
	case n == 1:
		return fmt.Errorf("there is one %s device, %s:0", b.Name(), b.Name())
	case n > 1:
		return fmt.Errorf("there are %d %s devices, %s:0 to %s:%d", n, b.Name(), b.Name(), b.Name(), n-1)
	}
	if e, ok := b.(Explainer); ok {
		if why := e.Explain(); why != nil {
			return fmt.Errorf("there is no %s device: %w", b.Name(), why)
		}
	}
	return fmt.Errorf("there is no %s device", b.Name())
}

func openAuto() (Device, error) {
	for _, b := range Backends() {
		if b.Name() == "cpu" || b.Count() == 0 {
			continue
		}
		d, err := b.Open(0)
		if err != nil { // a slow run that nobody asked for would hide it
			return nil, fmt.Errorf("device %q: %w; device \"cpu\" is the processor", b.Name(), err)
		}
		return d, nil
	}
	for _, b := range Backends() {
		if b.Count() > 0 {
			return b.Open(0)
		}
	}
	return nil, errors.New("no device: the program imports no backend (add a blank import of device/cpu)")
}

func names() []string {
	var out []string
	for _, b := range Backends() {
		out = append(out, b.Name())
	}
	return out
}
