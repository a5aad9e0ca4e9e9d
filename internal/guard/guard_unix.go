//go:build unix

package guard

import (
	"errors"
	"os"
	"syscall"
)

func guarded(size int) (b []byte, free func(), err error) {
	page := os.Getpagesize()
	inner := (size + page) / page * page
	all, err := syscall.Mmap(-1, 0, inner+2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	free = func() { _ = syscall.Munmap(all) }
	err = errors.Join(syscall.Mprotect(all[:page], syscall.PROT_NONE), syscall.Mprotect(all[page+inner:], syscall.PROT_NONE))
	return all[page : page+inner], free, err
}
