package vec

// RowOp is a formula of up to three rows and the numbers k of a row. Every product and sum is rounded on its own, so that all levels
// give equal bits.
type RowOp uint8

// The formulas.
const (
	RowScale              RowOp = iota // a·k0
	RowShiftTwice                      // (a-k0)-k1
	RowWeighDifference                 // a·(b-k0)
	RowSubtractScaled                  // b-a·k0
	RowNormal                          // (a-k0)·k1
	RowNormalShifted                   // (a-k0)·k1+k2
	RowNormalWeighted                  // (a-k0)·k1·b
	RowNormalAffine                    // (a-k0)·k1·b+c
	RowAddNormal                       // c+b·((a-k0)·k1)
	RowNormalGrad                      // k1·(b-k2-(a-k0)·k1·k3)
	RowNormalGradWeighted              // k1·(b·c-k2-(a-k0)·k1·k3)
	RowChannelGrad                     // k1·(b-k2-(a-k0)·k3)

	NumRowOps
)

// rowLoop is the assembly loop of a formula.
type rowLoop func(n int, dst, a, b, c *float32, k0, k1, k2, k3 float32)

// rowTwins are the formulas in Go and how many rows they take.
var rowTwins = [NumRowOps]struct {
	arity int
	f     func(a, b, c float32, k [4]float32) float32
}{
	RowScale:           {1, func(a, b, c float32, k [4]float32) float32 { return a * k[0] }},
	RowShiftTwice:      {1, func(a, b, c float32, k [4]float32) float32 { return (a - k[0]) - k[1] }},
	RowWeighDifference: {2, func(a, b, c float32, k [4]float32) float32 { return a * (b - k[0]) }},
	RowSubtractScaled:  {2, func(a, b, c float32, k [4]float32) float32 { return b - float32(a*k[0]) }},
	RowNormal:          {1, func(a, b, c float32, k [4]float32) float32 { return (a - k[0]) * k[1] }},
	RowNormalShifted:   {1, func(a, b, c float32, k [4]float32) float32 { return float32((a-k[0])*k[1]) + k[2] }},
	RowNormalWeighted:  {2, func(a, b, c float32, k [4]float32) float32 { return float32((a-k[0])*k[1]) * b }},
	RowNormalAffine:    {3, func(a, b, c float32, k [4]float32) float32 { return float32(float32((a-k[0])*k[1])*b) + c }},
	RowAddNormal:       {3, func(a, b, c float32, k [4]float32) float32 { return c + float32(b*float32((a-k[0])*k[1])) }},
	RowNormalGrad: {2, func(a, b, c float32, k [4]float32) float32 {
		return k[1] * ((b - k[2]) - float32(float32((a-k[0])*k[1])*k[3]))
	}},
	RowNormalGradWeighted: {3, func(a, b, c float32, k [4]float32) float32 {
		return k[1] * ((float32(b*c) - k[2]) - float32(float32((a-k[0])*k[1])*k[3]))
	}},
	RowChannelGrad: {2, func(a, b, c float32, k [4]float32) float32 { return k[1] * ((b - k[2]) - float32((a-k[0])*k[3])) }},
}

// Run sets dst to the formula of rows a, b and c, which must not be shorter than dst where the formula takes them; dst may be one of
// them.
func (o RowOp) Run(dst, a, b, c []float32, k [4]float32) { fast.runRow(o, dst, a, b, c, k) }

func (l *loops) runRow(o RowOp, dst, a, b, c []float32, k [4]float32) {
	n := len(dst)
	if n == 0 {
		return
	}
	t := &rowTwins[o]
	a = a[:n]
	if t.arity > 1 {
		b = b[:n]
	} else {
		b = a
	}
	if t.arity > 2 {
		c = c[:n]
	} else {
		c = a
	}
	if f := l.rows[o]; f != nil {
		f(n, &dst[0], &a[0], &b[0], &c[0], k[0], k[1], k[2], k[3])
		return
	}
	for i, x := range a {
		dst[i] = t.f(x, b[i], c[i], k)
	}
}

// TurnHalves sets y0 to x0·cos - x1·sin·sign and y1 to x1·cos + x0·sin·sign, len(cos) elements each; y may be x.
func TurnHalves(y0, y1, x0, x1, cos, sin []float32, sign float32) {
	fast.turn(y0, y1, x0, x1, cos, sin, sign)
}

func (l *loops) turn(y0, y1, x0, x1, cos, sin []float32, sign float32) {
	n := len(cos)
	if n == 0 {
		return
	}
	y0, y1, x0, x1, sin = y0[:n], y1[:n], x0[:n], x1[:n], sin[:n]
	if l.turnHalves != nil {
		l.turnHalves(n, &y0[0], &y1[0], &x0[0], &x1[0], &cos[0], &sin[0], sign)
		return
	}
	for i, c := range cos {
		s, a, b := sin[i]*sign, x0[i], x1[i]
		y0[i] = float32(a*c) - float32(b*s)
		y1[i] = float32(b*c) + float32(a*s)
	}
}

// TurnNeighbours is TurnHalves for pairs of neighbours, x[2i] and x[2i+1]; y may be x.
func TurnNeighbours(y, x, cos, sin []float32, sign float32) { fast.turnPairs(y, x, cos, sin, sign) }

func (l *loops) turnPairs(y, x, cos, sin []float32, sign float32) {
	n := len(cos)
	y, x, sin = y[:2*n], x[:2*n], sin[:n]
	done := 0
	if l.turnNeighbours != nil {
		if done = n / 8 * 8; done > 0 {
			l.turnNeighbours(done, &y[0], &x[0], &cos[0], &sin[0], sign)
		}
	}
	for i := done; i < n; i++ {
		c, s, a, b := cos[i], sin[i]*sign, x[2*i], x[2*i+1]
		y[2*i] = float32(a*c) - float32(b*s)
		y[2*i+1] = float32(b*c) + float32(a*s)
	}
}

// AddWide adds x[i] to sum[i] for each element of x.
func AddWide(sum []float64, x []float32) { fast.addTo(sum, x) }

func (l *loops) addTo(sum []float64, x []float32) {
	sum = sum[:len(x)]
	done := 0
	if l.addWide != nil {
		if done = len(x) / 16 * 16; done > 0 {
			l.addWide(done, &sum[0], &x[0])
		}
	}
	for i, v := range x[done:] {
		sum[done+i] += float64(v)
	}
}
