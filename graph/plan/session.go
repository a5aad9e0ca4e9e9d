package plan

import (
	"errors"
	"fmt"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Session is what the plans of one run share: the store of the variables and one arena of the largest plan's size, since only
// one plan runs at a time: runs that several goroutines start wait for each other. The arena is allocated at the first run; a plan compiled later that needs more makes it grow: in its place
// where the device can (device.Reserver), else the others are bound to the new addresses before their next run.
type Session struct {
	mu    sync.Mutex
	store *Store
	arena device.Buffer
	host  device.Buffer // where intermediates wait; nil where no plan has any
	need  int64         // bytes of the arena,
	away  int64         // and of host
	gen   int
	plans map[*Plan]bool
	done  bool // closed

	launch Launching
}

// NewSession makes a session around a store.
func NewSession(s *Store) *Session { return &Session{store: s.given(), plans: map[*Plan]bool{}} }

// SetLaunching asks for a way of launching for all plans of the session. It is called before the first of them runs.
func (s *Session) SetLaunching(l Launching) { s.launch = l }

// Store returns the store of the variables.
func (s *Session) Store() *Store { return s.store }

// ArenaBytes is the size of the arena that the plans compiled so far need, in whole pages where the device reserves it.
func (s *Session) ArenaBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.arenaBytes()
}

func (s *Session) arenaBytes() int64 {
	r, ok := s.store.dev.(device.Reserver)
	if !ok || s.store.dev.Info().MemoryTotal < s.need {
		return s.need
	}
	page := max(r.PageBytes(), 1)
	return (s.need + page - 1) / page * page
}

// Bytes is what the plans compiled so far take together: their variables, the arena, and their constants. Variables that no plan
// reads or writes are not counted, nor is HostBytes on a device with memory of its own.
func (s *Session) Bytes() int64 {
	device, _ := s.bytes()
	return device
}

// HostBytes is what of these plans' variables is placed in host memory, and what their intermediates take there.
func (s *Session) HostBytes() int64 {
	_, host := s.bytes()
	return host
}

func (s *Session) bytes() (onDevice, inHost int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, apart := s.store.dev.(device.HostAllocator)
	onDevice, inHost = s.arenaBytes(), s.away
	seen := map[*graph.Var]bool{}
	for p := range s.plans {
		for i := range p.roots {
			switch r := &p.roots[i]; {
			case r.kind == inConst:
				onDevice += alignUp(r.bytes)
			case r.kind == inVar && !seen[r.v]:
				seen[r.v] = true
				if r.v.Place == graph.InHost {
					inHost += r.bytes
				}
				if r.v.Place != graph.InHost || !apart {
					onDevice += r.bytes
				}
			}
		}
	}
	return onDevice, inHost
}

func (s *Session) join(p *Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plans[p] = true
	s.need, s.away = max(s.need, p.size), max(s.away, p.hostSize)
}

func (s *Session) leave(p *Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.plans, p)
	s.need, s.away = 0, 0
	for q := range s.plans {
		s.need, s.away = max(s.need, q.size), max(s.away, q.hostSize)
	}
}

// memory is what a plan works in beside its variables and constants.
type memory struct {
	device device.Buffer // the arena
	host   device.Buffer // where intermediates wait; nil where none do
}

// memoryFor returns the memory, at least as large as every plan needs, and its generation.
func (s *Session) memoryFor() (memory, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return memory{}, 0, errors.New("plan: the session is closed")
	}
	if err := s.makeArena(); err != nil {
		return memory{}, 0, err
	}
	if err := s.makeHost(); err != nil {
		return memory{}, 0, err
	}
	return memory{s.arena, s.host}, s.gen, nil
}

func (s *Session) makeArena() error {
	if s.arena != nil && s.arena.Size() >= s.need {
		return nil
	}
	if g, ok := s.arena.(device.Growable); ok {
		return s.grow(g)
	}
	if s.arena != nil {
		if err := s.arena.Free(); err != nil {
			return err
		}
		s.arena = nil
	}
	b, err := s.newArena()
	if err != nil {
		return fmt.Errorf("plan: arena of %d bytes: %w", s.need, err)
	}
	s.arena = b
	s.gen++
	return nil
}

// makeHost makes the host memory, or a larger one when no run uses the last any more.
func (s *Session) makeHost() error {
	if s.away == 0 || s.host != nil && s.host.Size() >= s.away {
		return nil
	}
	if old := s.host; old != nil {
		s.host = nil
		if err := errors.Join(s.store.dev.Stream(0).Sync(), old.Free()); err != nil {
			return err
		}
	}
	b, err := s.store.dev.(device.HostAllocator).AllocHost(s.away)
	if err != nil {
		return fmt.Errorf("plan: %s of host memory for intermediates (without Options.Move, train.offload: off, they stay on the device): %w", size(s.away), err)
	}
	s.host = b
	s.gen++
	return nil
}

func (s *Session) grow(g device.Growable) error {
	if err := g.Grow(s.need); err != nil {
		return fmt.Errorf("plan: arena of %d bytes: %w", s.need, err)
	}
	return nil
}

// newArena makes an arena that can grow in its place, where the device has such memory, so that what is recorded stays valid.
func (s *Session) newArena() (device.Buffer, error) {
	r, ok := s.store.dev.(device.Reserver)
	total := s.store.dev.Info().MemoryTotal
	if !ok || total < s.need {
		return s.store.dev.Alloc(s.need)
	}
	g, err := r.Reserve(total)
	if err != nil { // as on virtual GPUs that do not let pages be mapped: this one moves when it grows
		b, failed := s.store.dev.Alloc(s.need)
		if failed != nil {
			return nil, errors.Join(failed, err)
		}
		return b, nil
	}
	if err := g.Grow(s.need); err != nil {
		return nil, errors.Join(err, g.Free())
	}
	return g, nil
}

// Close frees the arena and the store.
func (s *Session) Close() error { return errors.Join(s.closeArena(), s.store.Close()) }

func (s *Session) closeArena() error {
	s.store.take()
	defer s.store.give()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	var errs []error
	if s.host != nil {
		errs = append(errs, s.store.dev.Stream(0).Sync(), s.host.Free())
	}
	if s.arena != nil {
		errs = append(errs, s.arena.Free())
	}
	s.arena, s.host = nil, nil
	return errors.Join(errs...)
}
