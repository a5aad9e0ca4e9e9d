package step

// Scale sets dst[i] to src[i]·s and reports whether all of them are finite. dst may be src.
func Scale(dst, src []float32, s float32) (finite bool) { return fast.scale(dst, src, s) }

func (l *loops) scale(dst, src []float32, s float32) bool {
	dst = dst[:len(src)]
	var carry uint32 // into the sign, from an exponent of ones
	if blocks := len(src) / 16; l.scaled != nil && blocks > 0 {
		carry = l.scaled(blocks, &dst[0], &src[0], s)
		dst, src = dst[16*blocks:], src[16*blocks:]
	}
	for i, x := range src {
		x *= s
		dst[i] = x
		carry |= exponentCarry(x)
	}
	return carry>>31 == 0
}
