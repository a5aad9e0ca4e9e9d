package vec

import "unsafe"

// Stream copies src to dst past the caches, as many elements as the shorter has: for a part of a result of at least StreamBytes that is
// not read soon. Fence must follow before another thread reads it.
func Stream(dst, src []float32) { fast.stream(dst, src) }

// Fence makes what Stream wrote visible before all that is written later.
func Fence() {
	if fast.fence != nil {
		fast.fence()
	}
}

func (l *loops) stream(dst, src []float32) {
	n := min(len(dst), len(src))
	dst, src = dst[:n], src[:n]
	if l.copyPast == nil || n < 32 {
		copy(dst, src)
		return
	}
	head := int(-uintptr(unsafe.Pointer(&dst[0]))&63) / 4
	lines := (n - head) / 16
	copy(dst[:head], src)
	l.copyPast(lines, &dst[head], &src[head])
	copy(dst[head+16*lines:], src[head+16*lines:])
}
