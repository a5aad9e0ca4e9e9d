package quant

import (
	"math"
	"sync"
)

// Float8 is an 8-bit floating-point format of "FP8 Formats for Deep Learning" (Micikevicius et al. 2022, arXiv 2209.05433), as the OCP
// specification OFP8 1.0 and PyTorch's float8_e4m3fn and float8_e5m2 have it.
type Float8 uint8

const (
	// E4M3 has 4 exponent bits (bias 7) and 3 of mantissa, no infinity and one NaN of each sign (0x7f, 0xff). Its largest value is 448.
	E4M3 Float8 = iota
	// E5M2 has 5 exponent bits (bias 15) and 2 of mantissa, infinities and NaN as IEEE 754. Its largest finite value is 57344.
	E5M2
)

// String returns the name in PyTorch and safetensors without "float8_": "e4m3fn" or "e5m2".
func (f Float8) String() string {
	if f == E4M3 {
		return "e4m3fn"
	}
	return "e5m2"
}

// Max is the largest finite value.
func (f Float8) Max() float32 {
	if f == E4M3 {
		return 448
	}
	return 57344
}

// mantissa is the number of mantissa bits, bias that of the exponent, top the code of the largest finite value.
func (f Float8) layout() (mantissa, bias uint32, top uint8) {
	if f == E4M3 {
		return 3, 7, 0x7e
	}
	return 2, 15, 0x7b
}

// Encode rounds to the nearest code, ties to even, with gradual underflow. Values that round beyond Max become ±Max when saturate is
// set, else an infinity (e5m2) or NaN (e4m3fn). NaN stays NaN with its sign: 0x7f in e4m3fn, 0x7f in e5m2.
func (f Float8) Encode(x float32, saturate bool) uint8 {
	m, bias, top := f.layout()
	b := math.Float32bits(x)
	sign, a := uint8(b>>24)&0x80, b&^signBit
	if a > infBits {
		return sign | 0x7f
	}
	var code uint32
	if e := int(a>>23) - 127 + int(bias); e <= 0 {
		// Subnormal codes are multiples of 2^(1-bias-m); adding 2^23 of them rounds to even in the sum's last bits.
		step := math.Float32frombits((127 + 1 - bias - m + 23) << 23)
		code = math.Float32bits(math.Float32frombits(a)+step) - math.Float32bits(step)
	} else {
		shift := 23 - m
		a -= (127 - bias) << 23
		code = (a + (1<<(shift-1) - 1) + a>>shift&1) >> shift
	}
	switch {
	case code <= uint32(top):
		return sign | uint8(code)
	case saturate:
		return sign | top
	}
	return sign | top + 1 // infinity in e5m2, NaN in e4m3fn
}

// Decode is exact. NaN codes give a quiet NaN of their sign.
func (f Float8) Decode(code uint8) float32 { return f.table().values[code] }

// Values returns the value of each code; some are NaN, in e5m2 two are infinite.
func (f Float8) Values() [256]float32 { return f.table().values }

func (f Float8) table() *decodeTable {
	if f == E4M3 {
		return e4m3Table()
	}
	return e5m2Table()
}

var (
	e4m3Table = sync.OnceValue(func() *decodeTable { return float8Table(E4M3) })
	e5m2Table = sync.OnceValue(func() *decodeTable { return float8Table(E5M2) })
)

func float8Table(f Float8) *decodeTable {
	m, bias, top := f.layout()
	var t [256]float32
	for code := range t {
		a := uint32(code) & 0x7f
		exponent, frac := int(a>>m), float64(a&(1<<m-1))/float64(int(1)<<m)
		v := math.Ldexp(1+frac, exponent-int(bias))
		switch {
		case exponent == 0:
			v = math.Ldexp(frac, 1-int(bias))
		case a == uint32(top)+1 && f == E5M2:
			v = math.Inf(1)
		case a > uint32(top):
			v = math.NaN()
		}
		t[code] = math.Float32frombits(math.Float32bits(float32(v))&^signBit | uint32(code)>>7<<31)
	}
	table := newDecodeTable(t)
	return &table
}
