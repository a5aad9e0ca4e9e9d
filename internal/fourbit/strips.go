package fourbit

import (
	"math/bits"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Matrix is a weight with rows of Cols elements, all of its scales restored, for packing. Round (F32, BF16 or F16) is what elements are
// rounded to.
type Matrix struct {
	Weight
	Cols  int
	Round tensor.DType
}

// PackLanes writes elements [k0, k0+kb) of rows [r0, r0+rows), at most width, as a strip: element k of row l to
// dst[(k-k0)*width+l-r0], and zeros beside missing rows. It reports false, having written nothing of use, where no assembly suits the shape:
// rows must be whole words of eight codes, and blocks a power of two.
func (m *Matrix) PackLanes(dst []float32, width, r0, rows, k0, kb int) bool {
	return m.packLanes(isa.Best(), dst, width, r0, rows, k0, kb)
}

func (m *Matrix) packLanes(l isa.Level, dst []float32, width, r0, rows, k0, kb int) bool {
	lanes := lanesOf(l)
	for lanes > 0 && width%lanes != 0 {
		l--
		lanes = lanesOf(l)
	}
	if lanes == 0 || (m.Cols|k0|kb)%8 != 0 || !m.regular() || kb == 0 {
		return false
	}
	_ = dst[width*kb-1]
	for lane := 0; lane < width; lane += lanes {
		have := min(max(rows-lane, 0), lanes)
		if have == 0 {
			for k := range kb {
				clear(dst[k*width+lane:][:lanes])
			}
			continue
		}
		m.packPiece(l, dst[lane:], width, r0+lane, have, k0, kb)
	}
	return true
}

// regular reports whether the loops over strips can find the scale of an element by a shift of its number.
func (m *Matrix) regular() bool {
	return m.Absmax != nil && m.Blocksize&(m.Blocksize-1) == 0 && m.Cols < 1<<26
}

// packPiece packs the lanes of one register.
func (m *Matrix) packPiece(l isa.Level, dst []float32, ldd, r0, rows, k0, kb int) {
	p := piece{dst: dst, ldd: ldd, stride: m.Cols / 2, shift: bits.TrailingZeros(uint(m.Blocksize)), round: m.Round, values: &m.Values}
	first := r0*m.Cols + k0
	block := first / m.Blocksize
	p.codes, p.scales = m.Codes[first/2:], m.Absmax[block:]
	for i := range rows {
		p.at[i] = int32(first - block*m.Blocksize + i*m.Cols)
	}
	// A scale lasts for as many elements of every lane as divide what a lane can start with.
	span := 1 << bits.TrailingZeros(uint(m.Cols|k0|m.Blocksize))
	if span%32 == 0 && rows == lanesOf(l) && kb >= 32 {
		whole := kb / 32
		p.whole(l, whole, span)
		kb -= 32 * whole
		p.dst, p.codes = p.dst[min(32*whole*ldd, len(p.dst)):], p.codes[16*whole:]
		for i := range rows {
			p.at[i] += int32(32 * whole)
		}
	}
	if kb > 0 {
		p.few(l, kb/8, rows)
	}
}

// piece is what the loops over lanes work on.
type piece struct {
	dst                []float32
	ldd, stride, shift int
	codes              []byte
	scales             []float32
	at                 [16]int32
	values             *[16]float32
	round              tensor.DType
}

// PackRows writes columns [c0, c0+strips*width) of rows [r0, r0+rows) as strips of width columns: element c of row r to
// dst[s*step+(r-r0)*width+i] where c-c0 = s*width+i. It reports false where no assembly suits the shape: width must be two registers, and
// blocks and rows multiples of one.
func (m *Matrix) PackRows(dst []float32, step, width, strips, r0, rows, c0 int) bool {
	return m.packRows(isa.Best(), dst, step, width, strips, r0, rows, c0)
}

func (m *Matrix) packRows(l isa.Level, dst []float32, step, width, strips, r0, rows, c0 int) bool {
	for l > isa.Generic && 2*lanesOf(l) != width {
		l--
	}
	lanes := lanesOf(l)
	if lanes == 0 || (m.Cols|c0)%lanes != 0 || !m.regular() || strips*rows == 0 {
		return false
	}
	_ = dst[(strips-1)*step+rows*width-1]
	first := r0*m.Cols + c0
	p := piece{dst: dst, ldd: step, stride: m.Cols / 2, shift: bits.TrailingZeros(uint(m.Blocksize)), codes: m.Codes[first/2:],
		scales: m.Absmax, values: &m.Values, round: m.Round}
	p.rows(l, strips, rows, first, m.Cols)
	return true
}

// Block writes rows [r0, r1) and columns [c0, c1), element (r, c) to dst[(r-r0)*ld+c-c0], of any shape.
func (m *Matrix) Block(dst []float32, ld, r0, r1, c0, c1 int) {
	for r := r0; r < r1; r++ {
		row := dst[(r-r0)*ld:][:c1-c0]
		m.decode(isa.Best(), output{words: tensor.View[uint32](tensor.AsBytes(row)), round: m.Round}, r*m.Cols+c0)
	}
}
