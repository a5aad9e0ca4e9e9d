// Package cudnn speaks to NVIDIA's cuDNN 9 through its backend API: descriptors made of attributes, joined to an operation graph for which
// the library offers engines, of which a plan is made that can be kept on disk. What is bound is what attention needs.
//
// Numbers of attributes and enumerations are those of cudnn_graph.h.
package cudnn

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

// Library is an opened cuDNN.
type Library struct {
	dl      *ffi.Library
	fn      api
	version int
}

type api struct {
	Create        ffi.Proc `c:"cudnnCreate"`
	Destroy       ffi.Proc `c:"cudnnDestroy"`
	SetStream     ffi.Proc `c:"cudnnSetStream"`
	Version       ffi.Proc `c:"cudnnGetVersion"`
	ErrorString   ffi.Proc `c:"cudnnGetErrorString"`
	LastError     ffi.Proc `c:"cudnnGetLastErrorString"`
	NewDescriptor ffi.Proc `c:"cudnnBackendCreateDescriptor"`
	SetAttribute  ffi.Proc `c:"cudnnBackendSetAttribute"`
	GetAttribute  ffi.Proc `c:"cudnnBackendGetAttribute"`
	Finalize      ffi.Proc `c:"cudnnBackendFinalize"`
	Free          ffi.Proc `c:"cudnnBackendDestroyDescriptor"`
	Execute       ffi.Proc `c:"cudnnBackendExecute"`
}

// minVersion is 9.6: grouped heads with packed documents.
const minVersion = 90600

// Open finds cuDNN 9 where internal/ffi looks. Engines for attention are compiled when a plan is made, by NVRTC: the caller has opened
// that before, with the helper library that it wants.
func Open() (*Library, error) {
	dl, err := ffi.Open(ffi.Search{What: "cuDNN", Unix: []string{"libcudnn.so.9"}, Windows: []string{"cudnn64_9.dll"},
		Remedy: "install it with `pip install nvidia-cudnn-cu13` (or -cu12), or set " + ffi.PathVariable + " to its folder"})
	if err != nil {
		return nil, err
	}
	l := &Library{dl: dl}
	if err := dl.Load(&l.fn); err != nil {
		return nil, err
	}
	if l.version = int(l.fn.Version.Call()); l.version < minVersion {
		return nil, fmt.Errorf("cuDNN %s at %s is too old: attention needs %s or newer", l.Version(), dl.Path(), versionText(minVersion))
	}
	return l, nil
}

// Path is the file that was opened.
func (l *Library) Path() string { return l.dl.Path() }

// Version is as in "9.19.1".
func (l *Library) Version() string { return versionText(l.version) }

// Number is the version as the library counts: 91901 is 9.19.1.
func (l *Library) Number() int { return l.version }

func versionText(n int) string { return fmt.Sprintf("%d.%d.%d", n/10000, n/100%100, n%100) }

// Some of cudnnStatus_t.
const (
	hostAllocationFailed   = 4003 // CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED
	deviceAllocationFailed = 4004 // CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
	executionFailed        = 5000 // CUDNN_STATUS_EXECUTION_FAILED, and what follows it
)

// Error is a status of the library other than success.
type Error struct {
	Status int32 // cudnnStatus_t
	text   string
}

// Error implements error.
func (e *Error) Error() string { return e.text }

// OutOfMemory tells whether the library had no memory to work with, on the host or the device.
func (e *Error) OutOfMemory() bool {
	return e.Status == hostAllocationFailed || e.Status == deviceAllocationFailed
}

// Passing tells whether the same call may succeed another time: memory was short, or something failed on the device. Other statuses say that the library does
// not have what was asked for; so does CUDNN_STATUS_INTERNAL_ERROR, with which engines answer that cannot be built.
func (e *Error) Passing() bool { return e.OutOfMemory() || e.Status >= executionFailed }

// check turns a status into an error that says what was done.
func (l *Library) check(status uintptr, what string) error {
	s := int32(status)
	if s == 0 {
		return nil
	}
	name := ffi.Text(l.fn.ErrorString.Call(uintptr(s)), 128)
	detail := make([]byte, 512)
	l.fn.LastError.Call(uintptr(unsafe.Pointer(&detail[0])), uintptr(len(detail)))
	text, _, _ := strings.Cut(string(detail), "\x00")
	return &Error{s, fmt.Sprintf("cuDNN %s: %s: status %d %s %s", l.Version(), what, s, name, strings.TrimSpace(text))}
}

// Handle is a cuDNN context of the device that was current when it was made. Its methods may be called from several goroutines, each
// with that device's context current on a locked thread.
type Handle struct {
	lib    *Library
	h      uintptr
	mu     sync.Mutex
	stream uintptr
	packs  map[uintptr]struct{} // descriptions of operands that calls hold
	plans  int                  // that were made with it and are not closed
}

// NewHandle makes a context of the current device.
func (l *Library) NewHandle() (*Handle, error) {
	h := new(uintptr)
	if err := l.check(l.fn.Create.Call(uintptr(unsafe.Pointer(h))), "making a handle"); err != nil {
		return nil, err
	}
	return &Handle{lib: l, h: *h, packs: map[uintptr]struct{}{}}, nil
}

// Library is the library the handle belongs to.
func (h *Handle) Library() *Library { return h.lib }

// Idle tells whether no plan needs the handle.
func (h *Handle) Idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.plans == 0
}

// Close frees the context and what calls hold.
func (h *Handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.h == 0 {
		return nil
	}
	for pack := range h.packs {
		h.lib.fn.Free.Call(pack)
	}
	clear(h.packs)
	err := h.lib.check(h.lib.fn.Destroy.Call(h.h), "freeing a handle")
	h.h = 0
	return err
}

// on makes stream the one that executions go to; h.mu is held.
func (h *Handle) on(stream uintptr) error {
	if h.stream == stream {
		return nil
	}
	if err := h.lib.check(h.lib.fn.SetStream.Call(h.h, stream), "setting the stream"); err != nil {
		return err
	}
	h.stream = stream
	return nil
}

// builder makes descriptors, keeps the first error, and frees what it made.
type builder struct {
	lib  *Library
	made []uintptr
	err  error
}

func (b *builder) make(k kind) uintptr {
	if b.err != nil {
		return 0
	}
	d := new(uintptr)
	b.status(b.lib.fn.NewDescriptor.Call(uintptr(k), uintptr(unsafe.Pointer(d))), "creating", k)
	b.made = append(b.made, *d)
	return *d
}

// status keeps the first error, saying what was done.
func (b *builder) status(status uintptr, verb string, what any) {
	if int32(status) != 0 && b.err == nil {
		b.err = b.lib.check(status, fmt.Sprintf("%s %v", verb, what))
	}
}

// set sets an attribute to values.
func set[V any](b *builder, d uintptr, a attr, t attrType, values ...V) {
	if b.err != nil || len(values) == 0 {
		return
	}
	b.status(b.lib.fn.SetAttribute.Call(d, uintptr(a), uintptr(t), uintptr(len(values)), uintptr(unsafe.Pointer(&values[0]))),
		"setting attribute", int(a))
	runtime.KeepAlive(values)
}

// get reads one value of an attribute.
func get[V any](b *builder, d uintptr, a attr, t attrType) V {
	v, n := new(V), new(int64)
	if b.err == nil {
		b.status(b.lib.fn.GetAttribute.Call(d, uintptr(a), uintptr(t), 1, uintptr(unsafe.Pointer(n)), uintptr(unsafe.Pointer(v))),
			"reading attribute", int(a))
	}
	return *v
}

func (b *builder) finalize(d uintptr, what any) uintptr {
	if b.err == nil {
		b.status(b.lib.fn.Finalize.Call(d), "finalizing", what)
	}
	return d
}

// free destroys the descriptors but those in keep.
func (b *builder) free(keep ...uintptr) {
next:
	for i := len(b.made) - 1; i >= 0; i-- {
		for _, k := range keep {
			if b.made[i] == k {
				continue next
			}
		}
		if b.made[i] != 0 {
			b.lib.fn.Free.Call(b.made[i])
		}
	}
	b.made = nil
}
