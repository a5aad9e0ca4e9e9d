package fourbit

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Products of few vectors work on units of codes. The elements of a vector are brought into the order in which a unit's codes come out
// once, by Arrange, so that codes need no shuffling.

// MaxVectors is how many vectors one pass over the codes multiplies.
const MaxVectors = 4

// Unit returns the elements of a unit for rows of cols elements: blocks must be whole units, and rows whole blocks. Zero says that codes
// have to be decoded to be multiplied.
func Unit(cols, blocksize int) int { return unit(isa.Best(), cols, blocksize) }

func unit(l isa.Level, cols, blocksize int) int {
	if cols%blocksize != 0 {
		return 0
	}
	for ; l > isa.Generic; l-- {
		if n := 4 * lanesOf(l); blocksize%n == 0 {
			return n
		}
	}
	if blocksize%unitGo == 0 {
		return unitGo
	}
	return 0
}

// unitGo is the elements of a unit in Go.
const unitGo = 32

// places are where the elements of a word of four codes are: the lowest code is the second element.
var places = [4]int{1, 0, 3, 2}

// Arrange writes whole units of x to dst in the order of their codes.
func Arrange(dst, x []float32, unit int) {
	lanes := unit / 4
	for len(x) >= unit {
		for t, place := range places {
			part := dst[t*lanes : (t+1)*lanes]
			for i := range part {
				part[i] = x[4*i+place]
			}
		}
		dst, x = dst[unit:], x[unit:]
	}
}

// Restore undoes Arrange.
func Restore(dst, x []float32, unit int) {
	lanes := unit / 4
	for len(x) >= unit {
		for t, place := range places {
			for i, v := range x[t*lanes : (t+1)*lanes] {
				dst[4*i+place] = v
			}
		}
		dst, x = dst[unit:], x[unit:]
	}
}

// levelOf is the level whose assembly has units of that size.
func levelOf(best isa.Level, unit int) isa.Level {
	for l := best; l > isa.Generic; l-- {
		if 4*lanesOf(l) == unit {
			return l
		}
	}
	return isa.Generic
}

// Dot sets out[v*ldo+r] to the sum of row r times vector v, for up to MaxVectors vectors of arranged elements, ldx apart, and for as many
// rows as out has, at most ldo. A row is blocks tables; codes and tables begin with row 0.
func Dot(out []float32, ldo, rows int, codes []byte, tables []Table, blocks, blocksize int, x []float32, ldx, vectors, unit int) {
	dot(isa.Best(), &dotArgs{out, ldo, rows, codes, tables, blocks, blocksize / unit, x, ldx}, vectors, unit)
}

// DotScaled is Dot for one vector, from scales: where tables are cheap they are made on the way. tables is free memory, a table for each
// scale.
func (w *Weight) DotScaled(out []float32, codes []byte, scales []float32, tables []Table, blocks int, x []float32, unit int, round tensor.DType) {
	w.dotScaled(isa.Best(), &scaledArgs{out, codes, scales, &w.Values, blocks, x}, tables, unit, round)
}

type scaledArgs struct {
	out    []float32
	codes  []byte
	scales []float32
	values *[16]float32
	blocks int
	x      []float32
}

func (w *Weight) dotScaled(best isa.Level, a *scaledArgs, tables []Table, unit int, round tensor.DType) {
	rows, cols := len(a.out), a.blocks*w.Blocksize
	if rows > 0 && cols > 0 {
		_, _, _ = a.codes[rows*cols/2-1], a.scales[rows*a.blocks-1], a.x[cols-1]
		if dotScaledFast(levelOf(best, unit), a, w.Blocksize/unit, round) {
			return
		}
	}
	makeTables(best, tables[:rows*a.blocks], a.scales, &w.Values, round, false)
	dot(best, &dotArgs{a.out, rows, rows, a.codes, tables, a.blocks, w.Blocksize / unit, a.x, cols}, 1, unit)
}

type dotArgs struct {
	out           []float32
	ldo, rows     int
	codes         []byte
	tables        []Table
	blocks, units int // tables of a row, units of a table
	x             []float32
	ldx           int
}

func dot(best isa.Level, a *dotArgs, vectors, unit int) {
	if a.rows == 0 {
		return
	}
	cols := a.blocks * a.units * unit
	if a.blocks == 0 {
		for v := range vectors {
			clear(a.out[v*a.ldo:][:a.rows])
		}
		return
	}
	_, _, _, _ = a.codes[a.rows*cols/2-1], a.tables[a.rows*a.blocks-1], a.x[(vectors-1)*a.ldx+cols-1], a.out[(vectors-1)*a.ldo+a.rows-1]
	l := levelOf(best, unit)
	for vectors > 0 {
		n := 1
		for 2*n <= min(vectors, MaxVectors) {
			n *= 2
		}
		if !dotFast(l, a, n) {
			dotGo(a, n, unit)
		}
		vectors -= n
		if vectors > 0 {
			a.out, a.x = a.out[n*a.ldo:], a.x[n*a.ldx:]
		}
	}
}

// dotGo is the twin of the assembly.
func dotGo(a *dotArgs, vectors, unit int) {
	lanes, units := unit/4, a.blocks*a.units
	for r := range a.rows {
		for v := range vectors {
			var sums [4]float32
			for u := range units {
				t := &a.tables[r*a.blocks+u/a.units]
				x := a.x[v*a.ldx+u*unit:][:unit]
				codes := a.codes[(r*units+u)*unit/2:][:unit/2]
				for i := range lanes {
					word := uint32(codes[2*i]) | uint32(codes[2*i+1])<<8
					sums[0] += math.Float32frombits(t[word&15]) * x[i]
					sums[1] += math.Float32frombits(t[word>>4&15]) * x[lanes+i]
					sums[2] += math.Float32frombits(t[word>>8&15]) * x[2*lanes+i]
					sums[3] += math.Float32frombits(t[word>>12]) * x[3*lanes+i]
				}
			}
			a.out[v*a.ldo+r] = (sums[0] + sums[2]) + (sums[1] + sums[3])
		}
	}
}

// SumRows adds x[r] times row r of a weight to y, for all x. The rows are blocks tables each, of arranged elements as y is; their codes are
// stride bytes apart and their tables follow each other.
func SumRows(y, x []float32, codes []byte, stride int, tables []Table, blocks, blocksize, unit int) {
	sumRows(isa.Best(), &sumArgs{y, x, codes, stride, tables, blocks, blocksize / unit}, unit)
}

type sumArgs struct {
	y, x          []float32
	codes         []byte
	stride        int
	tables        []Table
	blocks, units int
}

func sumRows(best isa.Level, a *sumArgs, unit int) {
	if len(a.x) == 0 || a.blocks == 0 {
		return
	}
	cols := a.blocks * a.units * unit
	_, _, _ = a.y[cols-1], a.codes[(len(a.x)-1)*a.stride+cols/2-1], a.tables[len(a.x)*a.blocks-1]
	if l := levelOf(best, unit); !sumFast(l, a) {
		sumGo(a, unit)
	}
}

func sumGo(a *sumArgs, unit int) {
	lanes := unit / 4
	for r, x := range a.x {
		for u := range a.blocks * a.units {
			t := &a.tables[r*a.blocks+u/a.units]
			y, codes := a.y[u*unit:][:unit], a.codes[r*a.stride+u*unit/2:][:unit/2]
			for i := range lanes {
				word := uint32(codes[2*i]) | uint32(codes[2*i+1])<<8
				y[i] += math.Float32frombits(t[word&15]) * x
				y[lanes+i] += math.Float32frombits(t[word>>4&15]) * x
				y[2*lanes+i] += math.Float32frombits(t[word>>8&15]) * x
				y[3*lanes+i] += math.Float32frombits(t[word>>12]) * x
			}
		}
	}
}
