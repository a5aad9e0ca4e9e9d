package cuda

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
)

// recording is a capture under way. It is touched by the goroutine that records only.
type recording struct {
	streams []*Stream
}

// join makes a stream part of the recording.
func (r *recording) join(s *Stream) {
	if s.record == nil {
		s.record = r
		r.streams = append(r.streams, s)
	}
}

// Capture implements device.Capturer.
func (d *Device) Capture(on device.Stream, record func() error) (device.Graph, error) {
	s, ok := on.(*Stream)
	if !ok || s.dev != d {
		return nil, errors.New("cuda: recording on a stream of another device")
	}
	if s.record != nil {
		return nil, errors.New("cuda: the stream is being recorded already")
	}
	g := &Graph{dev: d}
	// A recording ends on the thread where it began.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := s.enter(func() error {
		if err := d.api.BeginCapturing(s.handle); err != nil {
			return err
		}
		raw, err := d.recorded(s, record)
		if err != nil {
			return err
		}
		g.nodes, err = d.api.Nodes(raw)
		if err == nil {
			g.exec, err = d.api.Prepare(raw)
		}
		return errors.Join(err, d.api.CloseGraph(raw))
	})
	if err != nil {
		return nil, fmt.Errorf("recording a graph: %w", err)
	}
	d.mu.Lock()
	d.graphs[g] = struct{}{}
	d.mu.Unlock()
	return g, nil
}

// recorded runs record and ends the capture, also when record fails or panics.
func (d *Device) recorded(s *Stream, record func() error) (raw driver.Graph, err error) {
	r := &recording{}
	r.join(s)
	ended := false
	end := func() (driver.Graph, error) {
		ended = true
		for _, joined := range r.streams {
			joined.record = nil
		}
		return d.api.EndCapturing(s.handle)
	}
	defer func() {
		if !ended { // a panic goes on; the stream must not stay in a recording
			if g, err := end(); err == nil && g != 0 {
				_ = d.api.CloseGraph(g) // the panic is what counts
			}
		}
	}()
	recordErr := record()
	raw, err = end()
	if recordErr == nil && err == nil && raw == 0 {
		err = errors.New("the driver gave no graph")
	}
	if recordErr != nil || err != nil {
		if raw != 0 {
			err = errors.Join(err, d.api.CloseGraph(raw))
		}
		return 0, errors.Join(recordErr, err)
	}
	return raw, nil
}

// Graph is recorded work.
type Graph struct {
	dev   *Device
	exec  driver.GraphExec
	nodes int
	last  *Stream
}

// Nodes is how many launches, copies and fills it has.
func (g *Graph) Nodes() int { return g.nodes }

// Launch implements device.Graph.
func (g *Graph) Launch(on device.Stream) error {
	s, ok := on.(*Stream)
	if !ok || s.dev != g.dev {
		return errors.New("cuda: a graph was launched on a stream of another device")
	}
	if g.exec == 0 {
		return errors.New("cuda: a graph that was freed")
	}
	g.last = s
	return s.plain("Launch of a graph", func() error { return g.dev.api.LaunchGraph(g.exec, s.handle) })
}

// Free implements device.Graph.
func (g *Graph) Free() error {
	if g.exec == 0 {
		return nil
	}
	exec := g.exec
	g.exec = 0
	d := g.dev
	d.mu.Lock()
	delete(d.graphs, g)
	d.mu.Unlock()
	if d.lost.Load() != nil {
		return nil
	}
	return d.enter(func() error {
		var err error
		if g.last != nil {
			err = d.api.Sync(g.last.handle)
		}
		return errors.Join(err, d.api.CloseExec(exec))
	})
}
