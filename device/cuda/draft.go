package cuda

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/cudnn"
)

// pending is what a draft of a kernel leaves to Settle.
type pending struct {
	open     bool              // the kernel is another one once it is settled
	products []string          // keys of products that are to be timed
	plans    []cudnn.Attention // graphs that the library is to plan
	trials   []string          // keys of choices among kernels, which wait for their programs and plans
	checks   bool              // the device is to check an instruction, which waits for a program
}

// waits tells whether settling waits for what is made ahead.
func (p *pending) waits() bool { return p.checks || len(p.trials)+len(p.plans) > 0 }

// errDraft is what a part of a draft returns where it is launched, which Kernel.Launch does not let happen.
var errDraft = errors.New("a draft cannot be launched")

// drafting is the list of a draft while one is made, else nil.
func (d *Device) drafting() *pending { return d.building.draft.Load() }

var _ device.Drafter = (*Device)(nil)

// Draft implements device.Drafter. A draft has named the programs that its kernel can need; nothing was timed, planned or compiled.
func (d *Device) Draft(s device.Spec) (device.Kernel, error) {
	left := new(pending)
	k, needs, err := d.building.run(left, func() (*Kernel, error) { return d.inner(s) })
	if err != nil {
		return nil, err
	}
	k.needs = needs
	if left.open {
		k.draft = left
	}
	return k, nil
}

// Settle implements device.Drafter. Three kinds of work take seconds when nothing is on disk, and go on side by side: the host compiles programs and has
// the library plan attention, on all processors but one, while the device times products. Kernels that are compared with each other, or checked, come
// last, since they wait for their programs.
//
// Host work next to a trial costs it nothing that counts: one processor is left to enqueue, no program is loaded meanwhile, and what the library may do to
// the device at the end of planning disturbs one batch, of which trials take the least.
func (d *Device) Settle(ctx context.Context, kernels []device.Kernel) []error {
	var drafts []*Kernel
	for _, k := range kernels {
		if own, ok := k.(*Kernel); ok && own.draft != nil && !slices.Contains(drafts, own) {
			drafts = append(drafts, own)
		}
	}
	if len(drafts) == 0 {
		return nil
	}
	work := d.begin(ctx, kernels, drafts)
	slices.SortStableFunc(drafts, func(a, b *Kernel) int { return b2i(a.draft.waits()) - b2i(b.draft.waits()) })
	defer d.spent.reached(spentProducts, spentWays, spentPlans)
	failed := map[*Kernel]error{}
	for _, k := range drafts {
		err := ctx.Err()
		if err == nil {
			err = d.settle(k)
		}
		if err != nil {
			failed[k] = err
			work.end() // what is begun comes to its end, nothing else is begun
		}
	}
	if len(failed) > 0 {
		d.spent.reached(spentPrograms) // nobody will prepare
	}
	return forEach(kernels, func(k device.Kernel) error {
		own, _ := k.(*Kernel)
		return failed[own]
	})
}

// settle makes a draft what Kernel would have made.
func (d *Device) settle(k *Kernel) error {
	made, needs, err := d.building.run(nil, func() (*Kernel, error) { return d.inner(k.spec) })
	if err != nil {
		return err
	}
	made.needs = needs
	*k = *made
	return nil
}

// ahead is host work that nobody waits for yet.
type ahead struct{ ended atomic.Bool }

func (a *ahead) end() { a.ended.Store(true) }

// begin plans attention and compiles programs on threads of their own: plans first, then the largest programs. What goes wrong is told to whoever needs
// the plan or the program.
func (d *Device) begin(ctx context.Context, kernels []device.Kernel, drafts []*Kernel) *ahead {
	var needs []*Function
	for _, k := range kernels {
		needs = append(needs, needsOf(k)...)
	}
	programs := slices.DeleteFunc(modulesOf(needs), (*module).begun)
	largestFirst(programs)
	var tasks []func()
	var left pending // of all drafts
	for _, k := range drafts {
		left.add(k.draft)
	}
	for _, g := range left.plans {
		tasks = append(tasks, func() { _, _ = d.planned(g) }) // the error is kept with the plan
	}
	for _, m := range programs {
		tasks = append(tasks, func() { d.compileAhead(m) })
	}
	d.spent.expect(spentPlans, len(left.plans))
	d.spent.expect(spentPrograms, len(programs))
	d.spent.expect(spentProducts, len(left.products))
	d.spent.expect(spentWays, len(left.trials))
	work := new(ahead)
	go func() {
		if rest := work.do(ctx, tasks); rest > 0 {
			d.spent.expect(spentPlans, -max(rest-len(programs), 0))
			d.spent.expect(spentPrograms, -min(rest, len(programs)))
		}
	}()
	return work
}

// do runs tasks in their order, on all processors but one, until it or the context ends, and returns how many are left.
func (a *ahead) do(ctx context.Context, tasks []func()) (rest int) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(max(runtime.GOMAXPROCS(0)-1, 1), maxCompilers, len(tasks)) {
		all.Go(func() {
			for !a.ended.Load() && ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(tasks) {
					return
				}
				tasks[i]()
			}
		})
	}
	all.Wait()
	return max(len(tasks)-int(next.Load()), 0)
}

// add joins what another draft leaves, without what is there already.
func (p *pending) add(o *pending) {
	p.products, p.plans, p.trials = union(p.products, o.products), union(p.plans, o.plans), union(p.trials, o.trials)
}

func union[T comparable](to, more []T) []T {
	for _, v := range more {
		if !slices.Contains(to, v) {
			to = append(to, v)
		}
	}
	return to
}
