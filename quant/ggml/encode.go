package ggml

import (
	"encoding/binary"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func encodeF32(dst []byte, src []float32) {
	for i, v := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

func encodeF16(dst []byte, src []float32) {
	for i, v := range src {
		putF16(dst[2*i:], v)
	}
}

func encodeBF16(dst []byte, src []float32) {
	for i, v := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], uint16(tensor.ToBF16(v)))
	}
}

func encodeQ4_0(dst []byte, src []float32) {
	var q [32]uint8
	putF16(dst, centered(&q, src, 8))
	pack(dst[2:18], &q)
}

func encodeQ5_0(dst []byte, src []float32) {
	var q [32]uint8
	putF16(dst, centered(&q, src, 16))
	binary.LittleEndian.PutUint32(dst[2:], fifths(&q))
	pack(dst[6:22], &q)
}

func encodeQ4_1(dst []byte, src []float32) {
	var q [32]uint8
	d, m := ranged(&q, src, 15)
	putF16(dst, d)
	putF16(dst[2:], m)
	pack(dst[4:20], &q)
}

func encodeQ5_1(dst []byte, src []float32) {
	var q [32]uint8
	d, m := ranged(&q, src, 31)
	putF16(dst, d)
	putF16(dst[2:], m)
	binary.LittleEndian.PutUint32(dst[4:], fifths(&q))
	pack(dst[8:24], &q)
}

// centered scales by the element of largest magnitude (the first of equals), which gets code 0, so that -half·d is exact.
func centered(q *[32]uint8, src []float32, half int) (d float32) {
	var top float32
	for _, v := range src {
		if abs(v) > abs(top) {
			top = v
		}
	}
	d = top / float32(-half)
	inv, bias := inverse(d), float32(half)+0.5
	for i, v := range src {
		q[i] = min(uint8(float32(v*inv)+bias), uint8(2*half-1))
	}
	return d
}

// ranged spreads the codes 0..top from the smallest element to the largest.
func ranged(q *[32]uint8, src []float32, top int) (d, m float32) {
	lo, hi := src[0], src[0]
	for _, v := range src { // not min and max: they order zeros and NaN too, at several times the cost
		if v < lo {
			lo = v
		}
		if v > hi {
			hi = v
		}
	}
	d = (hi - lo) / float32(top)
	inv := inverse(d)
	for i, v := range src {
		q[i] = min(uint8(float32((v-lo)*inv)+0.5), uint8(top))
	}
	return d, lo
}

// encodeQ8_0 rounds halves away from zero, as roundf does.
func encodeQ8_0(dst []byte, src []float32) {
	var top float32
	for _, v := range src {
		if a := abs(v); a > top {
			top = a
		}
	}
	d := top / 127
	inv := inverse(d)
	putF16(dst, d)
	for i, v := range src {
		dst[2+i] = uint8(int8(roundAway(v * inv)))
	}
}

// inverse is 1/d; 0 where d is 0, or so small that its inverse overflows and float16 holds 0 for it anyway.
func inverse(d float32) float32 {
	if inv := 1 / d; d != 0 && !math.IsInf(float64(inv), 0) {
		return inv
	}
	return 0
}

func abs(v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ (1 << 31)) }

// roundAway rounds to the nearest whole number, halves away from zero. |v| is at most 128.
func roundAway(v float32) int32 {
	whole := int32(v)
	switch rest := v - float32(whole); {
	case rest >= 0.5:
		return whole + 1
	case rest <= -0.5:
		return whole - 1
	}
	return whole
}

// pack joins the low halves of elements i and i+16.
func pack(dst []byte, q *[32]uint8) {
	for i := range 16 {
		dst[i] = q[i]&15 | q[i+16]<<4
	}
}

// fifths collects the fifth bits.
func fifths(q *[32]uint8) uint32 {
	var high uint32
	for i, v := range q {
		high |= uint32(v>>4&1) << i
	}
	return high
}
