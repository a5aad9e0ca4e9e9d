package flash

import (
	"math"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// MaxFew is how many queries of a key head are better done one by one, as Few does, than as lanes of a tile: packing keys would
// cost more than it saves, and most lanes would be empty.
const MaxFew = 8

// Few is the storage of one thread for few queries. Scores are not in units of ln 2 here.
type Few struct {
	*Tiler
	Lo, Hi []int32   // the keys each query sees
	q      []float32 // (MaxFew, dp)
	s      []float32 // (MaxFew, keys of a block)
	temp   []float32 // (keys of a block, dp)
	keys   int
}

// fewKeys is how many keys a block has: 16 KiB of them, and as much of values, stay in the first cache for all queries.
func (t *Tiler) fewKeys() int { return min(max(4096/t.dp/8*8, 16), 256) }

// FewFloats is the scratch of a Few.
func (t *Tiler) FewFloats() int { return 2*16 + 2*MaxFew*t.dp + MaxFew*t.fewKeys() + t.fewKeys()*t.dp }

// Few carves a Few out of scratch.
func (t *Tiler) Few(scratch []float32) Few {
	c, keys := carver{scratch}, t.fewKeys()
	m := c.mask(MaxFew)
	f := Few{Tiler: t, Lo: m.Lo, Hi: m.Hi, q: c.take(MaxFew * t.dp), s: c.take(MaxFew * keys), temp: c.take(keys * t.dp), keys: keys}
	return f
}

// Part is a result over a part of the keys: values weighed by exponentials relative to the largest score of each query.
type Part struct{ acc, top, sum []float32 }

// PartFloats is the extent of a Part.
func (t *Tiler) PartFloats() int { return MaxFew*t.dp + 32 }

// Part carves a Part out of scratch.
func (t *Tiler) Part(scratch []float32) Part {
	c := carver{scratch}
	return Part{acc: c.take(MaxFew * t.dp), top: c.take(MaxFew), sum: c.take(MaxFew)}
}

// Attend fills p with the result of rows queries of q over keys [from, to).
func (f *Few) Attend(p Part, q Rows, rows int, k, v Rows, from, to int) {
	clear(p.acc[:rows*f.dp])
	for r := range rows {
		p.top[r], p.sum[r] = lowest, 0
	}
	f.gather(f.q, f.dp, q, 0, rows, rows)
	by := f.Scale
	if f.SoftCap > 0 {
		by /= f.SoftCap
	}
	for i := range f.q[:rows*f.dp] {
		f.q[i] *= by
	}
	blocks := f.dp / f.few.lanes
	for ; from < to; from += f.keys {
		end := min(from+f.keys, to)
		x, ld := f.block(k, from, end)
		a := f.ahead(v, from, end, rows)
		for r := range rows {
			if lo, hi := f.clip(r, from, end); lo < hi {
				s := f.s[r*f.keys:]
				f.few.dots(hi-lo, blocks, &x[(lo-from)*ld], ld, &f.q[r*f.dp], &s[lo-from], a.at(r), a.share)
				f.softmax(p, r, s[lo-from:hi-from])
			}
		}
		x, ld = f.block(v, from, end)
		a = f.ahead(k, end, min(end+f.keys, to), rows)
		for r := range rows {
			if lo, hi := f.clip(r, from, end); lo < hi {
				f.few.weigh(hi-lo, blocks, &x[(lo-from)*ld], ld, &f.s[r*f.keys+lo-from], &p.acc[r*f.dp], a.at(r), a.share)
			}
		}
	}
}

// fetch is what the loops over the queries fetch ahead, each its part: memory is read while the cache is worked on.
type fetch struct {
	x            []byte
	bytes, share int
}

// ahead fetches keys [from, to) of x, if there are any and they lie side by side.
func (f *Few) ahead(x Rows, from, to, rows int) fetch {
	if from >= to || x.Stride != f.D {
		return fetch{x: x.Data}
	}
	row := f.D * f.DType.Size()
	return fetch{x.Data[from*row : to*row], (to - from) * row / rows, f.few.lanes * f.DType.Size() / rows}
}

func (a fetch) at(r int) *float32 { return (*float32)(unsafe.Pointer(&a.x[r*a.bytes])) }

// clip returns the keys of [from, to) that query r sees.
func (f *Few) clip(r, from, to int) (lo, hi int) {
	return max(int(f.Lo[r]), from), min(int(f.Hi[r]), to)
}

// block returns keys [from, to) as float32, where they lie if they are.
func (f *Few) block(x Rows, from, to int) (keys []float32, ld int) {
	if f.DType == tensor.F32 && f.D == f.dp {
		return tensor.View[float32](x.Data)[from*x.Stride:], x.Stride
	}
	f.gather(f.temp, f.dp, x, from, to, to-from)
	return f.temp, f.dp
}

// softmax turns scores of query r into probabilities relative to the largest so far.
func (f *Few) softmax(p Part, r int, s []float32) {
	if f.SoftCap > 0 {
		vec.Tanh(s, s)
		for i := range s {
			s[i] *= f.SoftCap
		}
	}
	if m := vec.Peak(s); m > p.top[r] { // a NaN needs no maximum: its exponential spoils the sum
		shrink := exp2((p.top[r] - m) * log2e)
		p.top[r] = m
		p.sum[r] *= shrink
		acc := p.acc[r*f.dp : (r+1)*f.dp]
		for i := range acc {
			acc[i] *= shrink
		}
	}
	p.sum[r] += vec.ExpSum(s, s, p.top[r])
}

func greater(a, x float32) float32 {
	if x > a {
		return x
	}
	return a
}

// Merge adds part x to p.
func (f *Few) Merge(p, x Part, rows int) {
	for r := range rows {
		if x.sum[r] == 0 {
			continue
		}
		top := greater(p.top[r], x.top[r])
		a, b := exp2((p.top[r]-top)*log2e), exp2((x.top[r]-top)*log2e)
		p.top[r], p.sum[r] = top, a*p.sum[r]+b*x.sum[r]
		acc := p.acc[r*f.dp : (r+1)*f.dp]
		for i, v := range x.acc[r*f.dp : (r+1)*f.dp] {
			acc[i] = a*acc[i] + b*v
		}
	}
}

// Store divides by the sums and rounds to the rows of o. A query that saw no key gives zeros.
func (f *Few) Store(o Rows, p Part, rows int) {
	for r := range rows {
		if p.sum[r] == 0 {
			continue // nothing was added to what Attend cleared
		}
		by, acc := 1/p.sum[r], p.acc[r*f.dp:(r+1)*f.dp]
		for i := range acc {
			acc[i] *= by
		}
	}
	f.scatter(o, 0, rows, p.acc, f.dp)
}

// LSE is the logarithm of the sum of the exponentials of the scores of query r, or none if it saw no key.
func (p Part) LSE(r int, none float32) float32 {
	if p.sum[r] == 0 {
		return none
	}
	return float32(float64(p.top[r]) + math.Log(float64(p.sum[r])))
}
