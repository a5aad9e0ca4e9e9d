package corpus

import (
	"math/bits"
	"math/rand/v2"
)

// rng draws from PCG-DXSM. Only the source comes from the standard library: how a draw becomes an index or an order is fixed
// here, so that the corpus stays the same byte for byte on every platform and with every Go release.
type rng struct{ src *rand.PCG }

// newRNG returns the generator of one stream: equal (seed, stream) pairs give equal draws.
func newRNG(seed, stream uint64) *rng { return &rng{rand.NewPCG(seed, stream)} }

// intN returns an index in [0, n), 0 when n < 2. The bias of taking the high word of a 128-bit product is below n / 2^64.
func (r *rng) intN(n int) int {
	if n < 2 {
		return 0
	}
	hi, _ := bits.Mul64(r.src.Uint64(), uint64(n))
	return int(hi)
}

// chance is true in percent of 100 draws.
func (r *rng) chance(percent int) bool { return r.intN(100) < percent }

// pick returns one element of a list that is not empty.
func pick[T any](r *rng, list []T) T { return list[r.intN(len(list))] }

// sample returns k different elements in random order, all of them when there are fewer; list itself keeps its order.
func sample[T any](r *rng, list []T, k int) []T {
	all := append([]T(nil), list...)
	k = min(k, len(all))
	for i := range k {
		j := i + r.intN(len(all)-i)
		all[i], all[j] = all[j], all[i]
	}
	return all[:k]
}
