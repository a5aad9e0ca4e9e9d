package plan

import (
	"errors"
	"fmt"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Session is what the plans of one run share: the store of the variables and one arena of the largest plan's size, since only
// one plan runs at a time. The arena is allocated at the first run; a plan compiled later that needs more makes it grow: in its place
// where the device can (device.Reserver), else the others are bound to the new addresses before their next run.
type Session struct {
	mu    sync.Mutex
	store *Store
	arena device.Buffer
	need  int64
	gen   int
	plans map[*Plan]bool
	done  bool // closed

	launch Launching
}

// NewSession makes a session around a store.
func NewSession(s *Store) *Session { return &Session{store: s, plans: map[*Plan]bool{}} }

// SetLaunching asks for a way of launching for all plans of the session. It is called before the first of them runs.
func (s *Session) SetLaunching(l Launching) { s.launch = l }

// Store returns the store of the variables.
func (s *Session) Store() *Store { return s.store }

// ArenaBytes is the size of the arena that the plans compiled so far need.
func (s *Session) ArenaBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.need
}

// Bytes is what the plans compiled so far take together: their variables, the arena, and their constants. Variables that no plan
// reads or writes are not counted, nor is HostBytes on a device with memory of its own.
func (s *Session) Bytes() int64 {
	device, _ := s.bytes()
	return device
}

// HostBytes is what of these plans' variables is placed in host memory.
func (s *Session) HostBytes() int64 {
	_, host := s.bytes()
	return host
}

func (s *Session) bytes() (onDevice, inHost int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, apart := s.store.dev.(device.HostAllocator)
	onDevice = s.need
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
	s.need = max(s.need, p.size)
}

func (s *Session) leave(p *Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.plans, p)
	s.need = 0
	for q := range s.plans {
		s.need = max(s.need, q.size)
	}
}

// arenaFor returns the arena, at least as large as every plan needs, and its generation.
func (s *Session) arenaFor() (device.Buffer, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return nil, 0, errors.New("plan: the session is closed")
	}
	if s.arena != nil && s.arena.Size() >= s.need {
		return s.arena, s.gen, nil
	}
	if g, ok := s.arena.(device.Growable); ok {
		return s.arena, s.gen, s.grow(g)
	}
	if s.arena != nil {
		if err := s.arena.Free(); err != nil {
			return nil, 0, err
		}
		s.arena = nil
	}
	b, err := s.newArena()
	if err != nil {
		return nil, 0, fmt.Errorf("plan: arena of %d bytes: %w", s.need, err)
	}
	s.arena = b
	s.gen++
	return b, s.gen, nil
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	if s.arena == nil {
		return nil
	}
	err := s.arena.Free()
	s.arena = nil
	return err
}
