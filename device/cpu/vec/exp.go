package vec

import "math"

// ln 2 in two parts; the product of the first with an exponent is exact.
const (
	ln2High = 0.693359375
	ln2Low  = math.Ln2 - ln2High
)

// exp32 is the algorithm of the assembly: x = n*ln2 + r, the Taylor polynomial of degree 7 in r, times 2^n in two steps so that
// the result may be subnormal.
func exp32(x float32) float32 {
	if x != x {
		return x
	}
	x = min(max(x, -105), 89)
	n := float32(math.RoundToEven(float64(x * math.Log2E)))
	r := x - n*ln2High - n*ln2Low
	p := float32(1. / 5040)
	p = p*r + 1./720
	p = p*r + 1./120
	p = p*r + 1./24
	p = p*r + 1./6
	p = p*r + 1./2
	p = p*r + 1
	p = p*r + 1
	e := int32(n)
	half := e >> 1
	return p * power2(half) * power2(e-half)
}

func power2(e int32) float32 { return math.Float32frombits(uint32(e+127) << 23) }

func sigmoid32(x float32) float32 { return 1 / (1 + exp32(-x)) }

func silu32(x float32) float32 { return x / (1 + exp32(-x)) }

func geluTanh32(x float32) float32 {
	const scale = -2 * math.Sqrt2 / (math.SqrtPi)
	return x / (1 + exp32(scale*(x+0.044715*x*x*x)))
}
