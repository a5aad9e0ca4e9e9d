package plan

import (
	"errors"
	"fmt"
	"maps"
	"sort"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Store holds the values of variables on one device. A variable that is a view of a slab shares the slab's bytes. A Store is
// safe for concurrent use by loaders; a running plan must have it to itself, and runs of several plans wait for each other.
type Store struct {
	mu   sync.Mutex // over all below
	dev  device.Device
	bufs map[*graph.Var]device.Buffer
	set  map[*graph.Var]*graph.Var // variables, views too, that were given a value, with the owner of their storage at the time
	gen  int                       // counts what made addresses invalid

	running sync.Mutex  // held while a run is enqueued: steps that share variables are whole, one after the other
	turn    sync.Locker // of the device's queues, or nil; taken after running and before all other locks
}

// turnOf is the lock of a device's queues; nil where any number of goroutines may use them.
func turnOf(dev device.Device) sync.Locker {
	if x, ok := dev.(device.Exclusive); ok {
		return x
	}
	return nil
}

// take and give are the turn of the device's queues.
func (s *Store) take() {
	if s.turn != nil {
		s.turn.Lock()
	}
}

func (s *Store) give() {
	if s.turn != nil {
		s.turn.Unlock()
	}
}

// begin takes the right to enqueue a run, and end gives it back.
func (s *Store) begin() {
	s.running.Lock()
	s.take()
}

func (s *Store) end() {
	s.give()
	s.running.Unlock()
}

// generation changes when an address that was handed out is no longer valid.
func (s *Store) generation() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gen
}

// NewStore returns an empty store.
func NewStore(dev device.Device) *Store {
	return &Store{dev: dev, turn: turnOf(dev), bufs: map[*graph.Var]device.Buffer{}, set: map[*graph.Var]*graph.Var{}}
}

// Device returns the device the values live on.
func (s *Store) Device() device.Device { return s.given().dev }

// given is s, or in the place of a nil Store one without a device, which says what is missing.
func (s *Store) given() *Store {
	if s == nil {
		return &Store{}
	}
	return s
}

var errNoDevice = errors.New("store: it has no device; make it with NewStore(device)")

// ptr returns the address of a variable, allocating zeros at the first use.
func (s *Store) ptr(v *graph.Var) (device.Ptr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locked(v)
}

// locked is ptr where mu is held.
func (s *Store) locked(v *graph.Var) (device.Ptr, error) {
	owner, off := v.Root()
	b, ok := s.bufs[owner]
	if !ok {
		switch {
		case s.dev == nil:
			return device.Ptr{}, errNoDevice
		case s.bufs == nil:
			return device.Ptr{}, errors.New("store: closed")
		}
		var err error
		if b, err = s.alloc(owner); err != nil {
			return device.Ptr{}, fmt.Errorf("store: variable %v: %w", owner, err)
		}
		s.bufs[owner] = b
	}
	return device.Ptr{Buf: b, Off: off}, nil
}

// alloc reserves a variable's bytes where it belongs.
func (s *Store) alloc(v *graph.Var) (device.Buffer, error) {
	if h, ok := s.dev.(device.HostAllocator); ok && v.Place == graph.InHost {
		return h.AllocHost(v.Type.Bytes())
	}
	return s.dev.Alloc(v.Type.Bytes())
}

// Has reports whether the variable's storage exists already.
func (s *Store) Has(v *graph.Var) bool {
	owner, _ := v.Root()
	s = s.given()
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.bufs[owner]
	return ok
}

// Set copies a tensor of the variable's exact type into the store.
func (s *Store) Set(v *graph.Var, t *tensor.Tensor) error {
	switch {
	case v == nil:
		return errNoVar
	case t == nil:
		return fmt.Errorf("store: the tensor for variable %v is nil", v)
	}
	if t.Type() != v.Type {
		return fmt.Errorf("store: variable %v cannot hold a tensor of type %v", v, t.Type())
	}
	return s.SetBytes(v, 0, t.Bytes())
}

// SetBytes copies raw bytes into the variable's storage from byte offset off on, so that large weights can stream in.
func (s *Store) SetBytes(v *graph.Var, off int64, b []byte) error {
	if v == nil {
		return errNoVar
	}
	s = s.given()
	if off < 0 || int64(len(b)) > v.Type.Bytes()-off {
		return fmt.Errorf("store: %d bytes at offset %d do not fit variable %v of %d bytes", len(b), off, v, v.Type.Bytes())
	}
	s.take()
	defer s.give()
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.locked(v)
	if err != nil {
		return err
	}
	s.note(v)
	if len(b) == 0 {
		return nil
	}
	return s.dev.Stream(0).Upload(p.Add(off), b)
}

var errNoVar = errors.New("store: the variable is nil: a layer's weight was never set")

// note remembers that v was given a value, where mu is held: v is perhaps a part of a variable that must be supplied, whose parts come one by one.
func (s *Store) note(v *graph.Var) {
	root, _ := v.Root()
	s.set[v] = root
	for at := v.Slab; at != nil; at = at.Slab {
		if at.Supplied {
			s.set[at] = root
		}
	}
}

// lacks reports whether v must be supplied and nobody has: neither it nor a slab that it is part of. moved tells that its value lies where v was
// before it became part of a slab.
func (s *Store) lacks(v *graph.Var) (lacks, moved bool) {
	if !v.Supplied {
		return false, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	root, _ := v.Root()
	for at := v; at != nil; at = at.Slab {
		if s.set[at] == root {
			return false, false
		}
	}
	return true, s.set[v] != nil
}

// written notes the variables that plans give values.
func (s *Store) written(writes []graph.Write) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range writes {
		s.note(w.Var)
	}
}

// Get copies a variable's value to the host. A variable never set is all zeros, unless one must be supplied, as a weight: then there is none.
func (s *Store) Get(v *graph.Var) (*tensor.Tensor, error) {
	if v == nil {
		return nil, errNoVar
	}
	if s = s.given(); s.dev == nil {
		return nil, errNoDevice
	}
	if lacks, moved := s.lacks(v); lacks {
		return nil, fmt.Errorf("store: variable %v has no value; %s", v, howSupplied(moved))
	}
	t := tensor.New(v.Type)
	s.take()
	defer s.give()
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.locked(v)
	if err != nil || t.Type().Bytes() == 0 {
		return t, err
	}
	return t, s.dev.Stream(0).Download(t.Bytes(), p)
}

// Bytes is the storage held now.
func (s *Store) Bytes() int64 {
	s = s.given()
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, b := range s.bufs {
		n += b.Size()
	}
	return n
}

// Vars returns the variables that own storage, in name order.
func (s *Store) Vars() []*graph.Var {
	s = s.given()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*graph.Var
	for v := range s.bufs {
		out = append(out, v)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// Drop frees the storage of a variable that owns it.
func (s *Store) Drop(v *graph.Var) error {
	s = s.given()
	s.take()
	defer s.give()
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.bufs[v]
	if !ok {
		return nil
	}
	delete(s.bufs, v)
	maps.DeleteFunc(s.set, func(_, root *graph.Var) bool { return root == v })
	s.gen++
	return b.Free()
}

// Close frees everything.
func (s *Store) Close() error {
	s = s.given()
	s.take()
	defer s.give()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, b := range s.bufs {
		errs = append(errs, b.Free())
	}
	s.bufs = nil
	return errors.Join(errs...)
}
