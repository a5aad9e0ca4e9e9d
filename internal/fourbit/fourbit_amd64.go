//go:build amd64 && !noasm

package fourbit

import (
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// The functions of this file call the assembly of a level. They name it, instead of keeping it in variables, so that arguments stay on
// the stack. False, or 0, says that there is none.

// restoreFast returns how many scales it has written.
func restoreFast(l isa.Level, dst []float32, codes []byte, book *[256]float32, nested, offset float32) int {
	lanes := lanesOf(l)
	if lanes == 0 || len(dst) < lanes {
		return 0
	}
	rounds := len(dst) / lanes
	if l == isa.AVX512 {
		scalesAVX512(rounds, &dst[0], &codes[0], &book[0], nested, offset)
	} else {
		scalesAVX2(rounds, &dst[0], &codes[0], &book[0], nested, offset)
	}
	return rounds * lanes
}

// lanesOf is the float32 lanes of a register.
func lanesOf(l isa.Level) int {
	switch l {
	case isa.AVX512:
		return 16
	case isa.AVX2:
		return 8
	}
	return 0
}

func tablesFast(l isa.Level, dst []Table, scales []float32, values *[16]float32, round tensor.DType, pairs bool) bool {
	n, to, from, v := len(dst), &dst[0][0], &scales[0], &values[0]
	switch {
	case l == isa.Generic:
		return false
	case pairs:
		pairsFast(l, n, to, from, v, round)
	case l == isa.AVX512 && round == tensor.BF16 && ordinary(scales[:n], v):
		nearBF16AVX512(n, to, from, v)
	case l == isa.AVX512 && round == tensor.BF16:
		tablesBF16AVX512(n, to, from, v)
	case l == isa.AVX512 && round == tensor.F16:
		tablesF16AVX512(n, to, from, v)
	case l == isa.AVX512:
		tablesF32AVX512(n, to, from, v)
	case round == tensor.BF16:
		tablesBF16AVX2(n, to, from, v)
	case round == tensor.F16:
		tablesF16AVX2(n, to, from, v)
	default:
		tablesF32AVX2(n, to, from, v)
	}
	return true
}

// ordinary reports whether rounding to bfloat16 may take the short way.
func ordinary(scales []float32, values *float32) bool {
	rounds := len(scales) / 16
	for _, s := range scales[16*rounds:] {
		if !(s >= 0x1p-100 && s <= 0x1p100) {
			return false
		}
	}
	return rounds > 0 && ordinaryAVX512(rounds, &scales[0], values)
}

func pairsFast(l isa.Level, n int, dst *uint32, scales, values *float32, round tensor.DType) {
	switch {
	case l == isa.AVX512 && round == tensor.BF16:
		pairsBF16AVX512(n, dst, scales, values)
	case l == isa.AVX512:
		pairsF16AVX512(n, dst, scales, values)
	case round == tensor.BF16:
		pairsBF16AVX2(n, dst, scales, values)
	default:
		pairsF16AVX2(n, dst, scales, values)
	}
}

// wordsFast decodes a block of 16*groups elements for each table.
func wordsFast(l isa.Level, dst []uint32, codes []byte, tables []Table, groups int, stream bool) bool {
	n := len(tables)
	_, _ = dst[16*groups*n-1], codes[8*groups*n-1]
	switch {
	case l == isa.AVX512 && stream:
		stream32AVX512(&dst[0], &codes[0], &tables[0][0], n, groups)
	case l == isa.AVX512:
		decode32AVX512(&dst[0], &codes[0], &tables[0][0], n, groups)
	case l == isa.AVX2 && stream:
		stream32AVX2(&dst[0], &codes[0], &tables[0][0], n, groups)
	case l == isa.AVX2:
		decode32AVX2(&dst[0], &codes[0], &tables[0][0], n, groups)
	default:
		return false
	}
	return true
}

// fenceFast follows calls with stream.
func fenceFast() { fence() }

// halvesFast is wordsFast for 16 bits; with AVX-512 groups must be even.
func halvesFast(l isa.Level, dst []uint16, codes []byte, tables []Table, groups int, stream bool) bool {
	n := len(tables)
	_, _ = dst[16*groups*n-1], codes[8*groups*n-1]
	switch {
	case l == isa.AVX512 && stream:
		stream16AVX512(&dst[0], &codes[0], &tables[0][0], n, groups/2)
	case l == isa.AVX512:
		decode16AVX512(&dst[0], &codes[0], &tables[0][0], n, groups/2)
	case l == isa.AVX2 && stream:
		stream16AVX2(&dst[0], &codes[0], &tables[0][0], n, groups)
	case l == isa.AVX2:
		decode16AVX2(&dst[0], &codes[0], &tables[0][0], n, groups)
	default:
		return false
	}
	return true
}

// whole packs 32*rounds elements of each lane.
func (p *piece) whole(l isa.Level, rounds, span int) {
	dst, codes, scales, at, values := &p.dst[0], &p.codes[0], &p.scales[0], &p.at[0], &p.values[0]
	switch {
	case l == isa.AVX512 && p.round == tensor.BF16:
		packLanesBF16AVX512(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, span)
	case l == isa.AVX512 && p.round == tensor.F16:
		packLanesF16AVX512(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, span)
	case l == isa.AVX512:
		packLanesF32AVX512(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, span)
	case p.round == tensor.BF16:
		packLanesBF16AVX2(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, span)
	case p.round == tensor.F16:
		packLanesF16AVX2(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, span)
	default:
		packLanesF32AVX2(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, span)
	}
}

// few packs 8*rounds elements of some lanes.
func (p *piece) few(l isa.Level, rounds, lanes int) {
	dst, codes, scales, at, values := &p.dst[0], &p.codes[0], &p.scales[0], &p.at[0], &p.values[0]
	switch {
	case l == isa.AVX512 && p.round == tensor.BF16:
		packFewBF16AVX512(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, lanes)
	case l == isa.AVX512 && p.round == tensor.F16:
		packFewF16AVX512(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, lanes)
	case l == isa.AVX512:
		packFewF32AVX512(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, lanes)
	case p.round == tensor.BF16:
		packFewBF16AVX2(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, lanes)
	case p.round == tensor.F16:
		packFewF16AVX2(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, lanes)
	default:
		packFewF32AVX2(dst, p.ldd, codes, p.stride, scales, p.shift, at, values, rounds, lanes)
	}
}

// rows packs parts of rows, the first element of which is number first.
func (p *piece) rows(l isa.Level, strips, rows, first, cols int) {
	dst, codes, scales, values := &p.dst[0], &p.codes[0], &p.scales[0], &p.values[0]
	switch {
	case l == isa.AVX512 && p.round == tensor.BF16:
		packRowsBF16AVX512(dst, p.ldd, strips, codes, p.stride, rows, scales, p.shift, first, cols, values)
	case l == isa.AVX512 && p.round == tensor.F16:
		packRowsF16AVX512(dst, p.ldd, strips, codes, p.stride, rows, scales, p.shift, first, cols, values)
	case l == isa.AVX512:
		packRowsF32AVX512(dst, p.ldd, strips, codes, p.stride, rows, scales, p.shift, first, cols, values)
	case p.round == tensor.BF16:
		packRowsBF16AVX2(dst, p.ldd, strips, codes, p.stride, rows, scales, p.shift, first, cols, values)
	case p.round == tensor.F16:
		packRowsF16AVX2(dst, p.ldd, strips, codes, p.stride, rows, scales, p.shift, first, cols, values)
	default:
		packRowsF32AVX2(dst, p.ldd, strips, codes, p.stride, rows, scales, p.shift, first, cols, values)
	}
}

// dotFast multiplies by 1, 2 or 4 vectors.
func dotFast(l isa.Level, a *dotArgs, vectors int) bool {
	codes, tables, x, out := &a.codes[0], &a.tables[0][0], &a.x[0], &a.out[0]
	switch {
	case l == isa.AVX512 && vectors == 1:
		dot1AVX512(a.rows, codes, tables, a.blocks, a.units, x, a.ldx, out, a.ldo)
	case l == isa.AVX512 && vectors == 2:
		dot2AVX512(a.rows, codes, tables, a.blocks, a.units, x, a.ldx, out, a.ldo)
	case l == isa.AVX512:
		if pairs := a.rows &^ 1; pairs > 0 {
			dot4AVX512(pairs, codes, tables, a.blocks, a.units, x, a.ldx, out, a.ldo)
		}
		if r := a.rows - 1; r&1 == 0 {
			codes, tables, out = &a.codes[r*a.blocks*a.units*32], &a.tables[r*a.blocks][0], &a.out[r]
			dot2AVX512(1, codes, tables, a.blocks, a.units, x, a.ldx, out, a.ldo)
			dot2AVX512(1, codes, tables, a.blocks, a.units, &a.x[2*a.ldx], a.ldx, &a.out[2*a.ldo+r], a.ldo)
		}
	case l == isa.AVX2 && vectors == 1:
		dot1AVX2(a.rows, codes, tables, a.blocks, a.units, x, a.ldx, out, a.ldo)
	case l == isa.AVX2 && vectors == 2:
		dot2AVX2(a.rows, codes, tables, a.blocks, a.units, x, a.ldx, out, a.ldo)
	case l == isa.AVX2:
		dot4AVX2(a.rows, codes, tables, a.blocks, a.units, x, a.ldx, out, a.ldo)
	default:
		return false
	}
	return true
}

func dotScaledFast(l isa.Level, a *scaledArgs, units int, round tensor.DType) bool {
	codes, scales, values, x, out := &a.codes[0], &a.scales[0], &a.values[0], &a.x[0], &a.out[0]
	switch {
	case l == isa.AVX512 && round == tensor.F32:
		dotScaledF32AVX512(len(a.out), codes, scales, values, a.blocks, units, x, out)
	case l == isa.AVX2 && round == tensor.F32:
		dotScaledF32AVX2(len(a.out), codes, scales, values, a.blocks, units, x, out)
	case l == isa.AVX512 && round == tensor.BF16 && ordinary(a.scales[:len(a.out)*a.blocks], values):
		dotScaledBF16AVX512(len(a.out), codes, scales, values, a.blocks, units, x, out)
	default:
		return false
	}
	return true
}

// sumFast adds rows by fours, then one by one.
func sumFast(l isa.Level, a *sumArgs) bool {
	if l == isa.Generic {
		return false
	}
	ldt := 16 * a.blocks
	for r := 0; r < len(a.x); {
		x, codes, tables := &a.x[r], &a.codes[r*a.stride], &a.tables[r*a.blocks][0]
		four := len(a.x)-r >= 4
		switch {
		case four && l == isa.AVX512:
			sum4AVX512(x, codes, a.stride, tables, ldt, a.blocks, a.units, &a.y[0])
		case four:
			sum4AVX2(x, codes, a.stride, tables, ldt, a.blocks, a.units, &a.y[0])
		case l == isa.AVX512:
			sum1AVX512(x, codes, a.stride, tables, ldt, a.blocks, a.units, &a.y[0])
		default:
			sum1AVX2(x, codes, a.stride, tables, ldt, a.blocks, a.units, &a.y[0])
		}
		r++
		if four {
			r += 3
		}
	}
	return true
}
