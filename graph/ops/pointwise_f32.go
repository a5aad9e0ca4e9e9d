package ops

// float32 loops of functions that activations are made of. Every product is rounded, so that platforms with fused multiply-add
// agree.

func expm1Of32(dst, a, _, _ []float32) {
	for i, x := range a[:len(dst)] {
		dst[i] = expm1f(x)
	}
}

// expm1f is e^x - 1 within 8 units in the last place: its series near 0, where the difference would cancel.
func expm1f(x float32) float32 {
	if !(x > -0.35 && x < 0.35) {
		return Exp32(x) - 1
	}
	p := float32(1.0 / 40320)
	p = float32(p*x) + 1.0/5040
	p = float32(p*x) + 1.0/720
	p = float32(p*x) + 1.0/120
	p = float32(p*x) + 1.0/24
	p = float32(p*x) + 1.0/6
	p = float32(p*x) + 0.5
	return float32(float32(p*x)*x) + x
}

func softplus32(dst, a, _, _ []float32) {
	for i, x := range a[:len(dst)] {
		switch {
		case x > 0:
			dst[i] = x + log1pUnit(Exp32(-x))
		default: // NaN too
			dst[i] = log1pUnit(Exp32(x))
		}
	}
}

// log1pUnit is log(1+e) for e in [0, 1] within 8 units in the last place: 2·atanh(s) with s = e/(2+e) at most 1/3.
func log1pUnit(e float32) float32 {
	s := e / (2 + e)
	q := float32(s * s)
	p := float32(1.0 / 17)
	p = float32(p*q) + 1.0/15
	p = float32(p*q) + 1.0/13
	p = float32(p*q) + 1.0/11
	p = float32(p*q) + 1.0/9
	p = float32(p*q) + 1.0/7
	p = float32(p*q) + 1.0/5
	p = float32(p*q) + 1.0/3
	t := 2 * s
	return float32(float32(p*q)*t) + t
}
