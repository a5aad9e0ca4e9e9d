package cuda

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
)

// Stream is an in-order queue of the device.
type Stream struct {
	dev    *Device
	handle driver.Stream
	err    error // it could not be made
	block  *driver.LaunchBlock
	stage  staging
	timing timing
	record *recording // what is being captured, or nil
}

// setupStream is the number of a queue of the package itself: clearing fresh memory waits for nothing else.
const setupStream = -1

// Stream implements device.Device. Where the driver cannot make one, its methods say why.
func (d *Device) Stream(i int) device.Stream {
	s, err := d.stream(i)
	if err != nil {
		return &Stream{dev: d, err: err}
	}
	return s
}

func (d *Device) stream(i int) (*Stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, ok := d.streams[i]; ok {
		return s, nil
	}
	if d.closed {
		return nil, errClosed
	}
	s := &Stream{dev: d, block: new(driver.LaunchBlock)}
	err := d.enter(func() (err error) {
		s.handle, err = d.api.NewStream(0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: queue %d: %w", d.name, i, err)
	}
	d.streams[i] = s
	return s, nil
}

// Handle is the driver's stream, for libraries that enqueue work themselves.
func (s *Stream) Handle() driver.Stream { return s.handle }

// enter is Device.enter for calls on the stream.
func (s *Stream) enter(f func() error) error {
	if s.err != nil {
		return s.err
	}
	return s.dev.enter(f)
}

// plain is enter for calls that can not be recorded.
func (s *Stream) plain(call string, f func() error) error {
	if s.record != nil {
		return fmt.Errorf("cuda: %s while the queue is being recorded", call)
	}
	return s.enter(f)
}

// Copy implements device.Stream. Either side may be of AllocHost.
func (s *Stream) Copy(dst, src device.Ptr, n int64) error {
	to, err := s.dev.address(dst, n)
	if err != nil {
		return err
	}
	from, err := s.dev.address(src, n)
	if err != nil || n == 0 || to == from {
		return err
	}
	return s.enter(func() error { return s.dev.api.CopyAny(driver.Addr(to), driver.Addr(from), n, s.handle) })
}

// Sync implements device.Stream.
func (s *Stream) Sync() error {
	return s.plain("Sync", func() error { return s.dev.api.Sync(s.handle) })
}

// Event is a point in a stream of the device. Its handle is used again once the event is garbage.
type Event struct {
	dev    *Device
	handle driver.Event
	record *recording // it is a point in a recording
	err    error
}

// Record implements device.Stream.
func (s *Stream) Record() device.Event {
	e := &Event{dev: s.dev, record: s.record}
	e.err = s.enter(func() (err error) {
		if e.handle, err = s.dev.takeEvent(); err != nil {
			return err
		}
		return s.dev.api.Record(e.handle, s.handle)
	})
	switch {
	case e.err == nil:
		runtime.AddCleanup(e, s.dev.giveEvent, e.handle)
	case e.handle != 0:
		s.dev.giveEvent(e.handle)
	}
	return e
}

func (d *Device) takeEvent() (driver.Event, error) {
	d.mu.Lock()
	if n := len(d.events); n > 0 {
		e := d.events[n-1]
		d.events = d.events[:n-1]
		d.mu.Unlock()
		return e, nil
	}
	d.mu.Unlock()
	return d.api.NewEvent(false)
}

func (d *Device) giveEvent(e driver.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.events = append(d.events, e)
	}
}

// event checks that an event is one of this device that was recorded.
func (s *Stream) event(e device.Event) (*Event, error) {
	ev, ok := e.(*Event)
	if !ok || ev == nil || ev.dev != s.dev {
		return nil, fmt.Errorf("cuda: an event of another device (%T)", e)
	}
	return ev, ev.err
}

// Wait implements device.Stream. A stream that waits for a point of a recording takes part in it.
func (s *Stream) Wait(e device.Event) error {
	ev, err := s.event(e)
	if err != nil {
		return err
	}
	err = s.enter(func() error { return s.dev.api.Wait(s.handle, ev.handle) })
	if err == nil && ev.record != nil {
		ev.record.join(s)
	}
	runtime.KeepAlive(ev)
	return err
}

// Lock implements device.Exclusive: launches of a queue share one block of arguments, its copies one ring of pinned memory, and a recording takes all
// that is enqueued.
func (d *Device) Lock() { d.turn.Lock() }

// Unlock implements device.Exclusive.
func (d *Device) Unlock() { d.turn.Unlock() }

// Await implements device.Awaiter. It looks at the event alone: another goroutine may be using the queue, or recording it.
func (s *Stream) Await(e device.Event) error {
	ev, err := s.event(e)
	if err != nil {
		return err
	}
	if ev.record != nil {
		return errors.New("cuda: Await of a point in a recording, which does not happen until the graph is launched")
	}
	err = s.enter(func() error { return s.dev.api.SyncEvent(ev.handle) })
	runtime.KeepAlive(ev)
	return err
}

func (s *Stream) close() error {
	return s.dev.enter(func() error {
		return errors.Join(s.stage.close(s.dev.api), s.timing.close(s.dev.api), s.dev.api.CloseStream(s.handle))
	})
}

// Lanes implements device.Parallel: arithmetic, collectives and copies.
func (d *Device) Lanes() int { return 3 }

// StackFrom implements device.Stacking: what memory moves at 4 TB/s while one small kernel starts and ends.
func (d *Device) StackFrom() int64 { return 8 << 20 }
