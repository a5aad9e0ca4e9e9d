package fourbit

import (
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// chunk is how many blocks are decoded with one set of tables.
const chunk = 32

// Float32 writes the elements from lo on to dst. With stream whole blocks are written past the caches: dst must then start at a multiple of
// 64 bytes and lo at a block, whose size is a multiple of 32.
func (w *Weight) Float32(dst []float32, lo int, stream bool) {
	w.decode(isa.Best(), output{words: tensor.View[uint32](tensor.AsBytes(dst)), round: tensor.F32, stream: stream}, lo)
}

// Half is Float32 for elements of 16 bits, BF16 or F16.
func (w *Weight) Half(dst []uint16, d tensor.DType, lo int, stream bool) {
	w.decode(isa.Best(), output{halves: dst, half: true, round: d, stream: stream}, lo)
}

// output is where elements go: words, that is float32 rounded to round, or halves, of type round.
type output struct {
	words  []uint32
	halves []uint16
	half   bool
	round  tensor.DType
	stream bool
}

func (o *output) len() int { return max(len(o.words), len(o.halves)) }

// part is elements lo to hi-1.
func (o *output) part(lo, hi int) output {
	p := *o
	if o.half {
		p.halves = o.halves[lo:hi]
	} else {
		p.words = o.words[lo:hi]
	}
	return p
}

func (w *Weight) decode(l isa.Level, dst output, lo int) {
	var scales [chunk]float32
	var tables [chunk]Table
	for done, n := 0, dst.len(); done < n; {
		at := lo + done
		b, skip := at/w.Blocksize, at%w.Blocksize
		blocks, take := 1, min(w.Blocksize-skip, n-done)
		if whole := (n - done) / w.Blocksize; skip == 0 && whole > 1 {
			blocks = min(whole, chunk)
			take = blocks * w.Blocksize
		}
		w.scales(l, scales[:blocks], b)
		makeTables(l, tables[:blocks], scales[:blocks], &w.Values, dst.round, dst.half)
		part := dst.part(done, done+take)
		if take != blocks*w.Blocksize || !decodeBlocks(l, &part, w.Codes[at/2:], tables[:blocks], w.Blocksize) {
			for i := range blocks {
				from := i * w.Blocksize
				segment := part.part(from, min(from+w.Blocksize, take))
				segment.stream = false
				segment.decode(l, w.Codes, at+from, tables[i:i+1])
			}
		}
		done += take
	}
	if dst.stream {
		fenceFast()
	}
}

// decodeBlocks decodes whole blocks, if their size suits the assembly.
func decodeBlocks(l isa.Level, dst *output, codes []byte, tables []Table, blocksize int) bool {
	switch {
	case blocksize%16 != 0:
		return false
	case !dst.half:
		return wordsFast(l, dst.words, codes, tables, blocksize/16, dst.stream)
	case blocksize%32 != 0:
		l = min(l, isa.AVX2)
	}
	return halvesFast(l, dst.halves, codes, tables, blocksize/16, dst.stream)
}

// decode writes elements of one block, the first of which is element lo of the tensor. What groups of 16 leave over is decoded with a
// group that reaches back.
func (o *output) decode(l isa.Level, codes []byte, lo int, table []Table) {
	n := o.len()
	from := min(lo&1, n) // even elements start a byte
	to := n - (lo+n)&1
	if to < from { // one element, the upper half of a byte
		from, to = 0, 0
	}
	for i := range from {
		o.put(i, table[0][code(codes, lo+i)])
	}
	for i := to; i < n; i++ {
		o.put(i, table[0][code(codes, lo+i)])
	}
	groups := (to - from) / 16
	if groups > 0 && o.group(l, codes, lo, from, groups, table) {
		if from+16*groups < to {
			o.group(l, codes, lo, to-16, 1, table)
		}
		return
	}
	for i := from; i < to; i++ {
		o.put(i, table[0][code(codes, lo+i)])
	}
}

func (o *output) put(i int, v uint32) {
	if o.half {
		o.halves[i] = uint16(v)
		return
	}
	o.words[i] = v
}

// group decodes groups of 16 elements from element from of o on.
func (o *output) group(l isa.Level, codes []byte, lo, from, groups int, table []Table) bool {
	part := o.part(from, from+16*groups)
	return decodeBlocks(l, &part, codes[(lo+from)/2:], table, 16*groups)
}
