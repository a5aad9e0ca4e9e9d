package tensor

import "math"

// BFloat16 is the upper half of an IEEE 754 binary32.
type BFloat16 uint16

// Float16 is IEEE 754 binary16.
type Float16 uint16

// ToBF16 rounds to the nearest bfloat16, ties to even. A NaN stays a NaN (made quiet, sign and upper payload kept).
func ToBF16(f float32) BFloat16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return BFloat16(b>>16 | 0x40)
	}
	return BFloat16((b + 0x7fff + b>>16&1) >> 16)
}

// Float32 converts exactly.
func (h BFloat16) Float32() float32 { return math.Float32frombits(uint32(h) << 16) }

// ToF16 rounds to the nearest binary16, ties to even, with gradual underflow; beyond 65504 (after rounding) it gives an
// infinity. A NaN stays a NaN (made quiet, sign and upper payload kept).
func ToF16(f float32) Float16 {
	b := math.Float32bits(f)
	sign := uint16(b >> 16 & 0x8000)
	a := b & 0x7fffffff
	switch {
	case a > 0x7f800000:
		return Float16(sign | 0x7e00 | uint16(a>>13&0x1ff))
	case a >= 0x47800000: // 65536 and above, infinity included
		return Float16(sign | 0x7c00)
	case a >= 0x38800000: // normal halves: rebias the exponent, round the 13 dropped bits
		a -= 112 << 23
		return Float16(sign | uint16((a+0xfff+a>>13&1)>>13))
	case a < 0x33000000: // below half the smallest denormal
		return Float16(sign)
	}
	e := a >> 23
	m := a&0x7fffff | 0x800000
	shift := 126 - e // 14..24: position of the half's last bit inside the 24-bit significand
	half := uint32(1) << (shift - 1)
	q := m >> shift
	if r := m & (1<<shift - 1); r > half || (r == half && q&1 == 1) {
		q++
	}
	return Float16(sign | uint16(q))
}

// Float32 converts exactly.
func (h Float16) Float32() float32 {
	sign := uint32(h&0x8000) << 16
	e := uint32(h >> 10 & 0x1f)
	m := uint32(h & 0x3ff)
	switch {
	case e == 31:
		if m != 0 {
			m |= 0x200
		}
		return math.Float32frombits(sign | 0x7f800000 | m<<13)
	case e != 0:
		return math.Float32frombits(sign | (e+112)<<23 | m<<13)
	}
	f := float32(m) * (1.0 / (1 << 24))
	return math.Float32frombits(sign | math.Float32bits(f))
}
