package cuda

import (
	"errors"
	"runtime"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

// staging is pinned memory that copies between Go memory and the device go through. Uploads take pieces of a ring, one after another, and wait
// only for a piece that a copy still reads; so many small uploads queue up behind a running step without waiting for it.
type staging struct {
	host     uintptr
	ring     []byte
	landing  []byte // for small downloads
	head     int
	inFlight []piece // in the order of the ring
	spare    []driver.Event
}

// piece is a part of the ring until its copy is done.
type piece struct {
	from, to int
	done     driver.Event
}

const (
	ringBytes    = 16 << 20
	pieceBytes   = 4 << 20
	landingBytes = 64 << 10
)

func (g *staging) open(api *driver.API) error {
	if g.ring != nil {
		return nil
	}
	host, _, err := api.AllocHost(ringBytes + landingBytes)
	if err != nil {
		return err
	}
	all := ffi.Memory(host, ringBytes+landingBytes)
	g.host, g.ring, g.landing = host, all[:ringBytes:ringBytes], all[ringBytes:]
	return nil
}

func (g *staging) close(api *driver.API) error {
	var errs []error
	for _, p := range g.inFlight {
		errs = append(errs, api.CloseEvent(p.done))
	}
	for _, e := range g.spare {
		errs = append(errs, api.CloseEvent(e))
	}
	if g.host != 0 {
		errs = append(errs, api.FreeHostMemory(g.host))
	}
	*g = staging{}
	return errors.Join(errs...)
}

// take returns the offset of n free bytes of the ring, n <= pieceBytes.
func (g *staging) take(api *driver.API, n int) (int, error) {
	from := g.head
	if from+n > len(g.ring) {
		from = 0
	}
	for len(g.inFlight) > 0 {
		p := g.inFlight[0]
		if p.from < from+n && from < p.to || from < g.head && p.from >= g.head {
			if err := api.SyncEvent(p.done); err != nil {
				return 0, err
			}
			g.retire()
			continue
		}
		break
	}
	g.head = from + n
	return from, nil
}

func (g *staging) retire() {
	g.spare = append(g.spare, g.inFlight[0].done)
	g.inFlight = append(g.inFlight[:0], g.inFlight[1:]...)
}

// sent marks a piece as in use until the stream has come here.
func (g *staging) sent(api *driver.API, s driver.Stream, from, n int) error {
	var e driver.Event
	if k := len(g.spare); k > 0 {
		e, g.spare = g.spare[k-1], g.spare[:k-1]
	} else {
		var err error
		if e, err = api.NewEvent(false); err != nil {
			return err
		}
	}
	g.inFlight = append(g.inFlight, piece{from, from + n, e})
	return api.Record(e, s)
}

// Upload implements device.Stream.
func (s *Stream) Upload(dst device.Ptr, src []byte) error {
	at, err := s.dev.address(dst, int64(len(src)))
	if err != nil || len(src) == 0 {
		return err
	}
	return s.plain("Upload", func() error {
		api, g := s.dev.api, &s.stage
		if err := g.open(api); err != nil {
			return err
		}
		for len(src) > 0 {
			n := min(len(src), pieceBytes)
			from, err := g.take(api, n)
			if err != nil {
				return err
			}
			copyWide(g.ring[from:from+n], src[:n])
			if err := api.Upload(driver.Addr(at), g.host+uintptr(from), int64(n), s.handle); err != nil {
				return err
			}
			if err := g.sent(api, s.handle, from, (n+63)&^63); err != nil {
				return err
			}
			g.head = min((g.head+63)&^63, len(g.ring))
			src, at = src[n:], at+Addr(n)
		}
		return nil
	})
}

// Download implements device.Stream.
func (s *Stream) Download(dst []byte, src device.Ptr) error {
	at, err := s.dev.address(src, int64(len(dst)))
	if err != nil {
		return err
	}
	return s.plain("Download", func() error {
		api, g := s.dev.api, &s.stage
		if err := g.open(api); err != nil || len(dst) == 0 {
			return errors.Join(err, api.Sync(s.handle))
		}
		if len(dst) <= landingBytes {
			if err := api.Download(g.host+ringBytes, driver.Addr(at), int64(len(dst)), s.handle); err != nil {
				return err
			}
			err := api.Sync(s.handle)
			copy(dst, g.landing)
			return err
		}
		return g.fetch(api, s.handle, dst, at)
	})
}

// fetch downloads by pieces through the ring: while one is copied to its place the next is under way.
func (g *staging) fetch(api *driver.API, s driver.Stream, dst []byte, at Addr) error {
	if err := api.Sync(s); err != nil {
		return err
	}
	for len(g.inFlight) > 0 { // all done: the stream is empty
		g.retire()
	}
	g.head = 0
	request := func(i int) error {
		from := i * pieceBytes
		if from >= len(dst) {
			return nil
		}
		n := min(len(dst)-from, pieceBytes)
		slot := i % (ringBytes / pieceBytes) * pieceBytes
		if err := api.Download(g.host+uintptr(slot), driver.Addr(at)+driver.Addr(from), int64(n), s); err != nil {
			return err
		}
		return g.sent(api, s, slot, n)
	}
	for i := range 3 {
		if err := request(i); err != nil {
			return err
		}
	}
	for i := 0; i*pieceBytes < len(dst); i++ {
		if err := api.SyncEvent(g.inFlight[0].done); err != nil {
			return err
		}
		p := g.inFlight[0]
		copyWide(dst[i*pieceBytes:], g.ring[p.from:p.to])
		g.retire()
		if err := request(i + 3); err != nil {
			return err
		}
	}
	return nil
}

// copyWide copies with several threads where that pays: source or target is often a file's memory map, whose pages are brought in one by
// one, and the bus is faster than one core.
func copyWide(dst, src []byte) {
	const least = 512 << 10
	n := min(len(dst), len(src))
	parts := min(n/least, runtime.GOMAXPROCS(0), 8)
	if parts < 2 {
		copy(dst, src)
		return
	}
	var wg sync.WaitGroup
	for i := range parts {
		lo, hi := n*i/parts, n*(i+1)/parts
		wg.Go(func() { copy(dst[lo:hi], src[lo:hi]) })
	}
	wg.Wait()
}
