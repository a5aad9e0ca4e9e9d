// Package emulator is an NVIDIA GPU for tests, made of software: stand-ins for libcuda and libnvrtc, which device/cuda opens as it opens
// the real ones. A kernel is compiled by the machine's C++ compiler, its blocks run one after another, and the threads of a block are
// fibers: barriers, shuffles, votes, atomics and shared memory do what they do on a GPU. It finds addresses outside an allocation,
// misaligned accesses, indices outside shared arrays, shared memory read before it is written, deadlocks, and, with the threads
// in another order, races. Streams are done in an order that nothing but events forbids, so that a missing wait shows as a wrong result.
// It says nothing of speed, and nothing of instructions that stand behind BYES_EMULATE.
//
// BYES_EMULATE holds settings of the device, as "capability=75,order=reverse":
//
//	capability  compute capability in tenths, 90 unless set
//	processors  multiprocessors, 8; memory: bytes of the device, 85 GB
//	order       of the threads and blocks: forward, reverse, or a number that seeds a shuffle
//	streams     a number, 1 unless set, seeds an order of the work among those that streams and events allow, of recorded graphs too; late: nothing
//	            is done before somebody waits for it, and then only what that needs; now: work is done at the call
//	sticky      1: after a fault every call fails, as on a GPU; 0: the fault is told once
//	devices     how many there are, 1
package emulator

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

//go:embed src
var sources embed.FS

// Variable is the environment variable of the settings.
const Variable = "BYES_EMULATE"

// ErrNone is why there is no emulator here: another operating system or processor, or no C++ compiler.
var ErrNone = errors.New("no emulator of a GPU")

// Folder builds the two libraries, once for each version of their sources and compiler, and returns the folder they are in: the first
// element of BYES_CUDA_PATH. Beside it, below the user's cache folder, one of each version of the compiler's stand-in keeps compiled kernels.
func Folder() (string, error) {
	if runtime.GOOS != "linux" || (runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64") {
		return "", fmt.Errorf("%w on %s/%s: it runs on linux/amd64 and linux/arm64", ErrNone, runtime.GOOS, runtime.GOARCH)
	}
	compiler, err := exec.LookPath("g++")
	if err != nil {
		return "", fmt.Errorf("%w: it needs g++: %w", ErrNone, err)
	}
	key, err := hash(compiler, "src/*")
	if err != nil {
		return "", err
	}
	of, err := hash(compiler, "src/device.h", "src/nvrtc.cpp")
	if err != nil {
		return "", err
	}
	all, err := home()
	if err != nil {
		return "", fmt.Errorf("emulator: %w", err)
	}
	dir, programs := filepath.Join(all, key), filepath.Join(all, "programs-"+of)
	if err := os.MkdirAll(programs, 0o755); err != nil {
		return "", fmt.Errorf("emulator: %w", err)
	}
	now := time.Now()
	_ = os.Chtimes(programs, now, now) // that sweep sees the use; a folder of another user's keeps its times
	if _, err := os.Stat(filepath.Join(dir, "libcuda.so.1")); err == nil {
		_ = os.Chtimes(dir, now, now)
		return dir, nil
	}
	if err := build(compiler, dir, programs); err != nil {
		return "", fmt.Errorf("emulator: %w", err)
	}
	sweep(all)
	return dir, nil
}

// home is the folder of all builds: in the user's cache folder or, where there is none or it cannot be written, as for users without a home, in
// a folder of the user's own among the temporary files.
func home() (string, error) {
	cache, err := os.UserCacheDir()
	if err == nil {
		dir := filepath.Join(cache, "bitsandbyes", "emulator")
		if err = writable(dir); err == nil {
			return dir, nil
		}
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("bitsandbyes-%d", os.Getuid()), "emulator")
	if failed := writable(dir); failed != nil {
		return "", errors.Join(err, failed)
	}
	return dir, nil
}

// writable makes a folder and tries to write to it.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "try")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// unused is how long a folder stays that no test asks for: other versions of the sources, with the kernels compiled by them.
const unused = 14 * 24 * time.Hour

// sweep removes older ones. What cannot be removed stays: it may be another user's, or another process is removing it.
func sweep(all string) {
	entries, err := os.ReadDir(all)
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < unused {
			continue
		}
		_ = os.RemoveAll(filepath.Join(all, e.Name()))
	}
}

// hash names what is made from files by a compiler.
func hash(compiler string, files ...string) (string, error) {
	version, err := exec.Command(compiler, "-dumpfullversion", "-dumpmachine").Output()
	if err != nil {
		return "", fmt.Errorf("emulator: %s: %w", compiler, err)
	}
	h := sha256.New()
	h.Write(version)
	var names []string
	for _, pattern := range files {
		found, err := fs.Glob(sources, pattern)
		if err != nil {
			return "", err
		}
		names = append(names, found...)
	}
	sort.Strings(names)
	for _, name := range names {
		b, err := sources.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(b), b)
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// build makes the libraries in a folder beside dir, which then takes its place; another process may do the same.
func build(compiler, dir, programs string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "build")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // of no use once renamed or failed
	src, err := fs.Sub(sources, "src")
	if err != nil {
		return err
	}
	if err := os.CopyFS(tmp, src); err != nil {
		return err
	}
	// One library under two names, which count as one when they are opened.
	if err := os.Mkdir(filepath.Join(tmp, libraries), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(blasFile, filepath.Join(tmp, libraries, "libcudnn.so.9")); err != nil {
		return err
	}
	common := []string{"-O2", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"}
	nvrtc := []string{"nvrtc.cpp", fmt.Sprintf("-DEMULATE_FOLDER=%q", dir), fmt.Sprintf("-DEMULATE_PROGRAMS=%q", programs), fmt.Sprintf("-DEMULATE_CXX=%q", compiler)}
	for _, lib := range [][]string{
		append(slices.Clone(nvrtc), "-DEMULATE_MAJOR=13", "-o", "libnvrtc.so.13"),
		append(slices.Clone(nvrtc), "-DEMULATE_MAJOR=12", "-o", "libnvrtc.so.12"),
		{"driver.cpp", "stream.cpp", "memory.cpp", "fiber.cpp", "-o", "libcuda.so.1", "-ldl"},
		{"libraries.cpp", fmt.Sprintf("-DEMULATE_FOLDER=%q", dir), "-o", filepath.Join(libraries, blasFile), "-ldl"},
	} {
		cmd := exec.Command(compiler, append(append([]string{}, common...), lib...)...)
		cmd.Dir = tmp
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
		}
	}
	return place(tmp, dir)
}

// place gives a finished build its name, unless another process was faster. What a sweep that was killed has left there goes.
func place(tmp, dir string) error {
	err := os.Rename(tmp, dir)
	if err == nil {
		return nil
	}
	if _, there := os.Stat(filepath.Join(dir, "libcuda.so.1")); there == nil {
		return nil
	}
	if failed := os.RemoveAll(dir); failed != nil {
		return errors.Join(err, failed)
	}
	return os.Rename(tmp, dir)
}

// Use points BYES_CUDA_PATH at the emulator and at nothing else, for the rest of the process. Where there is none the test is skipped,
// or fails if BYES_REQUIRE_CC is 1.
func Use(t testing.TB) {
	t.Helper()
	dir, err := Folder()
	if errors.Is(err, ErrNone) && os.Getenv("BYES_REQUIRE_CC") != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Setenv(ffi.PathVariable, dir+string(os.PathListSeparator)+"-"); err != nil {
		t.Fatal(err)
	}
}

// Set changes settings of the device, those of BYES_EMULATE, after Use. What is set with compile=0 makes kernels without compiling them: they
// can be asked for, not launched.
func Set(settings string) error {
	var rest []string
	for _, one := range strings.Split(settings, ",") {
		v, ok := strings.CutPrefix(one, "compile=")
		if !ok {
			rest = append(rest, one)
			continue
		}
		on := uintptr(1)
		if v == "0" {
			on = 0
		}
		for _, lib := range []string{"libnvrtc.so.13", "libnvrtc.so.12"} {
			if err := call(lib, "emulateCompile", on); err != nil {
				return err
			}
		}
	}
	text := ffi.CString(strings.Join(rest, ","))
	return call("libcuda.so.1", "emulateSet", uintptr(unsafe.Pointer(&text[0])))
}

// Reset brings back the settings with which the process began.
func Reset() error {
	return Set("compile=1,capability=90,processors=8,memory=85045149696,order=forward,streams=1,sticky=0,devices=1," + os.Getenv(Variable))
}

// call calls a function of one of the libraries.
//
//go:uintptrescapes
func call(file, name string, arg uintptr) error {
	lib, err := ffi.Open(ffi.Search{What: "the emulator", Unix: []string{file}})
	if err != nil {
		return err
	}
	p, err := lib.Proc(name)
	if err != nil {
		return err
	}
	p.Call(arg)
	return nil
}
