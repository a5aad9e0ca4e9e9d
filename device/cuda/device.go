package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
)

// Options of a device.
type Options struct {
	Index int // which of the driver's devices
	// Sync waits for the end of each launch, so that an error is that of the kernel which is named. It is slow, and a recorded graph is not
	// looked into.
	Sync bool
	// NoCUDNN computes attention by own kernels only.
	NoCUDNN bool
}

// Device is one opened GPU.
type Device struct {
	api        *driver.API
	number     driver.Device
	context    driver.Context
	name       string
	capability int // 90 for 9.0
	sms        int
	total      int64
	free0      int64 // free memory when it was opened
	shared     int   // bytes of shared memory that a block may ask for
	l2         int64
	sync       bool
	arithmetic atomic.Pointer[device.Arithmetic]
	lost       atomic.Pointer[error] // why nothing works any more: a fault, or Close

	turn sync.Mutex // of who uses the queues that others may ask for: see Lock

	mu        sync.Mutex // over what follows
	streams   map[int]*Stream
	live      map[*region]struct{}
	allocated int64
	events    []driver.Event      // free to be used again
	graphs    map[*Graph]struct{} // recorded and not freed
	closed    bool

	compile   programs
	building  building
	constants struct {
		sync.Mutex
		at map[[32]byte]Addr
	}
	blas       blas
	ways       waysChosen
	cudnn      attnLibrary
	warpgroups warpgroups
	spent      spending
	pairBytes  int64 // see buildMatMulPair; tests lower it
}

// New opens a device.
func New(o Options) (*Device, error) {
	api, err := native()
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	d := &Device{api: api, sync: o.Sync, streams: map[int]*Stream{}, live: map[*region]struct{}{}, graphs: map[*Graph]struct{}{}, pairBytes: pairBytes}
	d.cudnn.off = o.NoCUDNN
	d.arithmetic.Store(&device.Arithmetic{})
	if d.number, err = api.Device(o.Index); err != nil {
		return nil, fmt.Errorf("cuda:%d: %w", o.Index, err)
	}
	if err := d.identify(); err != nil {
		return nil, fmt.Errorf("cuda:%d: %w", o.Index, err)
	}
	if d.context, err = api.RetainPrimary(d.number); err != nil {
		return nil, fmt.Errorf("cuda:%d (%s): %w", o.Index, d.name, err)
	}
	err = d.enter(func() error {
		d.free0, d.total, err = api.Memory()
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cuda:%d (%s): %w", o.Index, d.name, err), api.ReleasePrimary(d.number))
	}
	return d, nil
}

// MinCapability is the oldest compute capability: 7.0, Volta.
const MinCapability = 70

// identify reads what the device is.
func (d *Device) identify() error {
	var err error
	if d.name, err = d.api.DeviceName(d.number); err != nil {
		return err
	}
	var major, minor, l2 int
	for _, q := range []struct {
		at driver.Attr
		to *int
	}{{driver.AttrMajor, &major}, {driver.AttrMinor, &minor}, {driver.AttrMultiprocessors, &d.sms}, {driver.AttrSharedOptIn, &d.shared}, {driver.AttrL2, &l2}} {
		if *q.to, err = d.api.DeviceAttr(d.number, q.at); err != nil {
			return err
		}
	}
	d.capability, d.l2 = major*10+minor, int64(l2)
	if d.capability < MinCapability {
		return fmt.Errorf("%s has compute capability %s; 7.0 or newer is needed", d.name, nvrtc.Capability(d.capability))
	}
	return nil
}

// enter runs f with the device's context current on a locked thread. It may be nested.
func (d *Device) enter(f func() error) error {
	if lost := d.lost.Load(); lost != nil {
		return *lost
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := d.api.MakeCurrent(d.context); err != nil {
		return d.fault(err)
	}
	return d.fault(f())
}

// fault marks an error after which the device can not be used, and keeps it for all later calls.
func (d *Device) fault(err error) error {
	var e *driver.Error
	if err == nil || !errors.As(err, &e) || !e.Lost() || errors.Is(err, device.ErrLost) {
		return err
	}
	hint := "an earlier launch can be the cause: open the device as cuda:sync=on, without recorded graphs, to have it named"
	if d.sync {
		hint = "the launch named here is the cause"
	}
	err = fmt.Errorf("%s: %w: %w; %s", d.name, device.ErrLost, err, hint)
	d.lost.CompareAndSwap(nil, &err)
	return err
}

// Info implements device.Device.
func (d *Device) Info() device.Info {
	i := device.Info{Name: d.name, Kind: "cuda", MemoryTotal: d.total, Threads: d.sms, BF16: d.capability >= 80}
	if free, err := d.memoryFree(); err == nil {
		i.MemoryFree = free
	}
	return i
}

func (d *Device) memoryFree() (free int64, err error) {
	err = d.enter(func() error {
		free, _, err = d.api.Memory()
		return err
	})
	return free, err
}

// Capability is the compute capability, 90 for 9.0.
func (d *Device) Capability() int { return d.capability }

// Multiprocessors is how many the device has.
func (d *Device) Multiprocessors() int { return d.sms }

// SharedMax is how many bytes of shared memory a block may have.
func (d *Device) SharedMax() int { return d.shared }

// L2 is the size of the last cache in bytes.
func (d *Device) L2() int64 { return d.l2 }

// SetArithmetic implements device.Chooser.
func (d *Device) SetArithmetic(a device.Arithmetic) error {
	d.arithmetic.Store(&a)
	return nil
}

// Deterministic tells whether kernels built now must give equal bits in equal runs. Kernels whose bits do not depend on timing need
// not ask.
func (d *Device) Deterministic() bool { return d.arithmetic.Load().Deterministic }

// TF32 tells whether products of float32 may round their operands.
func (d *Device) TF32() bool { return d.arithmetic.Load().TF32 }

// API is the driver, for libraries that work on the device's streams.
func (d *Device) API() *driver.API { return d.api }

// errClosed is what every call returns after Close.
var errClosed = errors.New("cuda: the device is closed")

// Close implements device.Device. It waits for all work, and frees graphs too; Free of what it freed is then no error.
func (d *Device) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	live := make([]*region, 0, len(d.live))
	for r := range d.live {
		live = append(live, r)
	}
	graphs := make([]*Graph, 0, len(d.graphs))
	for g := range d.graphs {
		graphs = append(graphs, g)
	}
	streams := d.streams
	d.streams = map[int]*Stream{}
	d.mu.Unlock()
	// The context's address means nothing to the driver afterwards: no later call may reach it.
	defer func() { d.lost.CompareAndSwap(nil, &errClosed) }()
	if d.lost.Load() != nil {
		d.cudnn.end()
		return d.api.ReleasePrimary(d.number) // nothing else works any more
	}
	err := d.enter(d.api.SyncContext)
	for _, g := range graphs {
		err = errors.Join(err, g.Free())
	}
	for _, s := range streams {
		err = errors.Join(err, s.close())
	}
	for _, r := range live {
		err = errors.Join(err, r.Free())
	}
	err = errors.Join(err, d.enter(func() error {
		errs := []error{d.cudnn.close(), d.blas.close(), d.compile.unload(d.api)}
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, e := range d.events {
			errs = append(errs, d.api.CloseEvent(e))
		}
		d.events = nil
		for _, at := range d.constants.at {
			errs = append(errs, d.api.Free(driver.Addr(at)))
		}
		d.constants.at = nil
		return errors.Join(errs...)
	}))
	return errors.Join(err, d.api.ReleasePrimary(d.number))
}
