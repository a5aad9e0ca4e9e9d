//go:build amd64 && !noasm

package quant

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// step8 is what the length of blocks must be a multiple of.
func step8() int {
	switch level {
	case isa.AVX512:
		return 16
	case isa.AVX2:
		return 8
	}
	return math.MaxInt
}

// words shows 16-bit floats as their bits.
func words[E tensor.Float16 | tensor.BFloat16](x []E) *uint16 {
	return &tensor.View[uint16](tensor.AsBytes(x))[0]
}

// maxima sets the largest magnitude of each block of n elements, a multiple of 16; a NaN is the largest.
func maxima[E Real](largest []float32, x []E, n int) {
	switch x := any(x).(type) {
	case []float32:
		maximaF32AVX2(len(largest), n, &largest[0], &x[0])
	case []tensor.BFloat16:
		maximaBF16AVX2(len(largest), n, &largest[0], words(x))
	case []tensor.Float16:
		maximaF16AVX2(len(largest), n, &largest[0], words(x))
	}
}

// rcp sets r to the reciprocals of the first n scales, and others to garbage.
func rcp(r, scales *[runBlocks]float32, n int) {
	if level == isa.AVX512 {
		rcpAVX512((n+15)&^15, &r[0], &scales[0], &rcpTable[0][0])
	} else {
		rcpAVX2((n+7)&^7, &r[0], &scales[0], &rcpTable[0][0])
	}
}

// encode8 writes the codes of len(r) blocks of n elements, a multiple of step8, each times its r.
func encode8[E Real](codes []byte, x []E, r []float32, n int, t *Cells) {
	wide := level == isa.AVX512
	switch x := any(x).(type) {
	case []float32:
		if wide {
			encode8F32AVX512(len(r), n, &codes[0], &x[0], &r[0], &t[0])
		} else {
			encode8F32AVX2(len(r), n, &codes[0], &x[0], &r[0], &t[0])
		}
	case []tensor.BFloat16:
		if wide {
			encode8BF16AVX512(len(r), n, &codes[0], words(x), &r[0], &t[0])
		} else {
			encode8BF16AVX2(len(r), n, &codes[0], words(x), &r[0], &t[0])
		}
	case []tensor.Float16:
		if wide {
			encode8F16AVX512(len(r), n, &codes[0], words(x), &r[0], &t[0])
		} else {
			encode8F16AVX2(len(r), n, &codes[0], words(x), &r[0], &t[0])
		}
	}
}

// encode4 writes the codes of len(r) blocks of n elements, a multiple of 32, each times its r.
func encode4[E Real](codes []byte, x []E, r []float32, n int, scheme Scheme) {
	v, wide, fp4 := vectorTables()[scheme], level == isa.AVX512, scheme == FP4
	blocks, to, scale, table := len(r), &codes[0], &r[0], &v.avx2[0]
	if wide {
		table = &v.avx512[0]
	}
	switch x := any(x).(type) {
	case []float32:
		encode4F32(wide, fp4, blocks, n, to, &x[0], scale, table)
	case []tensor.BFloat16:
		encode4BF16(wide, fp4, blocks, n, to, words(x), scale, table)
	case []tensor.Float16:
		encode4F16(wide, fp4, blocks, n, to, words(x), scale, table)
	}
}

func encode4F32(wide, fp4 bool, blocks, n int, codes *byte, x, r *float32, table *uint32) {
	switch {
	case wide && fp4:
		encodeFP4F32AVX512(blocks, n, codes, x, r, table)
	case wide:
		encodeNF4F32AVX512(blocks, n, codes, x, r, table)
	case fp4:
		encodeFP4F32AVX2(blocks, n, codes, x, r, table)
	default:
		encodeNF4F32AVX2(blocks, n, codes, x, r, table)
	}
}

func encode4BF16(wide, fp4 bool, blocks, n int, codes *byte, x *uint16, r *float32, table *uint32) {
	switch {
	case wide && fp4:
		encodeFP4BF16AVX512(blocks, n, codes, x, r, table)
	case wide:
		encodeNF4BF16AVX512(blocks, n, codes, x, r, table)
	case fp4:
		encodeFP4BF16AVX2(blocks, n, codes, x, r, table)
	default:
		encodeNF4BF16AVX2(blocks, n, codes, x, r, table)
	}
}

func encode4F16(wide, fp4 bool, blocks, n int, codes *byte, x *uint16, r *float32, table *uint32) {
	switch {
	case wide && fp4:
		encodeFP4F16AVX512(blocks, n, codes, x, r, table)
	case wide:
		encodeNF4F16AVX512(blocks, n, codes, x, r, table)
	case fp4:
		encodeFP4F16AVX2(blocks, n, codes, x, r, table)
	default:
		encodeNF4F16AVX2(blocks, n, codes, x, r, table)
	}
}

// decode8Step is what the length of blocks must be a multiple of for decode8.
func decode8Step() int {
	if vbmi() {
		return 64
	}
	return step8()
}

func vbmi() bool { return level == isa.AVX512 && isa.VBMI() && !avoidVBMI }

// avoidVBMI is for tests.
var avoidVBMI bool

// decode8 writes the values of len(absmax) blocks of n codes, a multiple of decode8Step. stream writes past the caches.
func decode8[E Real](dst []E, codes []byte, absmax []float32, n int, c *decodeTable, stream bool) {
	wide := level == isa.AVX512
	blocks, from, scale, table := len(absmax), &codes[0], &absmax[0], &c.values[0]
	switch d := any(dst).(type) {
	case []float32:
		switch {
		case vbmi():
			decode8F32VBMI(blocks, n, &d[0], from, scale, &c.planes[0], stream)
		case wide:
			decode8F32AVX512(blocks, n, &d[0], from, scale, table, stream)
		default:
			decode8F32AVX2(blocks, n, &d[0], from, scale, table, stream)
		}
	case []tensor.BFloat16:
		switch {
		case vbmi():
			decode8BF16VBMI(blocks, n, words(d), from, scale, &c.planes[0], stream)
		case wide:
			decode8BF16AVX512(blocks, n, words(d), from, scale, table, stream)
		default:
			decode8BF16AVX2(blocks, n, words(d), from, scale, table, stream)
		}
	case []tensor.Float16:
		switch {
		case vbmi():
			decode8F16VBMI(blocks, n, words(d), from, scale, &c.planes[0], stream)
		case wide:
			decode8F16AVX512(blocks, n, words(d), from, scale, table, stream)
		default:
			decode8F16AVX2(blocks, n, words(d), from, scale, table, stream)
		}
	}
}
