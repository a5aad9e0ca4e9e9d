package cpu

import "github.com/bitsandbyes/bitsandbyes/graph/ops"

// spatialAxes is the number of spatial axes that kernels count with; shorter windows get leading axes of extent 1.
const spatialAxes = ops.MaxWindow

// geometry is a window over one channel, in the row-major order of its axes.
type geometry struct {
	in, out, kernel      [spatialAxes]int
	stride, dilation, lo [spatialAxes]int
	ins, outs, taps      int // elements of a channel of x, of y, and of the kernel
}

func newGeometry(w ops.Window, in, out []int) geometry {
	g := geometry{ins: 1, outs: 1, taps: 1}
	lead := spatialAxes - int(w.Rank)
	for i := range spatialAxes {
		g.in[i], g.out[i], g.kernel[i], g.stride[i], g.dilation[i] = 1, 1, 1, 1, 1
		if j := i - lead; j >= 0 {
			g.in[i], g.out[i], g.kernel[i] = in[j], out[j], int(w.Kernel[j])
			g.stride[i], g.dilation[i], g.lo[i] = int(w.Stride[j]), int(w.Dilation[j]), int(w.Lo[j])
		}
		g.ins, g.outs, g.taps = g.ins*g.in[i], g.outs*g.out[i], g.taps*g.kernel[i]
	}
	return g
}

// span is the part of one tap's view that lies along the last axis of one output row: positions [from, to) of the row see
// input elements at, at+step, ...; the others see padding.
type span struct{ from, to, at, step int }

// row returns the span of a tap over output positions [lo, hi) of output row (o0, o1).
func (g *geometry) row(tap, o0, o1, lo, hi int) span {
	k2 := tap % g.kernel[2]
	k1 := tap / g.kernel[2] % g.kernel[1]
	k0 := tap / g.kernel[2] / g.kernel[1]
	i0 := o0*g.stride[0] + k0*g.dilation[0] - g.lo[0]
	i1 := o1*g.stride[1] + k1*g.dilation[1] - g.lo[1]
	if i0 < 0 || i0 >= g.in[0] || i1 < 0 || i1 >= g.in[1] {
		return span{lo, lo, 0, 0}
	}
	s := g.stride[2]
	shift := k2*g.dilation[2] - g.lo[2] // position o sees input o·s + shift
	from, to := lo, hi
	if shift < 0 {
		from = max(lo, (-shift+s-1)/s)
	}
	if last := g.in[2] - 1 - shift; last < 0 {
		to = lo
	} else {
		to = min(hi, last/s+1)
	}
	if from >= to {
		return span{lo, lo, 0, 0}
	}
	return span{from, to, (i0*g.in[1]+i1)*g.in[2] + from*s + shift, s}
}

// im2col writes rows [r0, r1) of the matrix whose row c·taps+tap holds what the tap of channel c sees at output positions
// [p0, p1): zeros where it sees padding. x holds the channels, each of ins elements.
func im2col[E uint16 | uint32 | uint64](g *geometry, col, x []E, r0, r1, p0, p1 int) {
	width := p1 - p0
	for r := r0; r < r1; r++ {
		plane := x[r/g.taps*g.ins:][:g.ins]
		dst := col[(r-r0)*width:][:width]
		for p := p0; p < p1; {
			o2, line := p%g.out[2], p/g.out[2]
			n := min(g.out[2]-o2, p1-p)
			s := g.row(r%g.taps, line/g.out[1], line%g.out[1], o2, o2+n)
			seg := dst[p-p0:][:n]
			clear(seg[:s.from-o2])
			clear(seg[s.to-o2:])
			copyStep(seg[s.from-o2:s.to-o2], plane, s)
			p += n
		}
	}
}

func copyStep[E uint16 | uint32 | uint64](dst, src []E, s span) {
	if s.step == 1 {
		copy(dst, src[s.at:])
		return
	}
	at := s.at
	for i := range dst {
		dst[i] = src[at]
		at += s.step
	}
}

// col2im is the transpose of im2col: it adds the matrix of output positions [p0, p1) into x.
func col2im[T floats](g *geometry, x, col []T, rows, p0, p1 int) {
	width := p1 - p0
	for r := range rows {
		plane := x[r/g.taps*g.ins:][:g.ins]
		src := col[r*width:][:width]
		for p := p0; p < p1; {
			o2, line := p%g.out[2], p/g.out[2]
			n := min(g.out[2]-o2, p1-p)
			s := g.row(r%g.taps, line/g.out[1], line%g.out[1], o2, o2+n)
			at := s.at
			for _, v := range src[p-p0+s.from-o2 : p-p0+s.to-o2] {
				plane[at] += v
				at += s.step
			}
			p += n
		}
	}
}
