package cuda

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
)

// What a device spends time on once.
const (
	spentPrograms = "programs compiled or loaded"
	spentProducts = "products timed"
	spentWays     = "kernels timed"
	spentPlans    = "attention plans"
	spentOpening  = "libraries opened"
)

// spending adds up what is done once, in the order in which it came up.
type spending struct {
	mu   sync.Mutex
	list []device.Spent
}

// Spent implements device.Spender.
func (d *Device) Spent() []device.Spent {
	d.spent.mu.Lock()
	defer d.spent.mu.Unlock()
	return append([]device.Spent(nil), d.spent.list...)
}

var _ device.Keeper = (*Device)(nil)

// Unkept implements device.Keeper.
func (d *Device) Unkept() error {
	for _, of := range []struct {
		mu    *sync.Mutex
		cache **nvrtc.Cache
	}{{&d.compile.mu, &d.compile.cache}, {&d.blas.mu, &d.blas.cache}, {&d.cudnn.mu, &d.cudnn.cache}, {&d.ways.mu, &d.ways.cache}} {
		of.mu.Lock()
		cache := *of.cache
		of.mu.Unlock()
		if cache == nil {
			continue
		}
		if err := cache.Problem(); err != nil {
			return fmt.Errorf("%w; set %s to a folder that can be written", err, nvrtc.CacheVariable)
		}
	}
	return nil
}

// on is the row of a kind of work. The lock is held.
func (s *spending) on(what string) *device.Spent {
	for i := range s.list {
		if s.list[i].What == what {
			return &s.list[i]
		}
	}
	s.list = append(s.list, device.Spent{What: what})
	return &s.list[len(s.list)-1]
}

// since adds the time since `began` to a kind of work; use it with defer.
func (s *spending) since(what string, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.on(what)
	row.Time += time.Since(began)
}

// expect notes that n more pieces of a kind of work are to come, or that so many will not, where it is negative.
func (s *spending) expect(what string, n int) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.on(what)
	row.Of = max(max(row.Of, row.Count)+n, row.Count)
}

// reached notes that nothing more of some kinds of work is to come: a choice may turn out to be made, and a product to have no algorithm.
func (s *spending) reached(kinds ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if slices.Contains(kinds, s.list[i].What) {
			s.list[i].Of = s.list[i].Count
		}
	}
}

// one counts a piece of the work, which took so long for itself.
func (s *spending) one(what, name string, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.on(what)
	row.Count++
	if took > row.Longest {
		row.Longest, row.Name = took, name
	}
}
