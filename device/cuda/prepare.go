package cuda

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// building notes which functions an op's kernel asks for while it is built. One kernel is built at a time: libraries time their algorithms then.
type building struct {
	mu     sync.Mutex
	under  atomic.Bool
	draft  atomic.Pointer[pending] // what the draft that is being made leaves to Settle
	seldom atomic.Int32            // what is named now is left for the launch that needs it
	list   struct {
		sync.Mutex
		needs []*Function
	}
}

// run calls build, of a draft where there is a list for what that leaves, and returns the functions it asked for.
func (b *building) run(draft *pending, build func() (*Kernel, error)) (*Kernel, []*Function, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.take()
	b.draft.Store(draft)
	defer b.draft.Store(nil)
	b.under.Store(true)
	defer b.under.Store(false)
	k, err := build()
	return k, b.take(), err
}

func (b *building) take() []*Function {
	b.list.Lock()
	defer b.list.Unlock()
	needs := b.list.needs
	b.list.needs = nil
	return needs
}

// note adds a function, false while no kernel is built.
func (b *building) note(f *Function) bool {
	if !b.under.Load() {
		return false
	}
	b.list.Lock()
	defer b.list.Unlock()
	b.list.needs = append(b.list.needs, f)
	return true
}

// seldom calls build, which names functions that launches hardly ever need, such as those for operands at odd addresses. Nothing of them is compiled
// before such a launch comes.
func seldom[T any](d *Device, build func() (T, error)) (T, error) {
	d.building.seldom.Add(1)
	defer d.building.seldom.Add(-1)
	return build()
}

// compileNeeds compiles on all processors what the kernel that is being built has asked for so far, for a trial of it. What fails is said by its launch.
func (d *Device) compileNeeds() {
	d.building.list.Lock()
	needs := slices.Clone(d.building.list.needs)
	d.building.list.Unlock()
	d.loadAll(context.Background(), modulesOf(needs))
}

// modulesOf are the programs of functions that are not ready to be launched.
func modulesOf(needs []*Function) []*module {
	var modules []*module
	for _, f := range needs {
		if m := f.module; !f.made.Load() && !slices.Contains(modules, m) {
			modules = append(modules, m)
		}
	}
	return modules
}

// maxCompilers bounds how many programs are compiled at once: each takes some hundred megabytes.
const maxCompilers = 16

// compilers is how many are compiled at once here.
func compilers() int { return min(runtime.GOMAXPROCS(0), maxCompilers) }

// Prepare implements device.Preparer: it compiles the programs that the kernels need and that are neither on the device nor in the cache, on as many
// threads as there are processors.
func (d *Device) Prepare(ctx context.Context, kernels []device.Kernel) []error {
	var needs []*Function
	for _, k := range kernels {
		needs = append(needs, needsOf(k)...)
	}
	failed := d.loadAll(ctx, modulesOf(needs))
	d.spent.reached(spentPrograms)
	return forEach(kernels, func(k device.Kernel) error {
		for _, f := range needsOf(k) {
			err := failed[f.module] // not compiled again for each kernel that needs it
			if err == nil {
				err = f.make()
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// forEach calls do for each kernel and returns the errors in their places, nil where there is none.
func forEach(kernels []device.Kernel, do func(device.Kernel) error) (errs []error) {
	for i, k := range kernels {
		if err := do(k); err != nil {
			if errs == nil {
				errs = make([]error, len(kernels))
			}
			errs[i] = err
		}
	}
	return errs
}

func needsOf(k device.Kernel) []*Function {
	if own, ok := k.(*Kernel); ok {
		return own.needs
	}
	return nil
}

// loadAll loads modules and returns the errors of those that failed. The largest begin first, so that none of them is left for the end.
func (d *Device) loadAll(ctx context.Context, modules []*module) map[*module]error {
	if len(modules) == 0 {
		return nil
	}
	defer d.spent.since(spentPrograms, time.Now())
	largestFirst(modules)
	errs := make([]error, len(modules))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(compilers(), len(modules)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(modules) {
					return
				}
				if errs[i] = ctx.Err(); errs[i] == nil {
					errs[i] = d.load(modules[i])
				}
			}
		})
	}
	wg.Wait()
	failed := map[*module]error{}
	for i, err := range errs {
		if err != nil {
			failed[modules[i]] = err
		}
	}
	return failed
}

// largestFirst orders programs by the length of their text, which tells most of how long they take.
func largestFirst(modules []*module) {
	slices.SortStableFunc(modules, func(a, b *module) int { return len(b.src.Text) - len(a.src.Text) })
}
