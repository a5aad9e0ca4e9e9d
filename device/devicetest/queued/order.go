package queued

import (
	"errors"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// item is work in a queue.
type item struct {
	run    func() error
	stream int
	needs  []*item // of other streams
	done   bool

	recorded bool
	number   int // in a recording
}

// capture is a recording in progress: work in the order of the calls, each needing what came before it on its stream.
type capture struct {
	items  []*item
	last   [lanes]*item
	joined [lanes]bool
}

// enqueue adds work to a stream.
func (d *Device) enqueue(stream int, run func() error, needs ...*item) *item {
	d.mu.Lock()
	defer d.mu.Unlock()
	it := &item{run: run, stream: stream, needs: needs}
	r := d.record
	if r == nil || !r.joined[stream] {
		d.queues[stream] = append(d.queues[stream], it)
		return it
	}
	if last := r.last[stream]; last != nil {
		it.needs = append(it.needs, last)
	}
	it.recorded, it.number = true, len(r.items)
	r.items, r.last[stream] = append(r.items, it), it
	return it
}

// wait makes later work of a stream wait for an item. Within a recording it makes the stream part of it.
func (d *Device) wait(stream int, before *item) error {
	if r := d.record; r != nil {
		if r.joined[stream] && !before.recorded {
			return errors.New("queued: a recording waits for work outside it")
		}
		r.joined[stream] = r.joined[stream] || before.recorded
	}
	d.enqueue(stream, func() error { return nil }, before)
	return nil
}

// drain does what is in the queue of a stream.
func (d *Device) drain(stream int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.record != nil && d.record.joined[stream] {
		return errors.New("queued: waiting is not allowed while launches are recorded")
	}
	for len(d.queues[stream]) > 0 && d.lost == nil {
		d.advance(stream)
	}
	return d.lost
}

func (d *Device) drainAll() error {
	var err error
	for i := range lanes {
		err = errors.Join(err, d.drain(i))
	}
	return err
}

// await works until an item is done.
func (d *Device) await(it *item) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !it.done && d.lost == nil {
		d.advance(it.stream)
	}
	return d.lost
}

// advance does the next item of a stream, after what it needs. With an order, other streams get ahead by chance.
func (d *Device) advance(stream int) {
	for d.opts.Order > 0 && d.rng.IntN(2) == 0 {
		if other := d.rng.IntN(lanes); other != stream && len(d.queues[other]) > 0 && d.lost == nil && ready(d.queues[other][0]) {
			d.next(other)
		}
	}
	if len(d.queues[stream]) == 0 {
		d.lost = errors.New("queued: an event that was never recorded")
		return
	}
	for _, n := range d.queues[stream][0].needs {
		for !n.done && d.lost == nil {
			d.advance(n.stream)
		}
	}
	if d.lost == nil && len(d.queues[stream]) > 0 {
		d.next(stream)
	}
}

func ready(it *item) bool {
	for _, n := range it.needs {
		if !n.done {
			return false
		}
	}
	return true
}

// next does the first item of a stream.
func (d *Device) next(stream int) {
	it := d.queues[stream][0]
	d.queues[stream] = d.queues[stream][1:]
	if stream > 0 {
		d.Beside++
	}
	d.lost = it.run()
	it.done = true
}

// Capture implements device.Capturer.
func (d *Device) Capture(s device.Stream, record func() error) (device.Graph, error) {
	d.Captures++
	on := s.(stream).i
	r := &capture{}
	r.joined[on] = true
	d.record = r
	err := record()
	d.record = nil
	if err != nil {
		return nil, err
	}
	before := map[*item]bool{}
	var follow func(it *item)
	follow = func(it *item) {
		if it == nil || before[it] {
			return
		}
		before[it] = true
		for _, n := range it.needs {
			follow(n)
		}
	}
	follow(r.last[on])
	for _, it := range r.last {
		if it != nil && !before[it] {
			return nil, errors.New("queued: a recording ends with work on another stream that its own has not waited for")
		}
	}
	return &recorded{dev: d, items: r.items}, nil
}

type recorded struct {
	dev   *Device
	items []*item
	free  bool
}

// Launch implements device.Graph.
func (r *recorded) Launch(s device.Stream) error {
	if r.free {
		return errors.New("queued: a freed graph is launched")
	}
	r.dev.Replays++
	r.dev.enqueue(s.(stream).i, r.replay)
	return nil
}

// replay does the items in an order that their needs allow: a random one, or else those of lower streams as early as possible.
func (r *recorded) replay() error {
	missing, after := make([]int, len(r.items)), make([][]*item, len(r.items))
	var free []*item
	for _, it := range r.items {
		for _, n := range it.needs {
			after[n.number] = append(after[n.number], it)
		}
		if missing[it.number] = len(it.needs); len(it.needs) == 0 {
			free = append(free, it)
		}
	}
	for len(free) > 0 {
		k := 0
		for i, f := range free {
			if f.stream < free[k].stream {
				k = i
			}
		}
		if r.dev.opts.Order > 0 {
			k = r.dev.rng.IntN(len(free))
		}
		it := free[k]
		free = slices.Delete(free, k, k+1)
		if it.stream > 0 {
			r.dev.Beside++
		}
		if err := it.run(); err != nil {
			return err
		}
		for _, next := range after[it.number] {
			if missing[next.number]--; missing[next.number] == 0 {
				free = append(free, next)
			}
		}
	}
	return nil
}

// Free implements device.Graph.
func (r *recorded) Free() error {
	r.free = true
	return r.dev.drainAll()
}
