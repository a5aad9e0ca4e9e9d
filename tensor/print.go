package tensor

import (
	"fmt"
	"strconv"
	"strings"
)

// Printing limits, as NumPy's defaults: beyond printTotal elements only printEdge at each end of an axis are shown.
const (
	printTotal = 1000
	printEdge  = 3
	printCols  = 75
)

// String prints the type and the elements the way NumPy does: nested brackets, aligned columns, long axes cut with "...".
func (t *Tensor) String() string {
	if t.typ.DType == Invalid {
		return "invalid"
	}
	p := printer{t: t, cut: t.typ.Size() > printTotal}
	p.measure(0, 0)
	p.write(0, 0, 1)
	return t.typ.String() + "\n" + p.b.String()
}

type printer struct {
	t     *Tensor
	cut   bool
	width int
	b     strings.Builder
}

// visit calls f for each shown index of an axis, with -1 once where elements are left out.
func (p *printer) visit(axis int, f func(i int)) {
	n := p.t.typ.Dim(axis)
	if !p.cut || n <= 2*printEdge {
		for i := range n {
			f(i)
		}
		return
	}
	for i := range printEdge {
		f(i)
	}
	f(-1)
	for i := n - printEdge; i < n; i++ {
		f(i)
	}
}

func (p *printer) stride(axis int) int { return p.t.typ.Shape.Strides()[axis] }

// measure finds the widest shown element.
func (p *printer) measure(axis, at int) {
	if axis == p.t.typ.Rank() {
		p.width = max(p.width, len(p.element(at)))
		return
	}
	p.visit(axis, func(i int) {
		if i >= 0 {
			p.measure(axis+1, at+i*p.stride(axis))
		}
	})
}

func (p *printer) write(axis, at, indent int) {
	if axis == p.t.typ.Rank() {
		fmt.Fprintf(&p.b, "%*s", p.width, p.element(at))
		return
	}
	last := axis == p.t.typ.Rank()-1
	p.b.WriteByte('[')
	first, col := true, indent
	p.visit(axis, func(i int) {
		switch {
		case first:
		case last && col+p.width+1 > printCols:
			p.b.WriteString("\n" + strings.Repeat(" ", indent))
			col = indent
		case last:
			p.b.WriteByte(' ')
		default:
			p.b.WriteString(strings.Repeat("\n", p.t.typ.Rank()-1-axis) + strings.Repeat(" ", indent))
		}
		first = false
		col += p.width + 1
		if i < 0 {
			p.b.WriteString("...")
			return
		}
		p.write(axis+1, at+i*p.stride(axis), indent+1)
	})
	p.b.WriteByte(']')
}

func (p *printer) element(i int) string {
	d := p.t.typ.DType
	switch {
	case d == Bool:
		return strconv.FormatBool(p.t.data[i] != 0)
	case d == U64:
		return strconv.FormatUint(View[uint64](p.t.data)[i], 10)
	case d.IsInt():
		return strconv.FormatInt(p.t.intAt(i), 10)
	case d == F64:
		return strconv.FormatFloat(p.t.At(i), 'g', 8, 64)
	case d == F32:
		return strconv.FormatFloat(p.t.At(i), 'g', 8, 32)
	}
	return strconv.FormatFloat(p.t.At(i), 'g', 4, 32)
}
