// Package ffi opens shared libraries while the program runs and calls their functions: the only place of unsafe foreign calls. No C
// compiler and no cgo are needed. The build tag nogpu leaves all of it out and makes programs static; every Open then says so.
//
// Rules for callers. A pointer handed to C is converted to uintptr inside the call expression, so that what it points to stays in place
// until the call returns. A block of arguments that is reused (Call with a slice) holds numbers only, or addresses whose owner is
// kept alive by the caller. C must not keep a pointer to Go memory after it returned. Libraries with state per thread (the CUDA driver)
// are called between runtime.LockOSThread and UnlockOSThread.
package ffi

import (
	"fmt"
	"reflect"
	"strings"
	"unsafe"
)

// Library is an opened shared library. It stays open for the life of the process: its threads and its code may be in use at any time.
type Library struct {
	path   string
	handle uintptr
}

// Path is the file that was opened, or the bare name where the system does not tell.
func (l *Library) Path() string { return l.path }

// Proc is the address of a C function whose arguments and result are integers and pointers. The zero Proc is an absent function.
type Proc struct{ fn uintptr }

// Present tells whether the library has the function.
func (p Proc) Present() bool { return p.fn != 0 }

// Call calls the function with up to 32 arguments and returns its result. Calling an absent function returns Absent. Passing a slice
// that is kept for the purpose allocates nothing.
//
//go:uintptrescapes
func (p Proc) Call(args ...uintptr) uintptr {
	if p.fn == 0 {
		return Absent
	}
	return call(p.fn, args)
}

// Absent is what Call returns for a function that the library does not have; no library here uses the value.
const Absent = 0x7fff0000

// Proc finds a function by its symbol.
func (l *Library) Proc(symbol string) (Proc, error) {
	fn, err := lookup(l.handle, symbol)
	if err != nil {
		return Proc{}, fmt.Errorf("%s has no %s: another version of the library is needed", l.path, symbol)
	}
	return Proc{fn}, nil
}

// Load fills the Proc fields of the struct that table points to. A field's tag c is its symbol, as in `c:"cuInit"`; those marked
// `c:"cuInit,optional"` may be absent. The error lists every missing one.
func (l *Library) Load(table any) error {
	v := reflect.ValueOf(table)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("ffi: Load wants a pointer to a struct of Proc, not %T", table)
	}
	v = v.Elem()
	var missing []string
	for i := range v.NumField() {
		symbol, mark, _ := strings.Cut(v.Type().Field(i).Tag.Get("c"), ",")
		if symbol == "" {
			continue
		}
		if !v.Type().Field(i).IsExported() || v.Type().Field(i).Type != reflect.TypeFor[Proc]() {
			return fmt.Errorf("ffi: field %s has a tag c but is no exported Proc", v.Type().Field(i).Name)
		}
		fn, err := lookup(l.handle, symbol)
		if err != nil {
			if mark != "optional" {
				missing = append(missing, symbol)
			}
			continue
		}
		v.Field(i).Set(reflect.ValueOf(Proc{fn}))
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s has no %s: another version of the library is needed", l.path, strings.Join(missing, ", "))
	}
	return nil
}

// Text copies a C string, at most limit bytes of it.
func Text(at uintptr, limit int) string {
	if at == 0 {
		return ""
	}
	// The address came from C as a number; reading it through a pointer to the variable keeps vet's rule for conversions.
	p := *(*unsafe.Pointer)(unsafe.Pointer(&at))
	var b []byte
	for i := range limit {
		c := *(*byte)(unsafe.Add(p, i))
		if c == 0 {
			break
		}
		b = append(b, c)
	}
	return string(b)
}

// Memory is a view of n bytes at an address that C owns, as pinned host memory. It is valid as long as the owner keeps the memory.
func Memory(at uintptr, n int64) []byte {
	if at == 0 || n <= 0 {
		return nil
	}
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&at))), n)
}

// CString is s with a zero byte behind it; pass its address with uintptr(unsafe.Pointer(&b[0])) inside the call.
func CString(s string) []byte { return append([]byte(s), 0) }
