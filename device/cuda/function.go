package cuda

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/kernels"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
)

// Function is a kernel of a program. It is compiled by Prepare, or when something of it is needed first.
type Function struct {
	name   string
	module *module
	dev    *Device

	made   atomic.Bool // what follows is there
	mu     sync.Mutex
	handle driver.Function
	uses   Resources
	params []int // sizes of the parameters, nil where nothing tells
	shared int   // dynamic shared memory that launches may ask for
}

// Resources are what the code of a kernel takes.
type Resources struct {
	Threads   int // of a block at most, with the kernel's registers
	Registers int // a thread
	Local     int // bytes a thread in memory because registers did not suffice, and arrays of the kernel
	Shared    int // bytes of shared memory that the code declares
}

// Name is the kernel's name.
func (f *Function) Name() string { return f.name }

// Resources are known once the kernel is compiled, which they wait for.
func (f *Function) Resources() (Resources, error) {
	err := f.make()
	return f.uses, err
}

// programs are the modules of a device.
type programs struct {
	mu       sync.Mutex
	compiler *nvrtc.Compiler
	arch     string
	cache    *nvrtc.Cache
	err      error              // why there is no compiler
	slots    chan struct{}      // as many as programs may be compiled at once
	begins   func(nvrtc.Source) // tests look at what is compiled
	modules  map[[32]byte]*module
	order    []*module // as they were asked for
	closed   atomic.Bool
}

// module is a program: its source, and once something of it was needed its code on the device.
type module struct {
	src       nvrtc.Source
	functions map[string]*Function // under the lock of programs

	mu     sync.Mutex
	handle driver.Module
	params map[string][]int // sizes of the kernels' parameters, as far as the image tells
	ahead  *image           // code that was compiled before anybody waited for it
}

// image is the code of a program, or why there is none.
type image struct {
	code  []byte
	fresh bool // it was compiled and not found
	err   error
}

// Function returns a kernel of a program. While an op's kernel is built (Build) nothing is compiled yet: what Prepare, or else the first launch,
// then finds wrong is an error there. At other times the program is compiled here, or found compiled.
func (d *Device) Function(p Program, name string) (*Function, error) {
	if lost := d.lost.Load(); lost != nil {
		return nil, *lost
	}
	src, err := p.source()
	if err != nil {
		return nil, err
	}
	f, err := d.find(src, name)
	if err != nil {
		return nil, err
	}
	if d.building.seldom.Load() > 0 || d.building.note(f) {
		return f, nil
	}
	return f, f.make()
}

// find is the function of a source, made or not.
func (d *Device) find(src nvrtc.Source, name string) (*Function, error) {
	c := &d.compile
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := d.compiler(); err != nil {
		return nil, err
	}
	src.Arch = c.arch
	key := c.compiler.Key(src)
	m, ok := c.modules[key]
	if !ok {
		m = &module{src: src, functions: map[string]*Function{}}
		c.modules[key] = m
		c.order = append(c.order, m)
	}
	f, ok := m.functions[name]
	if !ok {
		f = &Function{name: name, module: m, dev: d}
		m.functions[name] = f
	}
	return f, nil
}

// Programs are the sources that kernels asked for so far.
func (d *Device) Programs() []nvrtc.Source {
	d.compile.mu.Lock()
	defer d.compile.mu.Unlock()
	out := make([]nvrtc.Source, len(d.compile.order))
	for i, m := range d.compile.order {
		out[i] = m.src
	}
	return out
}

// compiler opens NVRTC at the first use. The lock is held.
func (d *Device) compiler() error {
	c := &d.compile
	if c.compiler != nil || c.err != nil {
		return c.err
	}
	c.modules, c.cache = map[[32]byte]*module{}, nvrtc.NewCache()
	c.slots = make(chan struct{}, compilers())
	found, err := nvrtc.Open(nvrtc.Want{Driver: d.api.CUDA(), Capability: d.capability})
	if err == nil {
		c.arch, err = found.Arch(d.capability)
	}
	if err != nil {
		c.err = fmt.Errorf("cuda: kernels cannot be compiled: %w", err)
		return c.err
	}
	c.compiler = found
	return nil
}

// arch is the architecture that kernels are compiled for, see nvrtc.Compiler.Arch.
func (d *Device) arch() (string, error) {
	d.compile.mu.Lock()
	defer d.compile.mu.Unlock()
	err := d.compiler()
	return d.compile.arch, err
}

// load brings a program's code to the device, once. Code from the cache that the driver refuses is compiled once more.
func (d *Device) load(m *module) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case d.compile.closed.Load(): // who compiles ahead may come when others are done
		return errClosed
	case m.handle != 0:
		return nil
	}
	c, began := &d.compile, time.Now()
	for {
		ahead := m.ahead
		m.ahead = nil // an error is told once, and the next call tries again
		i := ahead
		if i == nil {
			i = d.build(m.src)
		}
		if i.err != nil {
			return fmt.Errorf("cuda: %w", i.err)
		}
		err := d.enter(func() (err error) {
			m.handle, err = d.api.LoadModule(i.code)
			return err
		})
		if err == nil {
			m.params = nvrtc.Params(i.code)
			if ahead == nil {
				d.spent.one(spentPrograms, m.src.Name, time.Since(began))
			}
			return nil
		}
		c.cache.Drop(c.compiler, m.src)
		if i.fresh || d.lost.Load() != nil {
			return fmt.Errorf("cuda: loading %s for %s: %w", m.src.Name, m.src.Arch, err)
		}
	}
}

// compileAhead makes a program's code, or finds it made, and leaves it to the load. The device is not touched.
func (d *Device) compileAhead(m *module) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.compile.closed.Load() || m.handle != 0 || m.ahead != nil {
		return
	}
	began := time.Now()
	m.ahead = d.build(m.src)
	d.spent.one(spentPrograms, m.src.Name, time.Since(began))
}

// begun tells whether there is code of a program, or somebody makes it.
func (m *module) begun() bool {
	if !m.mu.TryLock() {
		return true
	}
	defer m.mu.Unlock()
	return m.handle != 0 || m.ahead != nil
}

// build finds a program's code on disk or compiles it, beside a bounded number of others.
func (d *Device) build(src nvrtc.Source) *image {
	c := &d.compile
	if code, ok := c.cache.Get(c.compiler.Key(src)); ok {
		return &image{code: code}
	}
	c.slots <- struct{}{}
	defer func() { <-c.slots }()
	if c.begins != nil {
		c.begins(src)
	}
	var i image
	i.code, i.fresh, i.err = c.cache.Build(c.compiler, src)
	return &i
}

// make compiles the kernel's program, or finds it compiled, and reads what launches must know of the kernel.
func (f *Function) make() error {
	if f.made.Load() {
		return nil
	}
	began := time.Now()
	if err := f.dev.load(f.module); err != nil {
		return err
	}
	f.dev.spent.since(spentPrograms, began)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.made.Load() {
		return nil
	}
	if err := f.dev.enter(f.read); err != nil {
		return fmt.Errorf("kernel %s of %s: %w", f.name, f.module.src.Name, err)
	}
	f.made.Store(true)
	return nil
}

// ready is make for a launch on a stream. A thread that records a graph may load nothing, so another one does.
func (f *Function) ready(s *Stream) error {
	if s.record == nil || f.made.Load() {
		return f.make()
	}
	done := make(chan error)
	go func() { done <- f.make() }() // not on this thread, which a recording holds
	return <-done
}

// read asks the driver for the kernel and its attributes.
func (f *Function) read() (err error) {
	api := f.dev.api
	if f.handle, err = api.Function(f.module.handle, f.name); err != nil {
		return err
	}
	told := false
	if f.params, told = f.module.params[f.name]; !told {
		f.params = api.Params(f.handle)
	}
	for _, q := range []struct {
		at driver.FuncAttr
		to *int
	}{
		{driver.FuncMaxThreads, &f.uses.Threads}, {driver.FuncRegisters, &f.uses.Registers}, {driver.FuncLocal, &f.uses.Local},
		{driver.FuncShared, &f.uses.Shared}, {driver.FuncDynamic, &f.shared},
	} {
		if *q.to, err = api.FuncAttr(f.handle, q.at); err != nil {
			return err
		}
	}
	return nil
}

// allow lets launches of the kernel ask for so much dynamic shared memory.
func (f *Function) allow(d *Device, shared int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if shared <= f.shared {
		return nil
	}
	if most := d.shared - f.uses.Shared; shared > most {
		return fmt.Errorf("%s: %d bytes of dynamic shared memory; a block of %s can have %d", f.name, shared, d.name, most)
	}
	if err := d.api.AllowShared(f.handle, shared); err != nil {
		return fmt.Errorf("%s: %d bytes of dynamic shared memory: %w", f.name, shared, err)
	}
	f.shared = shared
	return nil
}

// Resident is how many blocks of a kernel the device holds at once, at least 1: the grid of a kernel whose blocks stay and take piece
// after piece. It compiles the kernel, so a builder should leave it to the first launch, where it is Call.Resident.
func (d *Device) Resident(f *Function, threads, shared int) (int, error) {
	if err := f.make(); err != nil {
		return 0, err
	}
	n := 0
	err := d.enter(func() error {
		if err := f.allow(d, shared); err != nil {
			return err
		}
		each, err := d.api.BlocksPerSM(f.handle, threads, shared)
		n = max(each*d.sms, 1)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", f.name, err)
	}
	return n, nil
}

// Resident is Device.Resident on the way to a launch, which may be recorded.
func (c *Call) Resident(f *Function, threads, shared int) (int, error) {
	if err := f.ready(c.Stream); err != nil {
		return 0, err
	}
	return c.Dev.Resident(f, threads, shared)
}

func (c *programs) unload(api *driver.API) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed.Store(true)
	var errs []error
	for _, m := range c.order {
		errs = append(errs, m.unload(api))
	}
	clear(c.modules)
	c.order = nil
	return errors.Join(errs...)
}

// unload waits for who loads the module; who comes later finds the programs closed.
func (m *module) unload(api *driver.API) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handle == 0 {
		return nil
	}
	return api.UnloadModule(m.handle)
}

// source puts a program together.
func (p Program) source() (nvrtc.Source, error) {
	var b strings.Builder
	add := func(file string) error {
		text, err := kernels.Files.ReadFile(file)
		if err != nil {
			return fmt.Errorf("cuda: there is no kernel file %s", file)
		}
		fmt.Fprintf(&b, "#line 1 %q\n%s\n", file, text)
		return nil
	}
	if err := add("prelude.cuh"); err != nil {
		return nvrtc.Source{}, err
	}
	for _, d := range p.Define {
		fmt.Fprintf(&b, "#define %s\n", d)
	}
	for _, f := range p.Files {
		if err := add(f); err != nil {
			return nvrtc.Source{}, err
		}
	}
	if p.Text != "" {
		fmt.Fprintf(&b, "#line 1 \"generated\"\n%s\n", p.Text)
	}
	name := strings.Join(p.Files, "+")
	if name == "" {
		name = "generated"
	}
	s := nvrtc.Source{Name: name, Text: b.String()}
	if p.Exact || p.Fast {
		s.Options = append(s.Options, "--fmad=false")
	}
	if p.Fast {
		s.Options = append(s.Options, "--ftz=true", "--prec-div=false", "--prec-sqrt=false")
	}
	return s, nil
}
