// Package nvrtc compiles CUDA C++ for the device at hand with NVIDIA's run-time compiler, and keeps what it compiled on disk.
package nvrtc

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

type procs struct {
	Version     ffi.Proc `c:"nvrtcVersion"`
	ErrorString ffi.Proc `c:"nvrtcGetErrorString"`
	Create      ffi.Proc `c:"nvrtcCreateProgram"`
	Destroy     ffi.Proc `c:"nvrtcDestroyProgram"`
	Compile     ffi.Proc `c:"nvrtcCompileProgram"`
	LogSize     ffi.Proc `c:"nvrtcGetProgramLogSize"`
	Log         ffi.Proc `c:"nvrtcGetProgramLog"`
	CubinSize   ffi.Proc `c:"nvrtcGetCUBINSize"`
	Cubin       ffi.Proc `c:"nvrtcGetCUBIN"`
	PTXSize     ffi.Proc `c:"nvrtcGetPTXSize"`
	PTX         ffi.Proc `c:"nvrtcGetPTX"`
	NumArchs    ffi.Proc `c:"nvrtcGetNumSupportedArchs"`
	Archs       ffi.Proc `c:"nvrtcGetSupportedArchs"`
}

// Compiler is an opened NVRTC. Its methods may be called from several goroutines.
type Compiler struct {
	c       procs
	path    string
	version int   // 1000*major + 10*minor
	archs   []int // compute capabilities that it compiles for, as 90 for 9.0, ascending
	id      string
}

// Want is what a compiler must suit.
type Want struct {
	Driver     int // the newest CUDA version of the driver, 1000*major + 10*minor: code of a newer major version does not load
	Capability int // the device's compute capability, 90 for 9.0
}

// Open finds an NVRTC for a driver and a device: that of the driver's major version, else an older one. Version 13 no longer compiles
// for devices below 7.5, so those take version 12.
func Open(w Want) (*Compiler, error) {
	s := ffi.Search{
		What: "NVIDIA's run-time compiler NVRTC", Before: []string{"libnvrtc-builtins.so*"},
		Remedy: "install it, for example with: pip install nvidia-cuda-nvrtc-cu12, or a CUDA toolkit",
	}
	for major := 13; major >= 12; major-- {
		if w.Driver/1000 < major || (major >= 13 && w.Capability < 75) {
			continue
		}
		s.Unix = append(s.Unix, fmt.Sprintf("libnvrtc.so.%d", major))
		s.Windows = append(s.Windows, fmt.Sprintf("nvrtc64_%d0_0.dll", major))
	}
	if len(s.Unix) == 0 {
		return nil, fmt.Errorf("no NVRTC fits a driver for CUDA %d.%d and a device of compute capability %s", w.Driver/1000, w.Driver%1000/10, Capability(w.Capability))
	}
	lib, err := ffi.Open(s)
	if err != nil {
		return nil, err
	}
	c := &Compiler{path: lib.Path()}
	if err := lib.Load(&c.c); err != nil {
		return nil, fmt.Errorf("NVRTC is too old: %w", err)
	}
	return c, c.identify()
}

// identify asks for version and architectures.
func (c *Compiler) identify() error {
	var major, minor int32
	if err := c.check("nvrtcVersion", c.c.Version.Call(uintptr(unsafe.Pointer(&major)), uintptr(unsafe.Pointer(&minor)))); err != nil {
		return err
	}
	c.version = int(major)*1000 + int(minor)*10
	var n int32
	if err := c.check("nvrtcGetNumSupportedArchs", c.c.NumArchs.Call(uintptr(unsafe.Pointer(&n)))); err != nil {
		return err
	}
	if n <= 0 || n > 1000 {
		return fmt.Errorf("%s: %d architectures are supported, by its own words", c.path, n)
	}
	list := make([]int32, n)
	if err := c.check("nvrtcGetSupportedArchs", c.c.Archs.Call(uintptr(unsafe.Pointer(&list[0])))); err != nil {
		return err
	}
	for _, a := range list {
		c.archs = append(c.archs, int(a))
	}
	slices.Sort(c.archs)
	id := fmt.Sprintf("%s %d", c.path, c.version)
	if info, err := os.Stat(c.path); err == nil {
		id += fmt.Sprintf(" %d %d", info.Size(), info.ModTime().UnixNano())
	}
	c.id = id
	return nil
}

// Path is the file of the compiler.
func (c *Compiler) Path() string { return c.path }

// Version is the compiler's version, 1000*major + 10*minor.
func (c *Compiler) Version() int { return c.version }

// Capability writes a compute capability: 90 is "9.0".
func Capability(cc int) string { return fmt.Sprintf("%d.%d", cc/10, cc%10) }

// boards are the compute capabilities of systems on a chip (Jetson, Drive), whose code does not run on the cards of the same major version.
var boards = []int{53, 62, 72, 87, 101, 110}

// Arch is the architecture to compile for on a device of a compute capability: its own, with the features that only it has (sm_90a) where
// such are; else the nearest older one of the same major version, whose code runs on it; else, for a device newer than the compiler, PTX
// of the newest known one, which the driver compiles.
func (c *Compiler) Arch(capability int) (string, error) {
	if slices.Contains(c.archs, capability) {
		if capability >= 90 {
			return fmt.Sprintf("sm_%da", capability), nil
		}
		return fmt.Sprintf("sm_%d", capability), nil
	}
	below := 0
	for _, a := range c.archs {
		if a < capability && !slices.Contains(boards, a) {
			below = a
		}
	}
	switch {
	case below == 0:
		return "", fmt.Errorf("NVRTC %d.%d (%s) compiles for compute capability %s and newer, and this device has %s: it needs an NVRTC of CUDA 12, or of an older one below 5.0",
			c.version/1000, c.version%1000/10, c.path, Capability(c.archs[0]), Capability(capability))
	case below/10 == capability/10:
		return fmt.Sprintf("sm_%d", below), nil
	}
	return fmt.Sprintf("compute_%d", below), nil
}

// Source is a translation unit.
type Source struct {
	Name    string // shown in messages
	Text    string
	Arch    string   // as Arch returns it
	Options []string // beyond the architecture
}

// Key identifies what compiling the source gives: a hash of all that it depends on.
func (c *Compiler) Key(s Source) [32]byte {
	h := sha256.New()
	for _, part := range append([]string{"1", c.id, s.Arch, s.Text}, s.Options...) {
		fmt.Fprintf(h, "%d\n%s", len(part), part)
	}
	return [32]byte(h.Sum(nil))
}

// CompileError is a source that the compiler refused.
type CompileError struct {
	Name, Arch, Log string
}

// Error implements error.
func (e *CompileError) Error() string {
	return fmt.Sprintf("%s does not compile for %s:\n%s", e.Name, e.Arch, strings.TrimSpace(e.Log))
}

// Compile returns device code: a CUBIN, or PTX where the architecture is compute_NN. Calls on several threads go on at once.
func (c *Compiler) Compile(s Source) (image []byte, err error) {
	text, name := ffi.CString(s.Text), ffi.CString(s.Name)
	var prog uintptr
	if err := c.check("nvrtcCreateProgram", c.c.Create.Call(uintptr(unsafe.Pointer(&prog)), uintptr(unsafe.Pointer(&text[0])),
		uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)); err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, c.check("nvrtcDestroyProgram", c.c.Destroy.Call(uintptr(unsafe.Pointer(&prog)))))
	}()
	options := append([]string{"--gpu-architecture=" + s.Arch, "-default-device", "--std=c++17"}, s.Options...)
	list := make([]*byte, len(options))
	for i, o := range options {
		b := ffi.CString(o)
		list[i] = &b[0]
	}
	const compilation = 6
	switch r := c.c.Compile.Call(prog, uintptr(len(list)), uintptr(unsafe.Pointer(&list[0]))); int32(r) {
	case 0:
	case compilation:
		log, err := c.read("nvrtcGetProgramLog", c.c.LogSize, c.c.Log, prog)
		if err != nil {
			return nil, err
		}
		return nil, &CompileError{Name: s.Name, Arch: s.Arch, Log: strings.TrimRight(string(log), "\x00")}
	default:
		return nil, fmt.Errorf("%s for %s: %w", s.Name, s.Arch, c.check("nvrtcCompileProgram", r))
	}
	if strings.HasPrefix(s.Arch, "compute_") {
		return c.read("nvrtcGetPTX", c.c.PTXSize, c.c.PTX, prog)
	}
	return c.read("nvrtcGetCUBIN", c.c.CubinSize, c.c.Cubin, prog)
}

// read fetches a result whose size another function tells.
func (c *Compiler) read(call string, size, get ffi.Proc, prog uintptr) ([]byte, error) {
	var n uint64
	if err := c.check(call+"Size", size.Call(prog, uintptr(unsafe.Pointer(&n)))); err != nil {
		return nil, err
	}
	if n == 0 || n > 1<<30 {
		return nil, fmt.Errorf("%s: a result of %d bytes", call, n)
	}
	b := make([]byte, n)
	return b, c.check(call, get.Call(prog, uintptr(unsafe.Pointer(&b[0]))))
}

func (c *Compiler) check(call string, r uintptr) error {
	if int32(r) == 0 {
		return nil
	}
	text := ffi.Text(c.c.ErrorString.Call(r), 1024)
	return fmt.Errorf("%s: %s (%d; %s)", call, text, int32(r), c.path)
}
