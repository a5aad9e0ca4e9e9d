package quant

import (
	"math"
	"sync"
)

// vectors4 are the tables of the 4-bit vector loops. AVX-512 finds a bucket of equal width, of which none holds two thresholds: there are
// 32 words of thresholds (the largest number where a bucket has none), 32 of codes, and an order of packed pairs of bytes. NF4 has a
// bucket for each of rint(15.4·q) modulo 32, and its codes are the number of thresholds below the bucket. FP4 has one for each of
// rint(15·|q|), and its codes are that below the threshold and, 4 bits higher, that above. AVX2 has the levels of a tree of thresholds,
// eight words each, and the code for each number of thresholds passed.
type vectors4 struct {
	avx512 [72]uint32
	avx2   [40]uint32
}

const nf4BucketsPerUnit, fp4BucketsPerUnit = 15.4, 15

var vectorTables = sync.OnceValue(func() (t [2]*vectors4) {
	for s := range t {
		t[s] = newVectors4(Scheme(s))
	}
	return t
})

func newVectors4(s Scheme) *vectors4 {
	v, thresholds, order := &vectors4{}, s.Thresholds(), newTable4(s).order
	first, perUnit := -16, float32(nf4BucketsPerUnit)
	if s == FP4 {
		first, perUnit = 0, fp4BucketsPerUnit
	}
	passed := 0
	for n := first; n < first+32; n++ {
		i := n & 31
		threshold, below := float32(math.Inf(1)), uint32(order[passed])
		v.avx512[32+i] = below
		if passed < len(thresholds) && bucketOf(thresholds[passed], perUnit) == n {
			threshold = thresholds[passed]
			passed++
			if s == FP4 {
				v.avx512[32+i] |= uint32(order[passed]) << 4
			}
		}
		v.avx512[i] = math.Float32bits(threshold)
	}
	for i := range 16 { // word 4·part+lane goes to 4 places in a part
		at := i%4*4 + i/4
		v.avx512[64+i/2] |= uint32(at) << (16 * (i % 2))
	}
	// Level d has 2^d nodes; each halves the thresholds between those of the levels before.
	for d, n := 0, len(thresholds); n > 0; d, n = d+1, n/2 {
		for i := range 8 {
			v.avx2[8*d+i] = math.Float32bits(thresholds[n/2+i%(1<<d)*(n+1)])
		}
	}
	if s == FP4 {
		for i, code := range order {
			v.avx2[24+i] = uint32(code)
		}
	}
	return v
}

// bucketOf is the bucket of q.
func bucketOf(q, perUnit float32) int {
	return int(math.RoundToEven(float64(q) * float64(perUnit)))
}
