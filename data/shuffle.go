package data

import "math/bits"

// Salts keep the streams drawn from one seed apart.
const (
	saltSplit uint64 = iota + 1
	saltShuffle
	saltShare
)

// Permutation returns a uniformly drawn order of 0..n-1, a pure function of its arguments and the same on every platform:
// Fisher-Yates on a counter-based generator.
func Permutation(seed uint64, epoch, n int) []int32 {
	return permute(keyOf(seed, saltShuffle, uint64(epoch)), n)
}

func permute(key uint64, n int) []int32 {
	p := make([]int32, max(n, 0))
	for i := range p {
		p[i] = int32(i)
	}
	for i := len(p) - 1; i > 0; i-- {
		// The high half of the product is in [0, i]; its bias is below 2^-32.
		j, _ := bits.Mul64(draw(key, uint64(i)), uint64(i+1))
		p[i], p[j] = p[j], p[i]
	}
	return p
}

func keyOf(seed, salt, n uint64) uint64 {
	return mix(mix(mix(seed)^salt) ^ n)
}

// draw is the counter-th output of the stream of key.
func draw(key, counter uint64) uint64 { return mix(key + counter*0x9e3779b97f4a7c15) }

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood 2014), a bijection.
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
