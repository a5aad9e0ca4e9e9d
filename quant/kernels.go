package quant

import "github.com/bitsandbyes/bitsandbyes/internal/isa"

// level is the set of instructions in use. What it has no loops for, and elements that do not fill a step of them, are done in Go; all
// levels give the same bits. Only tests change it.
var level = isa.Best()

// encode writes the codes of x·r, which must not be NaN.
func (t *Cells) encode(codes []uint8, x []float32, r float32) {
	codes = codes[:len(x)]
	done := 0
	if step := step8(); len(x) >= step {
		done = len(x) &^ (step - 1)
		scale := [1]float32{r}
		encode8(codes, x, scale[:], done, t)
	}
	t.encodeGo(codes[done:], x[done:], r)
}

// encodeGo is encode in Go.
func (t *Cells) encodeGo(codes []uint8, x []float32, r float32) {
	codes = codes[:len(x)]
	for i, v := range x {
		codes[i] = t.find(float32(v * r))
	}
}

// runBlocks is how many blocks are scaled and then encoded together, while they are in the nearest cache, and runElements how many
// elements at most where a block does not hold more. The encoders prefetch as far ahead (tools/asmgen).
const runBlocks, runElements = 64, 4096

// reciprocals sets r to those of the first n scales and reports whether PlainScale holds for all; where it does not r is garbage.
func reciprocals(r, scales *[runBlocks]float32, n int) (plain bool) {
	plain = true
	for _, a := range scales[:n] {
		plain = plain && PlainScale(a)
	}
	rcp(r, scales, n)
	return plain
}

// RcpTable returns the coefficients of Rcp for kernels that compute it. It must not be written to.
func RcpTable() *[128][2]uint32 { return &rcpTable }
