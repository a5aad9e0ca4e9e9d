package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// MaxWindow is the largest number of spatial axes of a convolution or pooling.
const MaxWindow = 3

// Window is how a kernel slides over the last Rank axes of an input: output position o and tap k of an axis meet at input
// position o·Stride + k·Dilation - Lo. Lo and Hi are the padding before and after the axis; a negative Hi leaves the last
// positions out. A value is made by WindowOptions.Window, which fills the defaults, so that equal windows are equal values.
type Window struct {
	Rank                     int8
	Kernel, Stride, Dilation [MaxWindow]int32
	Lo, Hi                   [MaxWindow]int32
}

// WindowOptions are the settings of a Window. A list holds one entry an axis, or a single one for all axes; a missing list is
// its default.
type WindowOptions struct {
	Stride   []int // default 1
	Dilation []int // default 1
	Pad      []int // before an axis, and after it unless PadEnd says otherwise; default 0
	PadEnd   []int // after an axis
}

// Window makes the window of a kernel.
func (o WindowOptions) Window(kernel ...int) (Window, error) {
	w := Window{Rank: int8(len(kernel))}
	if len(kernel) < 1 || len(kernel) > MaxWindow {
		return w, fmt.Errorf("a window has 1 to %d spatial axes, got a kernel of %d", MaxWindow, len(kernel))
	}
	end := o.PadEnd
	if end == nil {
		end = o.Pad
	}
	for _, f := range []struct {
		name string
		from []int
		def  int
		to   *[MaxWindow]int32
	}{{"kernel", kernel, 1, &w.Kernel}, {"stride", o.Stride, 1, &w.Stride}, {"dilation", o.Dilation, 1, &w.Dilation},
		{"padding", o.Pad, 0, &w.Lo}, {"padding", end, 0, &w.Hi}} {
		if err := spreadAxes(f.name, f.from, f.def, f.to[:w.Rank]); err != nil {
			return w, err
		}
	}
	return w, w.check()
}

// spreadAxes copies a list of one entry an axis, a single entry for all, or the default.
func spreadAxes(name string, from []int, def int, to []int32) error {
	if len(from) > 1 && len(from) != len(to) {
		return fmt.Errorf("the %s has %d entries for %d axes", name, len(from), len(to))
	}
	for i := range to {
		v := def
		switch {
		case len(from) == 1:
			v = from[0]
		case len(from) > 1:
			v = from[i]
		}
		if v != int(int32(v)) {
			return fmt.Errorf("the %s %d is out of range", name, v)
		}
		to[i] = int32(v)
	}
	return nil
}

func (w Window) check() error {
	if w.Rank < 1 || w.Rank > MaxWindow {
		return fmt.Errorf("a window has 1 to %d spatial axes, got %d", MaxWindow, w.Rank)
	}
	for i := range w.rank() {
		if w.Kernel[i] < 1 || w.Stride[i] < 1 || w.Dilation[i] < 1 {
			return fmt.Errorf("kernel %d, stride %d and dilation %d of axis %d must be positive", w.Kernel[i], w.Stride[i], w.Dilation[i], i)
		}
	}
	if !w.small() {
		return fmt.Errorf("a kernel of %v has more than %d elements", w.kernelDims(), maxTaps)
	}
	return nil
}

// maxTaps bounds a kernel: padding may make it larger than its input, and backends keep a table of its elements.
const maxTaps = 1 << 22

func (w Window) small() bool {
	n := int64(1)
	for _, k := range w.Kernel[:w.rank()] {
		if n *= int64(k); n > maxTaps {
			return false
		}
	}
	return true
}

func (w Window) rank() int { return int(w.Rank) }

// Taps is the number of kernel elements.
func (w Window) Taps() int {
	n := 1
	for _, k := range w.Kernel[:w.rank()] {
		n *= int(k)
	}
	return n
}

// Extent is how many input positions of an axis the dilated kernel spans.
func (w Window) Extent(axis int) int { return int(w.Dilation[axis])*(int(w.Kernel[axis])-1) + 1 }

// Out is the number of output positions over n input positions of an axis, or an error where the kernel does not fit once.
func (w Window) Out(axis, n int) (int, error) {
	room := n + int(w.Lo[axis]) + int(w.Hi[axis]) - w.Extent(axis)
	if room < 0 {
		return 0, fmt.Errorf("a kernel of extent %d does not fit axis %d of %d elements padded by %d and %d", w.Extent(axis), axis, n,
			w.Lo[axis], w.Hi[axis])
	}
	return room/int(w.Stride[axis]) + 1, nil
}

// outDims are the output extents over the last axes of x.
func (w Window) outDims(x tensor.Type) ([]int, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	if x.Rank() != w.rank()+2 {
		return nil, fmt.Errorf("the input must be (N, C) and %d spatial axes, got %v", w.rank(), x)
	}
	out := make([]int, w.rank())
	for i := range out {
		var err error
		if out[i], err = w.Out(i, x.Dim(2+i)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// kernelDims are the kernel's extents.
func (w Window) kernelDims() []int {
	out := make([]int, w.rank())
	for i := range out {
		out[i] = int(w.Kernel[i])
	}
	return out
}

// positions is the i32 (K, P) input position of each tap and output position of an axis; it lies outside the input where the
// window sees padding.
func (w Window) positions(like Value, axis, out int) Value {
	k, p := int(w.Kernel[axis]), out
	tap := Scale(Iota(like.Graph(), tensor.T(tensor.I32, k, 1), 0), float64(w.Dilation[axis]))
	at := AddScalar(Scale(Iota(like.Graph(), tensor.T(tensor.I32, 1, p), 1), float64(w.Stride[axis])), -float64(w.Lo[axis]))
	return Add(tap, at)
}

// unfold gathers what each window sees of x (N, C, S...): (N, C, K..., P...) with zeros for padding.
func (w Window) unfold(x Value, out []int) Value {
	for i := range out {
		x = Gather(x, 2+2*i, w.positions(x, i, out[i])) // (N, C, K0, P0, ..., Ki, Pi, S...)
	}
	return Transpose(x, w.split()...)
}

// fold is the transpose of unfold: it adds u (N, C, K..., P...) up where the windows overlap, to (N, C, S...).
func (w Window) fold(u Value, out, size []int) Value {
	perm := make([]int, 2+2*w.rank())
	for i, p := range w.split() {
		perm[p] = i
	}
	u = Transpose(u, perm...)
	for i := range out {
		u = ScatterAdd(u, 2+i, w.positions(u, i, out[i]), size[i])
	}
	return u
}

// split permutes (N, C, K0, P0, K1, P1, ...) to (N, C, K..., P...).
func (w Window) split() []int {
	perm := []int{0, 1}
	for i := range w.rank() {
		perm = append(perm, 2+2*i)
	}
	for i := range w.rank() {
		perm = append(perm, 3+2*i)
	}
	return perm
}

func product(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}

func ints(xs [MaxWindow]int64, rank int) []int {
	out := make([]int, rank)
	for i := range out {
		out[i] = int(xs[i])
	}
	return out
}

func int64s(xs []int) (out [MaxWindow]int64) {
	for i, x := range xs[:min(len(xs), MaxWindow)] {
		out[i] = int64(x)
	}
	return out
}
