package cpu

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapBytes takes zeroed memory straight from the system, beginning at a large page, and asks for large pages where whole ones fit, which
// systems give on request (transparent_hugepage = madvise, the usual setting). The second result gives it back.
func mapBytes(n int64) ([]byte, func() error, error) {
	whole, err := unix.Mmap(-1, 0, int(n+hugePage), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, fmt.Errorf("cpu: cannot allocate %d bytes: %w", n, err)
	}
	at := int64(-uintptr(unsafe.Pointer(&whole[0])) & (hugePage - 1)) // what lies around is never touched, so it takes no memory
	b := whole[at : at+n : at+n]
	_ = unix.Madvise(b[:n&^(hugePage-1)], unix.MADV_HUGEPAGE) // a kernel without large pages refuses: small ones do
	return b, func() error { return unix.Munmap(whole) }, nil
}

// wantLargePages asks for large pages where whole ones fit into b.
func wantLargePages(b []byte) {
	at := int(-uintptr(unsafe.Pointer(&b[0])) & (hugePage - 1))
	if n := (len(b) - at) &^ (hugePage - 1); n > 0 {
		_ = unix.Madvise(b[at:at+n], unix.MADV_HUGEPAGE) // as in mapBytes
	}
}
