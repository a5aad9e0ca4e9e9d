package probe

import "golang.org/x/sys/unix"

// reserve maps memory outside the heap, in large pages where the system gives them.
func reserve(n int64) (b []byte, free func(), err error) {
	b, err = unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // refused where the kernel has none
	return b, func() { _ = unix.Munmap(b) }, nil
}
