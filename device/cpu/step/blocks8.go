package step

import (
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/quant"
)

// Block is the elements of a block of 8-bit moments.
const Block = quant.StateBlocksize

// Moment8 is one moment of a slab in 8 bits: codes, and the largest magnitude of each block.
type Moment8 struct {
	Codes  []byte
	Absmax []float32
	Book   *quant.Codebook
	Signed bool // codes keep the sign of their element (quant.Codebook.QuantizeBlockSigned)
}

// Dequantize writes elements from lo on, of one block, to x.
func (m *Moment8) Dequantize(x []float32, lo int) {
	m.Book.DequantizeBlock(x, m.Codes[lo:lo+len(x)], m.Absmax[lo/Block])
}

// quantize is the inverse of Dequantize. It reports whether the scale is finite.
func (m *Moment8) quantize(x []float32, lo int) bool {
	absmax := &m.Absmax[lo/Block]
	if codes := m.Codes[lo : lo+len(x)]; m.Signed {
		*absmax = m.Book.QuantizeBlockSigned(codes, x)
	} else {
		*absmax = m.Book.QuantizeBlock(codes, x)
	}
	return *absmax-*absmax == 0
}

// Moments8 are the moments of a rule, as many as it has.
type Moments8 [3]Moment8

// Quantize quantizes elements from lo on, of one block, of the first len(s) moments. Elements with a moment that is infinite, as the average of
// a square can be, have them set to 0 first: the scale would be that of the whole block.
func (m *Moments8) Quantize(s [][]float32, lo int) {
	for j, x := range s {
		if !m[j].quantize(x, lo) && clearOverflow(s) {
			m.Quantize(s, lo)
			return
		}
	}
}

func clearOverflow(s [][]float32) (found bool) {
	for i := range s[0] {
		for j := range s {
			if x := s[j][i]; x-x != 0 {
				found = true
				for k := range s {
					s[k][i] = 0
				}
			}
		}
	}
	return found
}

// moments are the dequantized moments of a block.
type moments [3][Block]float32

// block8 is what the assembly reads and writes besides its arguments, an entry a moment; it knows the fields by their place.
type block8 struct {
	codes  [3]*byte       // of the next block
	values [3]*byte       // of codes: their table, or where planes is set that cut into bytes
	to     [3]*byte       // where codes of the block before go
	cells  [3]*uint32     // that find codes
	absmax [3]float32     // of the next block
	r      [3]float32     // one over that of the block before
	maxima [3]float32     // largest magnitudes of the block that the call before updated
	lanes  [3][16]float32 // the same of this one, lane by lane
}

// unwritten is a block that has been updated but has no codes yet. The later one of two has no scales either.
type unwritten struct {
	s  *moments // nil for none
	lo int
	to [3]*byte
	r  [3]float32
}

// Blocks8 updates the blocks of one tensor with 8-bit moments in one pass over memory: Begin, then Block for each in ascending order, End.
// Elements whose scaled gradient is not finite keep their parameter and get moments of 0; those with a moment that overflows get moments
// of 0.
//
// Codes are read a block early and written two blocks late, beside the arithmetic of another: the largest magnitudes of a block, and their
// reciprocals, are known only some time after its last element.
type Blocks8 struct {
	f      Factors
	m      *Moments8
	l      *loops
	loop   func(b *byte, p, g, m, before, next, k *float32)
	b      block8
	lo, hi int         // from the next block on, of the slab
	room   [4]*moments // of the next block, the one after and the two before
	rooms  [4*len(moments{})*Block + 15]float32
	turn   int          // the room of the next block
	read   bool         // whether that is filled
	late   [2]unwritten // the two blocks before, the older one first
	spill  [Block]byte  // for codes of no block
	p      [Block]float32
}

// nothing stands for blocks before the first. It is only read.
var nothing moments

// Begin starts the update of the elements [lo, hi) of a slab; lo is a multiple of Block.
func (w *Blocks8) Begin(f *Factors, m *Moments8, lo, hi int) { w.begin(fast, f, m, lo, hi) }

func (w *Blocks8) begin(l *loops, f *Factors, m *Moments8, lo, hi int) {
	w.f, w.m, w.l, w.lo, w.hi, w.read = *f, m, l, lo, hi, false
	w.late = [2]unwritten{}
	w.furnish()
	w.f.prepare()
	w.loop = l.update8[f.variant()]
	for j := range m[:f.Moments] {
		book := m[j].Book
		cells := book.Cells()
		if m[j].Signed {
			cells = book.MomentCells()
		}
		if cells == nil {
			w.loop = nil
			return
		}
		w.b.cells[j], w.b.values[j] = &cells[0], (*byte)(unsafe.Pointer(book.Table()))
		if l.planes {
			w.b.values[j] = &book.Planes()[0]
		}
	}
}

// furnish lays the rooms out from a multiple of a cache line on: vectors across two lines are read and written in two.
func (w *Blocks8) furnish() {
	at := int(-uintptr(unsafe.Pointer(&w.rooms)) % 64 / 4)
	for i := range w.room {
		w.room[i] = (*moments)(unsafe.Pointer(&w.rooms[at+i*len(moments{})*Block]))
	}
}

// Block updates the next elements, at most Block: parameters p by the gradient g.
func (w *Blocks8) Block(p, g []float32) {
	if w.loop == nil || len(p) != Block {
		w.End()
		w.blockGo(p, g)
		w.lo += len(p)
		return
	}
	s := w.room[w.turn]
	if !w.read {
		w.dequantize(s, Block)
	}
	w.lookAhead()
	old := w.lookBack()
	w.loop((*byte)(unsafe.Pointer(&w.b)), &p[0], &g[:Block][0], &s[0][0], &old[0][0], &w.room[(w.turn+1)%4][0][0], &w.f.GScale)
	w.late[0] = w.late[1]
	if w.late[0].s != nil {
		w.measured(&w.late[0])
	}
	w.late[1].s, w.late[1].lo = s, w.lo
	w.turn, w.lo = (w.turn+1)%4, w.lo+Block
}

// lookAhead sets what the loop reads of the block after the next.
func (w *Blocks8) lookAhead() {
	ahead := w.lo + Block
	w.read = ahead+Block <= w.hi
	for j := range w.f.Moments {
		if w.read {
			m := &w.m[j]
			w.b.codes[j], w.b.absmax[j] = &m.Codes[ahead], m.Absmax[ahead/Block]
		} else {
			w.b.codes[j], w.b.absmax[j] = &w.spill[0], 0
		}
	}
}

// lookBack sets where the loop writes the codes of the block before the last, and returns its moments.
func (w *Blocks8) lookBack() *moments {
	old := &w.late[0]
	if old.s != nil {
		w.b.to, w.b.r = old.to, old.r
		return old.s
	}
	for j := range w.b.to {
		w.b.to[j], w.b.r[j] = &w.spill[0], 0
	}
	return &nothing
}

// measured decides how the block that the call before the last updated gets its codes, now that its largest magnitudes are known.
func (w *Blocks8) measured(old *unwritten) {
	for _, a := range w.b.maxima[:w.f.Moments] {
		if !quant.PlainScale(a) {
			w.store(old.s, Block, old.lo)
			old.s = nil
			return
		}
	}
	for j, a := range w.b.maxima[:w.f.Moments] {
		m := &w.m[j]
		m.Absmax[old.lo/Block] = a
		old.r[j], old.to[j] = quant.Rcp(a), &m.Codes[old.lo]
	}
}

// End writes the codes of the last blocks.
func (w *Blocks8) End() {
	for i := range w.late {
		if old := &w.late[i]; old.s != nil {
			w.store(old.s, Block, old.lo)
			old.s = nil
		}
	}
}

func (w *Blocks8) dequantize(s *moments, n int) {
	for j := range w.f.Moments {
		w.m[j].Dequantize(s[j][:n], w.lo)
	}
}

func (w *Blocks8) store(s *moments, n, lo int) {
	views := [3][]float32{s[0][:n], s[1][:n], s[2][:n]}
	w.m.Quantize(views[:w.f.Moments], lo)
}

func (s *moments) clear(i int) {
	for j := range s {
		s[j][i] = 0
	}
}

// blockGo is Block without assembly but that of the 32-bit rules, of any length.
func (w *Blocks8) blockGo(p, g []float32) {
	n := len(p)
	s := w.room[w.turn]
	w.dequantize(s, n)
	copy(w.p[:n], p)
	w.f.advance(w.l, p, g, &[3][]float32{s[0][:n], s[1][:n], s[2][:n]})
	for i, x := range g[:n] {
		if x *= w.f.GScale; x-x != 0 {
			p[i] = w.p[i]
			s.clear(i)
		}
	}
	w.store(s, n, w.lo)
}
