package cuda

import (
	"errors"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
)

// timing is the state of a stream's marks.
type timing struct {
	start  driver.Event
	events []driver.Event
	used   int
	marks  []device.Mark
}

var errMarks = errors.New("cuda: more marks than were reserved")

// Reserve implements device.Timer.
func (s *Stream) Reserve(n int) error {
	return s.plain("Reserve", func() error {
		t, api := &s.timing, s.dev.api
		for t.start == 0 || len(t.events) < n {
			e, err := api.NewEvent(true)
			if err != nil {
				return err
			}
			if t.start == 0 {
				t.start = e
				continue
			}
			t.events = append(t.events, e)
		}
		t.used = 0
		return api.Record(t.start, s.handle)
	})
}

// Mark implements device.Timer.
func (s *Stream) Mark() error {
	t := &s.timing
	if t.used == len(t.events) {
		return errMarks
	}
	t.used++
	return s.plain("Mark", func() error { return s.dev.api.Record(t.events[t.used-1], s.handle) })
}

// Marks implements device.Timer. Times are measured from mark to mark and added, as those of CUDA lose digits when they are long. The
// device does not tell how busy its multiprocessors are.
func (s *Stream) Marks() ([]device.Mark, error) {
	t, api := &s.timing, s.dev.api
	t.marks = t.marks[:0]
	err := s.plain("Marks", func() error {
		if t.used == 0 {
			return nil
		}
		if err := api.SyncEvent(t.events[t.used-1]); err != nil {
			return err
		}
		from, at := t.start, time.Duration(0)
		for _, e := range t.events[:t.used] {
			d, err := api.Elapsed(from, e)
			if err != nil {
				return err
			}
			at += max(d, 1)
			from = e
			t.marks = append(t.marks, device.Mark{At: at})
		}
		return nil
	})
	t.used = 0
	return t.marks, err
}

func (t *timing) close(api *driver.API) error {
	var errs []error
	if t.start != 0 {
		errs = append(errs, api.CloseEvent(t.start))
	}
	for _, e := range t.events {
		errs = append(errs, api.CloseEvent(e))
	}
	*t = timing{}
	return errors.Join(errs...)
}
