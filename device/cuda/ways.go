package cuda

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/kernels"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
)

// way is one of the kernels that can compute an op. Where several can and no rule says which is faster, they are timed once.
type way struct {
	name  string
	build func() (*Kernel, error)
}

// waysChosen are the choices among ways, by what they were made for; on disk, too.
type waysChosen struct {
	mu     sync.Mutex
	cache  *nvrtc.Cache
	chosen map[string]string
}

// pick builds the way that was the fastest for `what` on this kind of device, by a trial the first time. The first way is the rule's: it is taken by a
// deterministic device, where there is no library to compare with or no memory to try in, and where it is the only one. what names the op and
// everything that its time depends on.
func (d *Device) pick(what string, s device.Spec, ways []way) (*Kernel, error) {
	if len(ways) == 1 || d.Deterministic() {
		return ways[0].build()
	}
	lib, err := d.library()
	if err != nil {
		if err := ended(err); err != nil {
			return nil, err
		}
		return ways[0].build() // doctor shows why there is no library
	}
	names := make([]string, len(ways))
	for i, w := range ways {
		names[i] = w.name
	}
	key := fmt.Sprintf("ways %s, kernels %x, cublaslt %d, %s, %d processors: %s", strings.Join(names, " "), kernelsDigest(), lib.Library().Version(), d.name, d.sms, what)
	return d.pickBy(key, s, ways, nil)
}

// kernelsDigest is a digest of the kernels' sources: other kernels, other times.
var kernelsDigest = sync.OnceValue(func() []byte {
	h := sha256.New()
	names, _ := kernels.Files.ReadDir(".") // what is embedded can be read
	for _, n := range names {
		text, _ := kernels.Files.ReadFile(n.Name())
		h.Write(text)
	}
	return h.Sum(nil)[:8]
})

// pickBy is pick with all that the choice depends on in the key. A trial's operands are noise; place, where it is given, puts others into calls.
func (d *Device) pickBy(key string, s device.Spec, ways []way, place func(*Call)) (*Kernel, error) {
	if name, ok := d.ways.remembered(key); ok {
		for _, w := range ways {
			if w.name == name {
				return w.build()
			}
		}
	}
	built := make([]*Kernel, len(ways))
	for i, w := range ways {
		var err error
		if built[i], err = w.build(); err != nil {
			return nil, err
		}
	}
	if left := d.drafting(); left != nil {
		left.open, left.trials = true, append(left.trials, key)
		return built[0], nil
	}
	best, err := d.race(s, built, place)
	switch {
	case outOfMemory(err):
		return built[0], nil // not kept: next time there may be room
	case err != nil:
		return nil, fmt.Errorf("timing kernels of %s: %w", s.Op.Name(), err)
	case best < 0:
		return built[0], nil // its own launch will say why
	}
	d.ways.keep(key, ways[best].name)
	return built[best], nil
}

// race returns the number of the fastest kernel of a spec, -1 if none could be launched. They run on operands of their own, several sets in turn, so that
// a GPU's last cache holds no more of them than in a step.
func (d *Device) race(s device.Spec, list []*Kernel, place func(*Call)) (best int, err error) {
	in, out := sizes(s.In), sizes(s.Out)
	each, scratch := int64(0), int64(0)
	for _, n := range append(append([]int64{}, in...), out...) {
		each += aligned(n)
	}
	for _, k := range list {
		scratch = max(scratch, aligned(k.ScratchBytes))
	}
	sets := int(min(max(2*d.l2/max(each, 1), 1), 8))
	best = -1
	d.compileNeeds()
	began := time.Now()
	defer func() {
		d.spent.since(spentWays, began)
		d.spent.one(spentWays, s.Op.Name(), time.Since(began))
	}()
	err = d.enter(func() (err error) {
		at, err := d.api.Alloc(int64(sets)*each + scratch)
		if err != nil {
			return err
		}
		defer func() {
			if e := d.api.Free(at); err == nil {
				err = e
			}
		}()
		r, err := d.newTrial()
		if err != nil {
			return err
		}
		defer r.close()
		if err := r.noise(Addr(at), int64(sets)*each); err != nil {
			return err
		}
		calls := operandSets(at, sets, in, out)
		for i := range calls {
			if place != nil {
				place(&calls[i])
			}
		}
		times, err := r.rounds(contenders(r, list, calls, Addr(at)+Addr(int64(sets)*each)))
		best = fastest(times)
		return err
	})
	return best, err
}

// operandSets lays out operands one after the other.
func operandSets(at driver.Addr, sets int, in, out []int64) []Call {
	calls, next := make([]Call, sets), Addr(at)
	place := func(of []int64) []Addr {
		to := make([]Addr, len(of))
		for i, n := range of {
			if n > 0 {
				to[i] = next
			}
			next += Addr(aligned(n))
		}
		return to
	}
	for i := range calls {
		calls[i] = Call{In: place(in), Out: place(out)}
	}
	return calls
}

// contenders launch kernels on sets of operands in turn.
func contenders(r *trial, of []*Kernel, sets []Call, scratch Addr) []contender {
	list := make([]contender, len(of))
	for i, k := range of {
		turn := 0
		list[i] = func() error {
			c := sets[turn%len(sets)]
			turn++
			c.Scratch, c.Dev, c.Stream = scratch, r.d, r.stream
			return k.Enqueue(&c)
		}
	}
	return list
}

// remembered finds a choice in memory or on disk.
func (w *waysChosen) remembered(key string) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if name, ok := w.chosen[key]; ok {
		return name, true
	}
	image, ok := w.disk().Get(sha256.Sum256([]byte(key)))
	if !ok {
		return "", false
	}
	name, of, _ := strings.Cut(string(image), "\n")
	return name, of == key
}

func (w *waysChosen) keep(key, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chosen == nil {
		w.chosen = map[string]string{}
	}
	w.chosen[key] = name
	w.disk().Put(sha256.Sum256([]byte(key)), []byte(name+"\n"+key))
}

// disk is the cache's folder. The lock is held.
func (w *waysChosen) disk() *nvrtc.Cache {
	if w.cache == nil {
		w.cache = nvrtc.NewCacheOf("ways")
	}
	return w.cache
}
