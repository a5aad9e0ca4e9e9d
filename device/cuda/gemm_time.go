package cuda

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device/cuda/cublaslt"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
)

// noMemoryError says that there was no room to try algorithms in.
type noMemoryError struct{ err error }

func (e *noMemoryError) Error() string {
	return fmt.Sprintf("no memory to time products in: %v", e.err)
}
func (e *noMemoryError) Unwrap() error { return e.err }

// tuneStream is the number of the queue that algorithms are timed on.
const tuneStream = -2

// timeAlgorithms runs each algorithm on operands of its own and returns how long one product takes; one that fails takes for ever. The
// device's context is current.
func (d *Device) timeAlgorithms(x *cublaslt.Product, s gemmSpec, list []cublaslt.Algorithm) ([]time.Duration, error) {
	bytes := func(m gemmMat, rows, cols int) int64 {
		if m.trans {
			rows = cols
		}
		return aligned((int64(s.batch-1)*m.stride + int64(rows)*int64(m.ld)) * int64(m.dtype.Size()))
	}
	a, b, c := bytes(s.a, s.m, s.k), bytes(s.b, s.k, s.n), bytes(s.c, s.m, s.n)
	work := int64(0)
	for _, l := range list {
		work = max(work, aligned(l.Workspace))
	}
	at, err := d.api.Alloc(a + b + c + work)
	if err != nil {
		return nil, &noMemoryError{err}
	}
	r := &trial{d: d, x: x, a: at, b: at + driver.Addr(a), c: at + driver.Addr(a+b), work: at + driver.Addr(a+b+c), add: s.add}
	times, err := r.run(list, a+b+c)
	if e := d.api.Free(at); err == nil {
		err = e
	}
	return times, err
}

// trial is what algorithms are timed with.
type trial struct {
	d             *Device
	x             *cublaslt.Product
	a, b, c, work driver.Addr
	add           bool
	stream        *Stream
	from, to      driver.Event
}

func (r *trial) run(list []cublaslt.Algorithm, bytes int64) (times []time.Duration, err error) {
	if r.stream, err = r.d.stream(tuneStream); err != nil {
		return nil, err
	}
	api := r.d.api
	for _, e := range []*driver.Event{&r.from, &r.to} {
		if *e, err = api.NewEvent(true); err != nil {
			return nil, err
		}
		defer func(e driver.Event) { _ = api.CloseEvent(e) }(*e) // of no use any more
	}
	// The byte 0x3c makes small numbers of every type; zeros would spare the units work and time nothing that matters.
	if err := api.Set(r.a, 0x3c, bytes, r.stream.handle); err != nil {
		return nil, err
	}
	for _, a := range list {
		t, err := r.time(a)
		if err != nil {
			return nil, err
		}
		times = append(times, t)
	}
	return times, nil
}

// time runs an algorithm once to load it, once to estimate, and then for about a third of a millisecond.
func (r *trial) time(a cublaslt.Algorithm) (time.Duration, error) {
	const budget = 300 * time.Microsecond
	beta := 0.0
	if r.add {
		beta = 1
	}
	r.x.Set(a, 1, beta)
	if _, err := r.batch(a, 1); err != nil {
		return time.Hour, nil //nolint:nilerr // the library may suggest what it then refuses
	}
	one, err := r.batch(a, 2)
	if err != nil {
		return 0, err
	}
	return r.batch(a, min(max(int(budget/max(one, 1)), 2), 30))
}

// batch is the mean time of n runs.
func (r *trial) batch(a cublaslt.Algorithm, n int) (time.Duration, error) {
	api, s := r.d.api, r.stream.handle
	if err := api.Record(r.from, s); err != nil {
		return 0, err
	}
	for range n {
		if err := r.x.Run(uint64(r.a), uint64(r.b), uint64(r.c), uint64(r.c), uint64(r.work), a.Workspace, uintptr(s)); err != nil {
			return 0, err
		}
	}
	if err := api.Record(r.to, s); err != nil {
		return 0, err
	}
	if err := api.SyncEvent(r.to); err != nil {
		return 0, err
	}
	t, err := api.Elapsed(r.from, r.to)
	return t / time.Duration(n), err
}

func choiceKey(key string) [32]byte { return sha256.Sum256([]byte(key)) }

// encodeChoice is the algorithm's words, its workspace and what it is for.
func encodeChoice(a cublaslt.Algorithm, key string) []byte {
	b := new(bytes.Buffer)
	_ = binary.Write(b, binary.LittleEndian, a.Data)      // a buffer takes everything
	_ = binary.Write(b, binary.LittleEndian, a.Workspace) // likewise
	b.WriteString(key)
	return b.Bytes()
}

// decodeChoice reads what encodeChoice wrote; false if it is for something else.
func decodeChoice(image []byte, key string) (cublaslt.Algorithm, bool) {
	var a cublaslt.Algorithm
	r := bytes.NewReader(image)
	if binary.Read(r, binary.LittleEndian, &a.Data) != nil || binary.Read(r, binary.LittleEndian, &a.Workspace) != nil {
		return a, false
	}
	return a, a.Workspace >= 0 && string(image[len(image)-r.Len():]) == key
}
