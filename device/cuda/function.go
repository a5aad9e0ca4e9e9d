package cuda

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/kernels"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
)

// Function is a compiled kernel.
type Function struct {
	Threads   int // of a block at most, with the kernel's registers
	Registers int // a thread
	Local     int // bytes a thread in memory because registers did not suffice, and arrays of the kernel
	Shared    int // bytes of shared memory that the code declares

	name   string
	handle driver.Function
	params []int // sizes of the parameters, nil where the driver does not tell
	mu     sync.Mutex
	shared int // dynamic shared memory that launches may ask for
}

// Name is the kernel's name.
func (f *Function) Name() string { return f.name }

// programs are the modules of a device.
type programs struct {
	mu       sync.Mutex
	compiler *nvrtc.Compiler
	arch     string
	cache    *nvrtc.Cache
	err      error // why there is no compiler
	modules  map[[32]byte]*module
	sources  []nvrtc.Source
}

type module struct {
	handle    driver.Module
	functions map[string]*Function
}

// Function compiles a program, or finds it compiled, and returns one of its kernels.
func (d *Device) Function(p Program, name string) (*Function, error) {
	src, err := p.source()
	if err != nil {
		return nil, err
	}
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
		if m, err = d.load(src); err != nil {
			return nil, err
		}
		c.modules[key] = m
		c.sources = append(c.sources, src)
	}
	if f, ok := m.functions[name]; ok {
		return f, nil
	}
	var f *Function
	err = d.enter(func() error {
		f, err = d.function(m.handle, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("kernel %s of %s: %w", name, src.Name, err)
	}
	m.functions[name] = f
	return f, nil
}

// Programs are the sources that were compiled or found compiled so far.
func (d *Device) Programs() []nvrtc.Source {
	d.compile.mu.Lock()
	defer d.compile.mu.Unlock()
	return append([]nvrtc.Source(nil), d.compile.sources...)
}

// compiler opens NVRTC at the first use. The lock is held.
func (d *Device) compiler() error {
	c := &d.compile
	if c.compiler != nil || c.err != nil {
		return c.err
	}
	c.modules, c.cache = map[[32]byte]*module{}, nvrtc.NewCache()
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

// load brings a program's code to the device. Code from the cache that the driver refuses is compiled once more.
func (d *Device) load(src nvrtc.Source) (*module, error) {
	c := &d.compile
	m := &module{functions: map[string]*Function{}}
	for {
		image, fresh, err := c.cache.Build(c.compiler, src)
		if err != nil {
			return nil, fmt.Errorf("cuda: %w", err)
		}
		err = d.enter(func() (err error) {
			m.handle, err = d.api.LoadModule(image)
			return err
		})
		if err == nil {
			return m, nil
		}
		c.cache.Drop(c.compiler, src)
		if fresh || d.lost.Load() != nil {
			return nil, fmt.Errorf("cuda: loading %s for %s: %w", src.Name, src.Arch, err)
		}
	}
}

// function finds a kernel of a module and what launches must know of it.
func (d *Device) function(m driver.Module, name string) (*Function, error) {
	h, err := d.api.Function(m, name)
	if err != nil {
		return nil, err
	}
	f := &Function{name: name, handle: h, params: d.api.Params(h)}
	for _, q := range []struct {
		at driver.FuncAttr
		to *int
	}{
		{driver.FuncMaxThreads, &f.Threads}, {driver.FuncRegisters, &f.Registers}, {driver.FuncLocal, &f.Local}, {driver.FuncShared, &f.Shared},
		{driver.FuncDynamic, &f.shared},
	} {
		if *q.to, err = d.api.FuncAttr(h, q.at); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// allow lets launches of the kernel ask for so much dynamic shared memory.
func (f *Function) allow(d *Device, shared int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if shared <= f.shared {
		return nil
	}
	if most := d.shared - f.Shared; shared > most {
		return fmt.Errorf("%s: %d bytes of dynamic shared memory; a block of %s can have %d", f.name, shared, d.name, most)
	}
	if err := d.api.AllowShared(f.handle, shared); err != nil {
		return fmt.Errorf("%s: %d bytes of dynamic shared memory: %w", f.name, shared, err)
	}
	f.shared = shared
	return nil
}

// Resident is how many blocks of a kernel the device holds at once, at least 1: the grid of a kernel whose blocks stay and take piece
// after piece. It is asked for when a kernel is built.
func (d *Device) Resident(f *Function, threads, shared int) (int, error) {
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

func (c *programs) unload(api *driver.API) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, m := range c.modules {
		errs = append(errs, api.UnloadModule(m.handle))
	}
	c.modules = nil
	return errors.Join(errs...)
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
