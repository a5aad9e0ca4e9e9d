package cuda

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
)

// Arena is memory that grows at its address: a range is reserved once, and pages are mapped behind those that are there.
type Arena struct {
	region
	limit  int64
	page   int64
	pieces []arenaPiece
}

type arenaPiece struct {
	at     driver.Addr
	bytes  int64
	memory driver.Physical
}

// PageBytes implements device.Reserver: 2 MiB on the GPUs of today.
func (d *Device) PageBytes() int64 {
	var page int64
	err := d.enter(func() (err error) {
		page, err = d.page()
		return err
	})
	if err != nil {
		return 0
	}
	return page
}

// page is called inside enter.
func (d *Device) page() (int64, error) {
	if ok, err := d.api.DeviceAttr(d.number, driver.AttrVirtualMemory); err != nil || ok == 0 {
		return 0, errors.Join(err, fmt.Errorf("%s cannot map memory at reserved addresses", d.name))
	}
	return d.api.PageSize(d.number)
}

// Reserve implements device.Reserver. The limit is rounded up to whole pages (2 MiB); reserving takes no memory.
func (d *Device) Reserve(limit int64) (device.Growable, error) {
	if limit < 0 || limit > 1<<46 {
		return nil, fmt.Errorf("cuda: reserving %d bytes of addresses", limit)
	}
	a := &Arena{}
	a.dev = d
	err := d.enter(func() error {
		page, err := d.page()
		if err != nil {
			return err
		}
		a.page, a.limit = page, max((limit+page-1)/page*page, page)
		if a.base, err = d.api.Reserve(a.limit); err != nil {
			return fmt.Errorf("reserving %s of addresses: %w", size(a.limit), err)
		}
		a.release = a.unmap
		return d.remember(&a.region)
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Grow implements device.Growable. Nothing waits but the clearing of the new bytes.
func (a *Arena) Grow(bytes int64) error {
	if a.freed.Load() {
		return errors.New("cuda: a buffer that was freed")
	}
	have := a.Size()
	if bytes <= have {
		return nil
	}
	if bytes > a.limit {
		return fmt.Errorf("cuda: growing to %s a range that was reserved for %s", size(bytes), size(a.limit))
	}
	more := (bytes - have + a.page - 1) / a.page * a.page
	d := a.dev
	err := d.enter(func() error {
		m, err := d.api.Create(d.number, more)
		if err != nil {
			return d.noMemory(err, more)
		}
		at := a.base + driver.Addr(have)
		if err := d.api.Map(d.number, at, more, m); err != nil {
			return errors.Join(fmt.Errorf("mapping %s: %w", size(more), err), d.api.ReleaseMemory(m))
		}
		a.pieces = append(a.pieces, arenaPiece{at, more, m})
		return d.clear(at, more)
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	a.counted += more
	d.allocated += more
	d.mu.Unlock()
	a.size.Store(have + more)
	return nil
}

// unmap waits for all work: nothing else guards pages that are still in use.
func (a *Arena) unmap() error {
	d := a.dev
	err := d.api.SyncContext()
	for _, p := range a.pieces {
		err = errors.Join(err, d.api.Unmap(p.at, p.bytes), d.api.ReleaseMemory(p.memory))
	}
	a.pieces = nil
	return errors.Join(err, d.api.Unreserve(a.base, a.limit))
}
