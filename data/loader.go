package data

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"
)

// LoaderOptions say how a set becomes steps. The zero value makes one pass, one row a step, in file order, without packing.
type LoaderOptions struct {
	SeqLen     int    // row length when packing, longest bucket else; 0 = the set's
	MicroBatch int    // rows of one Batch, of a set of pairs its pairs (a Batch has twice as many rows); 0 = Batch
	Batch      int    // rows or pairs of a step, over all micro-batches and ranks (packed rows when packing); 0 = 1
	Pack       bool   // put several examples into a row of exactly SeqLen; pairs are never packed
	Shuffle    bool   // another order each epoch
	Seed       uint64 // of the order
	Epochs     int    // passes over the data; 0 = 1
	Steps      int    // above 0: the number of steps, whatever Epochs says
	PadID      int32  // token id of padding
	Buckets    []int  // without packing: the lengths that a micro-batch is padded to; nil = DefaultBuckets(SeqLen)
}

const (
	maxEpochs  = 1 << 20
	maxBuckets = 8
	minBucket  = 16
)

// DefaultBuckets are the powers of two from 16 up to seqLen, and seqLen itself: the longest eight, ascending.
func DefaultBuckets(seqLen int) []int {
	out := []int{seqLen}
	p := minBucket
	for p <= seqLen/2 {
		p *= 2
	}
	for ; p >= minBucket && len(out) < maxBuckets; p /= 2 {
		if p < seqLen {
			out = append(out, p)
		}
	}
	slices.Reverse(out)
	return out
}

// Loader maps steps to batches. It keeps no position: every answer depends on the set, the options and the question alone. It is
// safe for concurrent use.
type Loader struct {
	set     *Set
	opt     LoaderOptions
	buckets []int

	// What follows only caches pure functions of the options.
	mu    sync.Mutex
	ends  []int // steps up to and with each epoch
	plans [2]struct {
		epoch int
		plan  *rowPlan
	}
}

// NewLoader checks the options and plans the epochs.
func NewLoader(set *Set, opt LoaderOptions) (*Loader, error) {
	if set == nil || set.Len() == 0 {
		return nil, fmt.Errorf("data: the set is empty; give it more rows or hold fewer out")
	}
	opt.Pack = opt.Pack && !set.st.pairs
	opt, err := opt.withDefaults(set.SeqLen())
	if err != nil {
		return nil, err
	}
	l := &Loader{set: set, opt: opt}
	for _, id := range set.rows {
		if n := l.docLen(id); n > opt.SeqLen {
			return nil, fmt.Errorf("data: an example has %d tokens, the loader's seq_len is %d; load the data with the same seq_len", n, opt.SeqLen)
		}
	}
	l.buckets = l.inUse()
	if n := l.entries(); n > math.MaxInt32 || n < 1 {
		return nil, fmt.Errorf("data: the weights make %d rows an epoch; must be from 1 to 2^31", n)
	}
	if opt.Steps == 0 {
		l.extend(func() bool { return len(l.ends) < opt.Epochs })
	}
	return l, nil
}

func (o LoaderOptions) withDefaults(seqLen int) (LoaderOptions, error) {
	if o.SeqLen == 0 {
		o.SeqLen = seqLen
	}
	o.Batch = max(o.Batch, 0)
	if o.Batch == 0 {
		o.Batch = max(o.MicroBatch, 1)
	}
	if o.MicroBatch == 0 {
		o.MicroBatch = o.Batch
	}
	if o.Epochs == 0 {
		o.Epochs = 1
	}
	o.Buckets = slices.Clone(o.Buckets)
	switch {
	case o.Pack:
		o.Buckets = []int{o.SeqLen}
	case len(o.Buckets) == 0:
		o.Buckets = DefaultBuckets(o.SeqLen)
	}
	slices.Sort(o.Buckets)
	o.Buckets = slices.Compact(o.Buckets)
	switch {
	case o.SeqLen < 2:
		return o, fmt.Errorf("data: seq_len %d: must be at least 2", o.SeqLen)
	case o.MicroBatch < 1 || o.MicroBatch > o.Batch:
		return o, fmt.Errorf("data: micro_batch %d: must be from 1 to batch %d", o.MicroBatch, o.Batch)
	case o.Batch > math.MaxInt32 || o.MicroBatch > math.MaxInt32/o.SeqLen:
		return o, fmt.Errorf("data: micro_batch %d of seq_len %d: more than 2^31 tokens", o.MicroBatch, o.SeqLen)
	case o.Epochs < 1 || o.Epochs > maxEpochs:
		return o, fmt.Errorf("data: epochs %d: must be from 1 to %d", o.Epochs, maxEpochs)
	case o.Steps < 0:
		return o, fmt.Errorf("data: steps %d is negative; give 0 to count epochs", o.Steps)
	case o.Buckets[0] < 2 || o.Buckets[len(o.Buckets)-1] != o.SeqLen:
		return o, fmt.Errorf("data: buckets %v: must be at least 2, and the longest equal to seq_len %d", o.Buckets, o.SeqLen)
	}
	return o, nil
}

// Steps is the number of steps in the whole run.
func (l *Loader) Steps() int {
	if l.opt.Steps > 0 {
		return l.opt.Steps
	}
	return l.ends[len(l.ends)-1]
}

// StepsPerEpoch is the number of steps of the first epoch. Packing can make another epoch a step longer or shorter.
func (l *Loader) StepsPerEpoch() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.extend(func() bool { return len(l.ends) < 1 })
	return l.ends[0]
}

// MicroBatches is the number of micro-batches of every step; the last may be part padding.
func (l *Loader) MicroBatches() int { return (l.opt.Batch + l.opt.MicroBatch - 1) / l.opt.MicroBatch }

// inUse are the buckets that some row needs: a plan is compiled for each, and those of no row would cost as much.
func (l *Loader) inUse() []int {
	if l.opt.Pack {
		return l.opt.Buckets
	}
	used := make([]bool, len(l.opt.Buckets))
	for _, id := range l.set.rows {
		used[sort.SearchInts(l.opt.Buckets, l.docLen(id))] = true
	}
	var out []int
	for i, t := range l.opt.Buckets {
		if used[i] {
			out = append(out, t)
		}
	}
	return out
}

// Buckets are the values that Batch.T can take, ascending: without packing those of the options that some row of the set needs.
func (l *Loader) Buckets() []int { return slices.Clone(l.buckets) }

// Epoch says which epoch a step belongs to and which of its steps it is, both counted from 0.
func (l *Loader) Epoch(step int) (epoch, in int, err error) {
	if step < 0 || step >= l.Steps() {
		return 0, 0, fmt.Errorf("data: step %d is not in [0, %d)", step, l.Steps())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.extend(func() bool { return len(l.ends) == 0 || l.ends[len(l.ends)-1] <= step })
	epoch = sort.SearchInts(l.ends, step+1)
	if epoch > 0 {
		step -= l.ends[epoch-1]
	}
	return epoch, step, nil
}

// Step returns all micro-batches of a step, counted from 0.
func (l *Loader) Step(step int) ([]Batch, error) { return l.StepInto(step, nil) }

// StepInto is Step that reuses the storage of dst.
func (l *Loader) StepInto(step int, dst []Batch) ([]Batch, error) {
	n := l.MicroBatches()
	if cap(dst) < n {
		dst = append(dst[:cap(dst)], make([]Batch, n-cap(dst))...)
	}
	dst = dst[:n]
	for i := range dst {
		if err := l.Micro(step, i, &dst[i]); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// Micro builds micro-batch i of a step into dst, reusing its storage: what a rank needs that computes some of them.
func (l *Loader) Micro(step, i int, dst *Batch) error {
	epoch, in, err := l.Epoch(step)
	if err != nil {
		return err
	}
	if i < 0 || i >= l.MicroBatches() {
		return fmt.Errorf("data: micro-batch %d is not in [0, %d)", i, l.MicroBatches())
	}
	p := l.plan(epoch)
	lo, hi := l.span(p, in, i)
	sides := l.sides()
	dst.reset(sides*l.opt.MicroBatch, l.bucket(p, lo, hi), l.opt.PadID)
	for side := range sides {
		for r := range l.opt.MicroBatch {
			var ids []int32
			switch {
			case lo+r >= hi:
			case side == 0:
				ids = p.row(lo + r)
			default:
				ids = []int32{p.row(lo + r)[0] + int32(side)} // pairs are not packed
			}
			if err := dst.fill(l.set.st, side*l.opt.MicroBatch+r, ids); err != nil {
				return err
			}
		}
	}
	if sides == 2 {
		dst.Pairs = hi - lo
	}
	dst.seal()
	return nil
}

// sides is how many rows an entry of the plan has in a batch.
func (l *Loader) sides() int {
	if l.set.st.pairs {
		return 2
	}
	return 1
}

// Report is the set's report with how the rows of the first epoch are filled. Rows that a last step is short of are not counted.
func (l *Loader) Report() Report {
	r := l.set.Report()
	p := l.plan(0)
	var used, trained, space float64
	for lo := 0; lo < p.len(); lo += l.opt.MicroBatch {
		hi := min(lo+l.opt.MicroBatch, p.len())
		space += float64(l.sides()*(hi-lo)) * float64(l.bucket(p, lo, hi))
		for i := lo; i < hi; i++ {
			for _, id := range p.row(i) {
				for side := range l.sides() {
					d := &l.set.st.docs[int(id)+side]
					used += float64(d.n)
					trained += float64(d.trained)
				}
			}
		}
	}
	r.PackedRows, r.Efficiency, r.TrainedSpace = p.len(), used/space, trained/space
	return r
}

// rowLen is the number of tokens in a row, of a pair in its longer example.
func (l *Loader) rowLen(p *rowPlan, i int) int {
	n := 0
	for _, id := range p.row(i) {
		n += l.docLen(id)
	}
	return n
}

func (l *Loader) docLen(id int32) int {
	n := l.set.st.docs[id].n
	if l.set.st.pairs {
		n = max(n, l.set.st.docs[id+1].n)
	}
	return int(n)
}

// bucket is the smallest length that holds rows lo to hi.
func (l *Loader) bucket(p *rowPlan, lo, hi int) int {
	if l.opt.Pack {
		return l.opt.SeqLen
	}
	n := 0
	for i := lo; i < hi; i++ {
		n = max(n, l.rowLen(p, i))
	}
	return l.buckets[sort.SearchInts(l.buckets, n)]
}

// extend counts the steps of further epochs while more says so.
func (l *Loader) extend(more func() bool) {
	for more() {
		rows := l.entries()
		if l.opt.Pack {
			rows = l.planLocked(len(l.ends)).len()
		}
		end := (rows + l.opt.Batch - 1) / l.opt.Batch
		if n := len(l.ends); n > 0 {
			end += l.ends[n-1]
		}
		l.ends = append(l.ends, end)
	}
}

func (l *Loader) plan(epoch int) *rowPlan {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.planLocked(epoch)
}

func (l *Loader) planLocked(epoch int) *rowPlan {
	slot := &l.plans[epoch%2]
	if slot.plan != nil && slot.epoch == epoch {
		return slot.plan
	}
	order := l.order(epoch)
	if l.opt.Pack {
		slot.plan = bestFit(order, func(id int32) int { return int(l.set.st.docs[id].n) }, l.opt.SeqLen)
	} else {
		slot.plan = single(order)
	}
	slot.epoch = epoch
	return slot.plan
}

// order lists the example IDs of an epoch, repeated or left out by the weights of their files.
func (l *Loader) order(epoch int) []int32 {
	list := l.set.rows
	if l.set.weighted && l.set.st.uneven() {
		list = l.set.weigh(l.opt.Seed, epoch)
	}
	if !l.opt.Shuffle {
		return list
	}
	p := Permutation(l.opt.Seed, epoch, len(list))
	for i, j := range p {
		p[i] = list[j]
	}
	return p
}

// entries is the length of order, the same for every epoch.
func (l *Loader) entries() int {
	if !l.set.weighted || !l.set.st.uneven() {
		return len(l.set.rows)
	}
	n := 0
	l.set.parts(func(_ int, rows []int32, whole, rest int) { n += whole*len(rows) + rest })
	return n
}
