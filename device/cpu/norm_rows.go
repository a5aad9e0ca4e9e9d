package cpu

import (
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Kernels that treat a tensor row by row are written once for float32 and float64. Half types are widened into a buffer a row
// and rounded once on the way out; float32 and float64 rows are used where they lie.

type floats interface{ float32 | float64 }

// isHalf reports whether rows of d pass through buffers.
func isHalf(d tensor.DType) bool { return d == tensor.BF16 || d == tensor.F16 }

// lastAxis returns the number of rows and their length.
func lastAxis(t tensor.Type) (rows, width int) {
	rows = 1
	for i := range t.Rank() - 1 {
		rows *= t.Dim(i)
	}
	return rows, t.Dim(-1)
}

// rowGrain is how many elements a thread must have to be worth waking.
const rowGrain = 16 << 10

// rowKernel runs f on ranges of rows, which must not depend on each other. For a half type each task has bufs buffers of width
// elements.
func rowKernel[T floats](d *Device, dt tensor.DType, rows, width, bufs int, f func(c *Call, lo, hi int, b buffers[T])) *Kernel {
	tasks := max(min(d.threads, rows*width/rowGrain, rows), 1)
	if !isHalf(dt) {
		bufs = 0
	}
	per := bufs*width + expBlock
	large := dt == tensor.F32 && rows*width*4 >= vec.StreamBytes
	if large {
		per += width
	}
	return &Kernel{ScratchBytes: sizeOf[T](tasks * per), Run: func(c *Call) error {
		all := tensor.View[T](c.Scratch)
		past := large && !inPlace(c)
		task := func(t int) {
			f(c, rows*t/tasks, rows*(t+1)/tasks, newBuffers(all[t*per:(t+1)*per], bufs, width, past))
			if past {
				vec.Fence()
			}
		}
		if tasks == 1 {
			task(0)
			return nil
		}
		return d.parallel(tasks, task)
	}}
}

// inPlace reports whether the first output lies where an input does.
func inPlace(c *Call) bool {
	for _, in := range c.In {
		if len(in) > 0 && len(c.Out[0]) > 0 && &in[0] == &c.Out[0][0] {
			return true
		}
	}
	return false
}

func sizeOf[T floats](n int) int64 {
	var z T
	return int64(n) * int64(unsafe.Sizeof(z))
}

// expBlock is how many exponentials are added before their sum joins the row's float64 sum.
const expBlock = 512

// buffers are the scratch of one task: rows, none for float32 and float64 tensors, and always a block of expBlock elements.
type buffers[T floats] struct {
	rows, block []T
	past        []T // a row of a float32 result so large that it goes past the caches, else nil
	width       int
}

func newBuffers[T floats](mem []T, bufs, width int, past bool) buffers[T] {
	end := bufs*width + expBlock
	b := buffers[T]{rows: mem[:bufs*width], block: mem[bufs*width : end], width: width}
	if past {
		b.past = mem[end : end+width]
	}
	return b
}

// target is targetRow for the first output, with buffer i; what is computed there goes through write.
func (b buffers[T]) target(d tensor.DType, out []byte, off, n, i int) []T {
	if b.past != nil {
		return b.past[:n]
	}
	return targetRow(d, out, off, n, b.row(i))
}

func (b buffers[T]) write(d tensor.DType, out []byte, off int, row []T) {
	if b.past != nil {
		vec.Stream(tensor.View[float32](out)[off:off+len(row)], f32s(row))
		return
	}
	writeRow(d, out, off, row)
}

func (b buffers[T]) row(i int) []T {
	if len(b.rows) == 0 {
		return nil
	}
	return b.rows[i*b.width : (i+1)*b.width]
}

// readRow returns elements [off, off+n) as T: in place, or widened into buf. Half types are only read as float32.
func readRow[T floats](d tensor.DType, b []byte, off, n int, buf []T) []T {
	if wide, ok := any(buf).([]float32); ok && isHalf(d) {
		vec.Widen(wide[:n], b[2*off:2*(off+n)], d)
		return buf[:n]
	}
	return tensor.View[T](b)[off : off+n : off+n]
}

// targetRow returns where elements [off, off+n) are computed: in place, or in buf, which writeRow then rounds into place.
func targetRow[T floats](d tensor.DType, b []byte, off, n int, buf []T) []T {
	if isHalf(d) {
		return buf[:n]
	}
	return tensor.View[T](b)[off : off+n : off+n]
}

// writeRow rounds a row computed in a buffer to a half type; other types are in place already.
func writeRow[T floats](d tensor.DType, b []byte, off int, row []T) {
	if wide, ok := any(row).([]float32); ok && isHalf(d) {
		vec.Narrow(b[2*off:2*(off+len(row))], wide, d)
	}
}

// f32s is x if its elements are float32, else nil. Such rows are left to the vector loops.
func f32s[T floats](x []T) []float32 {
	wide, _ := any(x).([]float32)
	return wide
}

// sumProducts is Σ x·y in float64.
func sumProducts[T floats](x, y []T) (sum float64) {
	y = y[:len(x)]
	if x := f32s(x); x != nil {
		return vec.SumProducts(x, f32s(y))
	}
	for i, v := range x {
		sum += float64(v) * float64(y[i])
	}
	return sum
}

// sumRow is Σ x in float64.
func sumRow[T floats](x []T) (sum float64) {
	if x := f32s(x); x != nil {
		return vec.Sum(x)
	}
	for _, v := range x {
		sum += float64(v)
	}
	return sum
}

// addInto adds x to sum, element by element.
func addInto[T floats](sum, x []T) {
	if sum := f32s(sum); sum != nil {
		vec.OpAdd.Run(sum, sum, f32s(x), nil)
		return
	}
	for i, v := range x {
		sum[i] += v
	}
}

// multiplyRow multiplies x by k.
func multiplyRow[T floats](x []T, k T) {
	if x := f32s(x); x != nil {
		vec.RowScale.Run(x, x, nil, nil, [4]float32{float32(k)})
		return
	}
	for i := range x {
		x[i] *= k
	}
}
