package cpu

import "github.com/bitsandbyes/bitsandbyes/graph/ops"

// spatialAxes is the number of spatial axes that kernels count with; shorter windows get leading axes of extent 1.
const spatialAxes = ops.MaxWindow

// geometry is a window over one channel, in the row-major order of its axes.
type geometry struct {
	in, out, stride [spatialAxes]int
	ins, outs, taps int                // elements of a channel of x, of y, and of the kernel
	shifts          [][spatialAxes]int // of each tap: output position o sees input position o·stride + shift
}

func newGeometry(w ops.Window, in, out []int) geometry {
	g := geometry{ins: 1, outs: 1, taps: 1}
	var kernel, dilation, lo [spatialAxes]int
	lead := spatialAxes - int(w.Rank)
	for i := range spatialAxes {
		g.in[i], g.out[i], kernel[i], g.stride[i] = 1, 1, 1, 1
		if j := i - lead; j >= 0 {
			g.in[i], g.out[i], kernel[i] = in[j], out[j], int(w.Kernel[j])
			g.stride[i], dilation[i], lo[i] = int(w.Stride[j]), int(w.Dilation[j]), int(w.Lo[j])
		}
		g.ins, g.outs, g.taps = g.ins*g.in[i], g.outs*g.out[i], g.taps*kernel[i]
	}
	g.shifts = make([][spatialAxes]int, g.taps)
	for tap := range g.shifts {
		k := [spatialAxes]int{tap / kernel[2] / kernel[1], tap / kernel[2] % kernel[1], tap % kernel[2]}
		for i := range k {
			g.shifts[tap][i] = k[i]*dilation[i] - lo[i]
		}
	}
	return g
}

// identity reports whether output and input positions are the same.
func (g *geometry) identity() bool {
	return g.taps == 1 && g.in == g.out && g.stride == [spatialAxes]int{1, 1, 1} && g.shifts[0] == [spatialAxes]int{}
}

// span is the part of one tap's view that lies along the last axis of one output row: positions [from, to) of the row see
// input elements at, at+step, ...; the others see padding.
type span struct{ from, to, at, step int }

// row returns the span of a tap over output positions [lo, hi) of output row (o0, o1).
func (g *geometry) row(shift *[spatialAxes]int, o0, o1, lo, hi int) span {
	i0, i1 := o0*g.stride[0]+shift[0], o1*g.stride[1]+shift[1]
	if i0 < 0 || i0 >= g.in[0] || i1 < 0 || i1 >= g.in[1] {
		return span{lo, lo, 0, 0}
	}
	s, sh := g.stride[2], shift[2]
	from, to := -sh, g.in[2]-sh // where o·s + sh is in [0, in)
	if s != 1 {
		from, to = (from+s-1)/s, (to+s-1)/s
	}
	if sh >= 0 {
		from = 0
	}
	from, to = max(from, lo), min(to, hi)
	if from >= to {
		return span{lo, lo, 0, 0}
	}
	return span{from, to, (i0*g.in[1]+i1)*g.in[2] + from*s + sh, s}
}

// lines walks the output rows of a channel from position p0 on.
type lines struct{ o0, o1, o2, p int }

func (g *geometry) lines(p0 int) lines {
	line := p0 / g.out[2]
	return lines{line / g.out[1], line % g.out[1], p0 % g.out[2], p0}
}

// next moves past the n positions of the present row.
func (l *lines) next(g *geometry, n int) {
	l.p += n
	if l.o2 += n; l.o2 == g.out[2] {
		l.o2, l.o1 = 0, l.o1+1
		if l.o1 == g.out[1] {
			l.o1, l.o0 = 0, l.o0+1
		}
	}
}

// im2col writes rows [r0, r1) of the matrix whose row c·taps+tap holds what the tap of channel c sees at output positions
// [p0, p1): zeros where it sees padding. x holds the channels, each of ins elements.
func im2col[E uint16 | uint32 | uint64](g *geometry, col, x []E, r0, r1, p0, p1 int) {
	width := p1 - p0
	for r := r0; r < r1; r++ {
		plane := x[r/g.taps*g.ins:][:g.ins]
		dst := col[(r-r0)*width:][:width]
		shift := &g.shifts[r%g.taps]
		for l := g.lines(p0); l.p < p1; {
			n := min(g.out[2]-l.o2, p1-l.p)
			s := g.row(shift, l.o0, l.o1, l.o2, l.o2+n)
			seg := dst[l.p-p0:][:n]
			clear(seg[:s.from-l.o2])
			clear(seg[s.to-l.o2:])
			copyStep(seg[s.from-l.o2:s.to-l.o2], plane, s)
			l.next(g, n)
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
		shift := &g.shifts[r%g.taps]
		for l := g.lines(p0); l.p < p1; {
			n := min(g.out[2]-l.o2, p1-l.p)
			s := g.row(shift, l.o0, l.o1, l.o2, l.o2+n)
			addStep(plane, src[l.p-p0+s.from-l.o2:l.p-p0+s.to-l.o2], s)
			l.next(g, n)
		}
	}
}

func addStep[T floats](dst, src []T, s span) {
	if s.step == 1 {
		dst = dst[s.at:][:len(src)]
		for i, v := range src {
			dst[i] += v
		}
		return
	}
	at := s.at
	for _, v := range src {
		dst[at] += v
		at += s.step
	}
}
