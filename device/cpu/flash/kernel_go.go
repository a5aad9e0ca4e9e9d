package flash

import (
	"math"
	"unsafe"
)

// twin is the kernel in Go for any extents of a tile; mr is even and divides 8, nr is a multiple of 4.
func twin(mr, nr int) *kernel {
	t := goTile{mr, nr}
	return &kernel{mr: mr, nr: nr, outer: t.outer, inner: t.inner, softmax: t.softmax, slopes: t.slopes, hide: t.hide,
		scale: t.scale, lse: t.lse, strips: t.strips, transpose: transposeGo, cut: t.cut, dotRows: dotRowsGo,
		few: []fewKernel{{lanes: pad, dots: dotsGo, weigh: weighGo}}}
}

type goTile struct{ mr, nr int }

func (t goTile) outer(kc, strips int, a *float32, lda, astep int, b, c, shrink *float32) {
	as := unsafe.Slice(a, (strips-1)*astep+(kc-1)*lda+t.mr)
	bs, cs := unsafe.Slice(b, kc*t.nr), unsafe.Slice(c, strips*t.mr*t.nr)
	for s := range strips {
		strip := as[s*astep:]
		for i := 0; i < t.mr; i += 2 {
			row := cs[(s*t.mr+i)*t.nr:]
			for j := 0; j < t.nr; j += 4 {
				sums := square(kc, strip[i:], strip[i+1:], lda, bs[j:], t.nr)
				for r := range 2 {
					t.update(row[r*t.nr+j:], sums[4*r:4*r+4], shrink, j)
				}
			}
		}
	}
}

// update stores four sums, with shrink added to what is there times that.
func (t goTile) update(row, sums []float32, shrink *float32, j int) {
	if shrink == nil {
		copy(row, sums)
		return
	}
	by := unsafe.Slice(shrink, t.nr)[j : j+4]
	for i, v := range sums {
		row[i] = row[i]*by[i] + v
	}
}

// square sums x[k*lda]*b[k*ldb+j] and the same of y over k < n, for four j.
func square(n int, x, y []float32, lda int, b []float32, ldb int) (out [8]float32) {
	var x0, x1, x2, x3, y0, y1, y2, y3 float32
	for k := range n {
		u, v, w := x[k*lda], y[k*lda], b[k*ldb:k*ldb+4:k*ldb+4]
		x0 += u * w[0]
		x1 += u * w[1]
		x2 += u * w[2]
		x3 += u * w[3]
		y0 += v * w[0]
		y1 += v * w[1]
		y2 += v * w[2]
		y3 += v * w[3]
	}
	return [8]float32{x0, x1, x2, x3, y0, y1, y2, y3}
}

func (t goTile) inner(groups, agroup, strips int, a, b *float32, ldb int, c *float32, ldc int) {
	rows := strips * t.mr
	as := unsafe.Slice(a, (groups-1)*agroup+rows*t.nr)
	bs := unsafe.Slice(b, (groups*t.nr-1)*ldb+t.nr)
	cs := unsafe.Slice(c, (rows-1)*ldc+t.nr)
	for i := 0; i < rows; i += 2 {
		for j := 0; j < t.nr; j += 4 {
			var total [8]float32
			for g := range groups {
				x := as[g*agroup+i*t.nr:]
				for k, v := range square(t.nr, x, x[t.nr:], 1, bs[g*t.nr*ldb+j:], ldb) {
					total[k] += v
				}
			}
			for k, v := range total {
				cs[(i+k/4)*ldc+j+k%4] += v
			}
		}
	}
}

// exp2Poly is 2^r on |r| <= 1/2 within 1.6e-8 of its value, highest power first.
var exp2Poly = [7]float32{0.00015353361959569156, 0.0013398875016719103, 0.00961843691766262, 0.055503323674201965,
	0.24022647738456726, 0.6931471824645996, 1}

// exp2 is the algorithm of the assembly: 2^x within 1.5 units in the last place, zero below 2^-125.
func exp2(x float32) float32 {
	switch {
	case x != x:
		return x
	case x < -125:
		return 0
	case x > 127:
		x = 127
	}
	n := float32(math.RoundToEven(float64(x)))
	r, p := x-n, exp2Poly[0]
	for _, k := range exp2Poly[1:] {
		p = p*r + k
	}
	return p * math.Float32frombits(uint32(int32(n)+127)<<23)
}

func (t goTile) softmax(keys int, s, state *float32) {
	ss, st := unsafe.Slice(s, keys*t.nr), unsafe.Slice(state, 3*t.nr)
	top, sum, shrink := st[:t.nr], st[t.nr:2*t.nr], st[2*t.nr:]
	copy(shrink, top)
	for j := 0; j < len(ss); j += t.nr {
		for i, v := range ss[j : j+t.nr] {
			if v > top[i] {
				top[i] = v
			}
		}
	}
	for i := range top {
		shrink[i] = exp2(shrink[i] - top[i])
		sum[i] *= shrink[i]
	}
	for j := 0; j < len(ss); j += t.nr {
		row := ss[j : j+t.nr]
		for i, v := range row {
			row[i] = exp2(v - top[i])
			sum[i] += row[i]
		}
	}
}

func (t goTile) lse(state, out *float32) {
	st, to := unsafe.Slice(state, 2*t.nr), unsafe.Slice(out, t.nr)
	for i := range to {
		to[i] = float32(math.Ln2*float64(st[i]) + math.Log(float64(st[t.nr+i])))
	}
}

func (t goTile) slopes(keys int, s, dp, state *float32) {
	ss, ds, st := unsafe.Slice(s, keys*t.nr), unsafe.Slice(dp, keys*t.nr), unsafe.Slice(state, 2*t.nr)
	for j := range ss {
		i := j % t.nr
		p := exp2(ss[j] - st[i])
		ss[j] = p
		if p == 0 {
			ds[j] = 0
			continue
		}
		ds[j] = p * (ds[j] - st[t.nr+i])
	}
}

func (t goTile) hide(keys int, s *float32, first int, seen *int32) {
	ss, lim := unsafe.Slice(s, keys*t.nr), unsafe.Slice(seen, 2*t.nr)
	for j := range ss {
		i, key := j%t.nr, int32(first+j/t.nr)
		if key < lim[i] || key >= lim[t.nr+i] {
			ss[j] = float32(math.Inf(-1))
		}
	}
}

func (t goTile) scale(rows int, x, by *float32) {
	xs, f := unsafe.Slice(x, rows*t.nr), unsafe.Slice(by, t.nr)
	for i := range xs {
		xs[i] *= f[i%t.nr]
	}
}

func (t goTile) strips(dst *float32, step int, src *float32, lds, blocks int) {
	to := unsafe.Slice(dst, (8/t.mr-1)*step+8*blocks*t.mr)
	from := unsafe.Slice(src, 7*lds+8*blocks)
	for r := range 8 {
		for k, v := range from[r*lds : r*lds+8*blocks] {
			to[r/t.mr*step+k*t.mr+r%t.mr] = v
		}
	}
}

func (t goTile) cut(rows, strips int, dst *float32, step int, src *float32, lds int) {
	to, from := unsafe.Slice(dst, (strips-1)*step+rows*t.mr), unsafe.Slice(src, (rows-1)*lds+strips*t.mr)
	for k := range rows {
		for s := range strips {
			copy(to[s*step+k*t.mr:][:t.mr], from[k*lds+s*t.mr:])
		}
	}
}

func transposeGo(dst *float32, ldd int, src *float32, lds, blocks int) {
	to, from := unsafe.Slice(dst, (8*blocks-1)*ldd+8), unsafe.Slice(src, 7*lds+8*blocks)
	for r := range 8 {
		for k, v := range from[r*lds : r*lds+8*blocks] {
			to[k*ldd+r] = v
		}
	}
}

func dotRowsGo(rows, blocks int, x *float32, ldx int, y *float32, ldy int, out *float32) {
	n := pad * blocks
	xs, ys := unsafe.Slice(x, (rows-1)*ldx+n), unsafe.Slice(y, (rows-1)*ldy+n)
	for r, to := 0, unsafe.Slice(out, rows); r < rows; r++ {
		to[r] = dotGo(n, &xs[r*ldx], &ys[r*ldy])
	}
}

func dotGo(n int, x, y *float32) float32 {
	xs, ys := unsafe.Slice(x, n), unsafe.Slice(y, n)
	var a, b float32
	for i := 0; i+1 < n; i += 2 {
		a += xs[i] * ys[i]
		b += xs[i+1] * ys[i+1]
	}
	if n%2 == 1 {
		a += xs[n-1] * ys[n-1]
	}
	return a + b
}

func dotsGo(keys, blocks int, k *float32, ldk int, q, out, _ *float32, _ int) {
	n := pad * blocks
	ks, outs := unsafe.Slice(k, max(keys-1, 0)*ldk+n), unsafe.Slice(out, keys)
	for j := range outs {
		outs[j] = dotGo(n, &ks[j*ldk], q)
	}
}

func weighGo(keys, blocks int, v *float32, ldv int, p, out, _ *float32, _ int) {
	n := pad * blocks
	vs, outs := unsafe.Slice(v, (keys-1)*ldv+n), unsafe.Slice(out, n)
	for j, w := range unsafe.Slice(p, keys) {
		for i, x := range vs[j*ldv : j*ldv+n] {
			outs[i] += w * x
		}
	}
}
