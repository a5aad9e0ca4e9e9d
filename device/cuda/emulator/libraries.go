package emulator

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

// Where Folder has the stand-ins for cuBLASLt and cuDNN, which compute nothing: apart, as most tests want own kernels.
const (
	libraries = "libraries"
	blasFile  = "libcublasLt.so.13"
)

// UseLibraries has devices that are opened in a test, after Use, find stand-ins for cuBLASLt and cuDNN. They compute nothing. The test fails if a
// call broke the libraries' rules for contexts, threads, lifetimes and addresses (src/libraries.cpp), or if, when it has closed its devices, something that was
// made is left.
func UseLibraries(t testing.TB) {
	t.Helper()
	dir, err := Folder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, problems := broken(t)
		if left != 0 || problems != "" {
			t.Errorf("%d objects of the libraries are left; rules that were broken:\n%s", left, problems)
		}
	})
	old := os.Getenv(ffi.PathVariable)
	if err := os.Setenv(ffi.PathVariable, strings.Join([]string{filepath.Join(dir, libraries), dir, "-"}, string(os.PathListSeparator))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Setenv(ffi.PathVariable, old) }) // what was set once can be set again
}

// SetPlanWorkspace is what plans ask for that the stand-in for cuDNN makes from now on.
func SetPlanWorkspace(t testing.TB, bytes int64) {
	inLibraries(t, "emulatePlanWorkspace", uintptr(bytes))
}

// SetHandles is how many handles the stand-in for cuDNN makes.
func SetHandles(t testing.TB, most int) { inLibraries(t, "emulateHandles", uintptr(most)) }

// HandlesAtOnce is how many handles of the stand-in for cuDNN there were at once since it was asked last.
func HandlesAtOnce(t testing.TB) int { return int(int32(inLibraries(t, "emulateHandlesAtOnce"))) }

// SetPlanTexts says whether the stand-in for cuDNN makes plans that can be kept, until the test ends.
func SetPlanTexts(t testing.TB, on bool) {
	t.Helper()
	set := map[bool]uintptr{true: 1}
	inLibraries(t, "emulatePlanTexts", set[on])
	t.Cleanup(func() { inLibraries(t, "emulatePlanTexts", 1) })
}

// SetProducts is what the stand-in for cuBLASLt answers, a cublasStatus_t, when it is asked for a product, until the test ends; 0 if it takes them.
func SetProducts(t testing.TB, status int) {
	t.Helper()
	inLibraries(t, "emulateProducts", uintptr(status))
	t.Cleanup(func() { inLibraries(t, "emulateProducts", 0) })
}

// SetSuggestions is how many algorithms the stand-in for cuBLASLt suggests for a product, until the test ends; 3 otherwise.
func SetSuggestions(t testing.TB, n int) {
	t.Helper()
	inLibraries(t, "emulateSuggestions", uintptr(n))
	t.Cleanup(func() { inLibraries(t, "emulateSuggestions", 3) })
}

// SetPlans is what the stand-in for cuDNN answers, a cudnnStatus_t, to so many of the engines that are asked for a plan next. Two are asked for each plan, of
// which the first refuses otherwise.
func SetPlans(t testing.TB, status, times int) {
	t.Helper()
	inLibraries(t, "emulatePlans", uintptr(status), uintptr(times))
	t.Cleanup(func() { inLibraries(t, "emulatePlans", 0, 0) })
}

// broken is how many objects there are, and which rules were broken since it was asked last.
func broken(t testing.TB) (left int, problems string) {
	b := make([]byte, 1<<16)
	n := inLibraries(t, "emulateLibraries", uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	text, _, _ := strings.Cut(string(b), "\x00")
	return int(int32(n)), text
}

//go:uintptrescapes
func inLibraries(t testing.TB, name string, args ...uintptr) uintptr {
	t.Helper()
	dir, err := Folder()
	if err != nil {
		t.Fatal(err)
	}
	old := os.Getenv(ffi.PathVariable)
	_ = os.Setenv(ffi.PathVariable, filepath.Join(dir, libraries)+string(os.PathListSeparator)+"-") // a name without zeros can be set
	defer func() { _ = os.Setenv(ffi.PathVariable, old) }()
	lib, err := ffi.Open(ffi.Search{What: "the emulator's libraries", Unix: []string{blasFile}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := lib.Proc(name)
	if err != nil {
		t.Fatal(err)
	}
	return p.Call(args...)
}
