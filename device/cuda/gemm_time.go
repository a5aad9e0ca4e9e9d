package cuda

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device/cuda/cublaslt"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
)

// tuneStream is the number of the queue that algorithms are timed on.
const tuneStream = -2

// timeAlgorithms runs each algorithm on operands of its own and returns how long one product takes, or refused. The
// device's context is current.
func (d *Device) timeAlgorithms(x *cublaslt.Product, s gemmSpec, list []cublaslt.Algorithm) (times []time.Duration, err error) {
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
		return nil, err
	}
	defer func() {
		if e := d.api.Free(at); err == nil {
			err = e
		}
	}()
	r, err := d.newTrial()
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.noise(Addr(at), a+b+c); err != nil {
		return nil, err
	}
	beta, current := 0.0, -1
	if s.add {
		beta = 1
	}
	contenders := make([]contender, len(list))
	for i, l := range list {
		contenders[i] = func() error {
			if current != i {
				current = i
				x.Set(l, 1, beta)
			}
			y := uint64(at) + uint64(a+b)
			return x.Run(uint64(at), uint64(at)+uint64(a), y, y, y+uint64(c), l.Workspace, uintptr(r.stream.handle))
		}
	}
	return r.rounds(contenders)
}

// contender enqueues, on the stream of a trial, work that others do in another way.
type contender func() error

// trial is what contenders are timed with.
type trial struct {
	d        *Device
	stream   *Stream
	from, to driver.Event
}

// newTrial and what follows want the device's context to be current.
func (d *Device) newTrial() (*trial, error) {
	r := &trial{d: d}
	var err error
	if r.stream, err = d.stream(tuneStream); err != nil {
		return nil, err
	}
	if r.from, err = d.api.NewEvent(true); err != nil {
		return nil, err
	}
	if r.to, err = d.api.NewEvent(true); err != nil {
		_ = d.api.CloseEvent(r.from) // the first error tells why
		return nil, err
	}
	return r, nil
}

func (r *trial) close() {
	for _, e := range []driver.Event{r.from, r.to} {
		_ = r.d.api.CloseEvent(e) // of no use any more
	}
}

// noise are numbers of every type whose bits look random: as bfloat16 and float32 they are from 0.5 to 1 in magnitude, of either sign. A product of equal
// numbers takes less power than one of real operands, and runs at another clock. They are a prime number of words, so that rows of operands differ.
var noise = sync.OnceValue(func() []byte {
	const words = 262147
	b := make([]byte, 0, 4*words)
	for i := range uint32(words) {
		h := i * 0x9e3779b9
		h = (h ^ h>>16) * 0x85ebca6b
		h = (h ^ h>>13) * 0xc2b2ae35
		b = binary.LittleEndian.AppendUint32(b, (h^h>>16)&0x807f807f|0x3f003f00)
	}
	return b
})

// noise fills bytes with noise, again and again, by copies: a kernel would have to be compiled before the first trial.
func (r *trial) noise(at Addr, bytes int64) error {
	to, first := driver.Addr(at), noise()
	n := min(int64(len(first)), bytes)
	if err := r.d.send(to, first[:n]); err != nil {
		return err
	}
	for n < bytes {
		more := min(n, bytes-n)
		if err := r.d.api.CopyAny(to+driver.Addr(n), to, more, r.stream.handle); err != nil {
			return err
		}
		n += more
	}
	return nil
}

const (
	trialRounds = 3
	trialTime   = 500 * time.Microsecond // of an algorithm in a round, or two runs
	trialWarm   = 4 * time.Millisecond
	trialLong   = 200 * time.Microsecond // a run of at least so long tells by itself whether an algorithm can still win
)

// refused is the time of an algorithm that the library suggests and then refuses.
const refused = time.Duration(math.MaxInt64)

// fastest is the number of the algorithm to take. A later one must be faster by a hundredth, so noise does not beat the library's order. It is
// -1 where the library refused all.
func fastest(times []time.Duration) int {
	best, least := -1, refused
	for i, t := range times {
		if t < least-least/100 {
			best, least = i, t
		}
	}
	return best
}

// rounds times contenders in turn, several times over, and returns the best time of each: clocks change while a GPU warms up, and so
// they change for all. One that refuses to be enqueued has the time refused.
func (r *trial) rounds(list []contender) ([]time.Duration, error) {
	times, runs := make([]time.Duration, len(list)), make([]int, len(list))
	warmed := false
	for i, f := range list {
		times[i] = refused
		if _, err := r.batch(f, 1); errors.As(err, new(refusal)) { // loads the code
			continue
		} else if err != nil {
			return nil, err
		}
		one, err := r.batch(f, 1)
		if err != nil {
			return nil, err
		}
		if !warmed {
			warmed = true
			if one, err = r.batch(f, min(max(int(trialWarm/max(one, 1)), 2), 400)); err != nil {
				return nil, err
			}
		}
		times[i], runs[i] = one, min(max(int(trialTime/max(one, 1)), 2), 50)
	}
	if err := lookAgain(times, runs, func(i int) (time.Duration, error) { return r.batch(list[i], 1) }); err != nil {
		return nil, err
	}
	leave(times, runs)
	for range trialRounds {
		for i, f := range list {
			if runs[i] == 0 {
				continue
			}
			t, err := r.batch(f, runs[i])
			if err != nil {
				return nil, err
			}
			times[i] = min(times[i], t)
		}
	}
	return times, nil
}

// lookAgain runs those once more that would be given up, lest one of them only was held up by the host: what is chosen is kept on disk.
func lookAgain(times []time.Duration, runs []int, once func(i int) (time.Duration, error)) error {
	for i, slow := range behind(times, runs) {
		if !slow {
			continue
		}
		t, err := once(i)
		if err != nil {
			return err
		}
		times[i] = min(times[i], t)
	}
	return nil
}

// leave gives up, by setting their runs to 0, on contenders that are far behind: the products of a large head would be run eighty times otherwise. The others
// are timed from nothing.
func leave(times []time.Duration, runs []int) {
	for i, slow := range behind(times, runs) {
		switch {
		case slow:
			runs[i] = 0
		case runs[i] > 0:
			times[i] = refused
		}
	}
}

// behind tells which contenders have long runs and were a quarter slower than the best at the first look.
func behind(times []time.Duration, runs []int) []bool {
	least, out := refused, make([]bool, len(times))
	for _, t := range times {
		least = min(least, t)
	}
	for i, t := range times {
		out[i] = runs[i] > 0 && t >= trialLong && t > least+least/4
	}
	return out
}

// batch is the mean time of n runs. What f fails with is a refusal, unless the device is lost or had no memory for it.
func (r *trial) batch(f contender, n int) (time.Duration, error) {
	api, s := r.d.api, r.stream.handle
	if err := api.Record(r.from, s); err != nil {
		return 0, err
	}
	for range n {
		if err := f(); err != nil {
			return 0, r.refuses(err)
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
