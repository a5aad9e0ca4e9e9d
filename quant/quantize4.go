package quant

import (
	"fmt"
	"math"
	"sync"
)

// Quantize4 writes the 4-bit codes of src, two to a byte with the first in the high nibble, and one absmax per block. codes must hold
// PackedSize(len(src)) bytes and absmax Blocks(len(src), blocksize) values; blocksize is even, from MinBlocksize to MaxBlocksize.
// Where a block's absmax is 0 every code is 0; NaN elements get code 0 and do not count for absmax; a block holding an infinity has
// absmax +Inf and the codes of zero.
func Quantize4[E Real](codes []byte, absmax []float32, src []E, blocksize int, scheme Scheme) error {
	if err := check4(len(codes), len(absmax), len(src), blocksize, scheme); err != nil {
		return err
	}
	quantizeBlocks4(codes, absmax, src, blocksize, scheme, 0, Blocks(len(src), blocksize), nil)
	return nil
}

// quantizeBlocks4 quantizes blocks lo to hi-1 of src into the codes and scales of the whole tensor; where bad is given it marks the
// blocks that hold NaN, infinity or what is too large.
func quantizeBlocks4[E Real](codes []byte, absmax []float32, src []E, blocksize int, scheme Scheme, lo, hi int, bad []bool) {
	for b := quantizeRuns4(codes, absmax, src, blocksize, scheme, lo, hi, bad); b < hi; b++ {
		quantizeBlock4(codes, absmax, src, blocksize, scheme, b, bad)
	}
}

// quantizeBlock4 quantizes block b.
func quantizeBlock4[E Real](codes []byte, absmax []float32, src []E, blocksize int, scheme Scheme, b int, bad []bool) {
	i := b * blocksize
	x := src[i:min(i+blocksize, len(src))]
	var bits uint32
	if f, ok := any(x).([]float32); ok {
		absmax[b], bits = quantTables()[scheme].block(codes[i/2:], f)
	} else {
		var scratch [MaxBlocksize]float32
		absmax[b], bits = quantTables()[scheme].block(codes[i/2:], toFloat32(scratch[:], x))
	}
	if bad != nil {
		bad[b] = bits >= fastHigh
	}
}

// quantizeRuns4 quantizes as many whole blocks of [lo, hi) as vector loops can and returns the first that is left.
func quantizeRuns4[E Real](codes []byte, absmax []float32, src []E, blocksize int, scheme Scheme, lo, hi int, bad []bool) int {
	if blocksize%32 != 0 || blocksize < step8() {
		return lo
	}
	hi = min(hi, len(src)/blocksize)
	var scales, r [runBlocks]float32
	run := min(max(runElements/blocksize, 1), runBlocks)
	for ; lo < hi; lo += run {
		n := min(run, hi-lo)
		from, to := lo*blocksize, (lo+n)*blocksize
		maxima(scales[:n], src[from:to], blocksize)
		plain := reciprocals(&r, &scales, n)
		copy(absmax[lo:], scales[:n])
		encode4(codes[from/2:to/2], src[from:to], r[:n], blocksize, scheme)
		for i := 0; i < n && !plain; i++ {
			if !PlainScale(scales[i]) {
				quantizeBlock4(codes, absmax, src, blocksize, scheme, lo+i, bad)
			}
		}
	}
	return min(lo, hi)
}

func check4(codes, absmax, n, blocksize int, scheme Scheme) error {
	if !scheme.FourBit() {
		return fmt.Errorf("quant: %v is not a 4-bit scheme: use NF4 or FP4", scheme)
	}
	if err := checkBlocksize(blocksize); err != nil {
		return err
	}
	if codes < PackedSize(n) || absmax < Blocks(n, blocksize) {
		return fmt.Errorf("quant: %d elements in blocks of %d need %d code bytes and %d scales, got %d and %d",
			n, blocksize, PackedSize(n), Blocks(n, blocksize), codes, absmax)
	}
	return nil
}

// table4 finds codes without a search. A value falls into one of equally wide buckets, none of which holds more than one threshold;
// one comparison with that threshold then selects one of the two codes of the bucket.
type table4 struct {
	scheme     Scheme
	thresholds []float32
	order      []uint8 // code by number of thresholds passed
	buckets    [128]bucket
}

type bucket struct {
	threshold float32
	codes     uint32 // bits 0-3 at or below the threshold, bits 4-7 above it
}

var quantTables = sync.OnceValue(func() [2]*table4 {
	return [2]*table4{newTable4(NF4), newTable4(FP4)}
})

func newTable4(s Scheme) *table4 {
	t := &table4{scheme: s, thresholds: s.Thresholds()}
	key := nf4Bucket
	if s == FP4 {
		key = fp4Bucket
		o := FP4Order()
		t.order = o[:]
	} else {
		for i := range 16 {
			t.order = append(t.order, uint8(i))
		}
	}
	// Bucketing is monotone, so values above a threshold never fall into an earlier bucket than the threshold itself.
	passed := 0
	for i := range t.buckets {
		b := &t.buckets[i]
		*b = bucket{math.MaxFloat32, uint32(t.order[passed])}
		if passed < len(t.thresholds) && int(key(t.thresholds[passed])) == i {
			b.threshold = t.thresholds[passed]
			passed++
			b.codes |= uint32(t.order[passed]) << 4
		}
	}
	return t
}

// nf4Bucket maps q in [-1, 1] (or a few units in the last place beyond) to buckets 1/32 wide: q+3 has the exponent of 2.
func nf4Bucket(q float32) uint32 { return (math.Float32bits(q+3) - 0x3ffe0000) >> 17 & 127 }

// fp4Bucket maps |q| in [0, 1] to buckets 1/32 wide: |q|+1 has the exponent of 1.
func fp4Bucket(a float32) uint32 { return (math.Float32bits(a+1) - 0x3f800000) >> 18 & 127 }

// block quantizes one block and returns its absmax and maxAbsBits.
func (t *table4) block(codes []byte, x []float32) (absmax float32, bits uint32) {
	bits = maxAbsBits(x)
	absmax = math.Float32frombits(bits)
	if !PlainScale(absmax) {
		absmax = AbsMax(x)
		t.blockNaive(codes, x, Rcp(absmax))
		return absmax, bits
	}
	r := [1]float32{Rcp(absmax)}
	if done := len(x) &^ 31; done > 0 && done >= step8() {
		encode4(codes, x[:done], r[:], done, t.scheme)
		codes, x = codes[done/2:], x[done:]
	}
	n := len(x) / 2
	if t.scheme == FP4 {
		t.pairsFP4(codes[:n], x[:2*n], r[0])
	} else {
		t.pairsNF4(codes[:n], x[:2*n], r[0])
	}
	if len(x)%2 == 1 {
		codes[n] = t.code(scaled(x[2*n], r[0]))<<4 | t.scheme.ZeroCode()
	}
	return absmax, bits
}

func (t *table4) pairsNF4(codes []byte, x []float32, r float32) {
	table := &t.buckets
	for i := range codes {
		if len(x) < 2 {
			return
		}
		q0, q1 := float32(x[0]*r), float32(x[1]*r)
		x = x[2:]
		b0, b1 := &table[nf4Bucket(q0)], &table[nf4Bucket(q1)]
		// The sign of threshold-q is the comparison, free of a branch: 4 when q is above.
		c0 := b0.codes >> (math.Float32bits(b0.threshold-q0) >> 29 & 4)
		c1 := b1.codes >> (math.Float32bits(b1.threshold-q1) >> 29 & 4)
		codes[i] = byte(c0<<4 | c1&15)
	}
}

func (t *table4) pairsFP4(codes []byte, x []float32, r float32) {
	table := &t.buckets
	for i := range codes {
		if len(x) < 2 {
			return
		}
		x0, x1 := math.Float32bits(x[0]), math.Float32bits(x[1])
		q0, q1 := math.Float32bits(float32(x[0]*r)), math.Float32bits(float32(x[1]*r))
		x = x[2:]
		a0, a1 := math.Float32frombits(q0&^signBit), math.Float32frombits(q1&^signBit)
		b0, b1 := &table[fp4Bucket(a0)], &table[fp4Bucket(a1)]
		c0 := b0.codes >> (math.Float32bits(b0.threshold-a0) >> 29 & 4)
		c1 := b1.codes >> (math.Float32bits(b1.threshold-a1) >> 29 & 4)
		// The sign counts only where neither x nor q is zero or denormal: one of these differences is negative otherwise.
		small0 := (x0&^signBit - 0x800000) | (q0&^signBit - 0x800000)
		small1 := (x1&^signBit - 0x800000) | (q1&^signBit - 0x800000)
		c0 = c0&7 | (q0&^small0)>>31<<3
		c1 = c1&7 | (q1&^small1)>>31<<3
		codes[i] = byte(c0<<4 | c1)
	}
}

// blockNaive is the definition; it also serves blocks with NaN, infinities, zeros or extreme scales.
func (t *table4) blockNaive(codes []byte, x []float32, r float32) {
	for i := 0; i < len(x); i += 2 {
		lo := t.scheme.ZeroCode()
		if i+1 < len(x) {
			lo = t.code(scaled(x[i+1], r))
		}
		codes[i/2] = t.code(scaled(x[i], r))<<4 | lo
	}
}

// codes writes the codes of x/absmax, one a byte.
func (t *table4) codes(codes []uint8, x []float32, absmax float32) {
	r := Rcp(absmax)
	if t.scheme != NF4 || !PlainScale(absmax) {
		for i, v := range x {
			codes[i] = t.code(scaled(v, r))
		}
		return
	}
	for i, v := range x {
		// A calibrated scale may be below the largest element; buckets cover a little more than [-1, 1].
		q := min(max(float32(v*r), -1), 1)
		b := &t.buckets[nf4Bucket(q)]
		codes[i] = uint8(b.codes>>(math.Float32bits(b.threshold-q)>>29&4)) & 15
	}
}

// code is the definition of the 4-bit code of a scaled value. NaN passes no threshold and has no sign.
func (t *table4) code(q float32) uint8 {
	a := q
	if t.scheme == FP4 {
		a = math.Float32frombits(math.Float32bits(q) &^ (1 << 31))
	}
	k := 0
	for k < len(t.thresholds) && a > t.thresholds[k] {
		k++
	}
	if t.scheme == FP4 && q < 0 {
		return t.order[k] | 8
	}
	return t.order[k]
}
