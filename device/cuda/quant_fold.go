package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildFoldedQuantMatMul)
	Register(buildAddFoldedQuantMatMul)
}

const (
	foldRows   = 512 // of x, from which a weight is decoded with an adapter
	foldRank   = 64  // of an adapter that registers and shared memory are for
	foldHeight = 128 // rows of the weight that a block of kernels/dequantize_fold.cu makes at a time
)

// buildFoldedQuantMatMul decodes the weight with the adapter added: see foldedProduct.
func buildFoldedQuantMatMul(d *Device, o ops.FoldedQuantMatMul, s device.Spec) (*Kernel, error) {
	return d.foldedProduct(o, s.In[0], false)
}

// buildAddFoldedQuantMatMul adds the product in the epilogue of the dense one.
func buildAddFoldedQuantMatMul(d *Device, o ops.AddFoldedQuantMatMul, s device.Spec) (*Kernel, error) {
	return d.foldedProduct(o.Product, s.In[1], true)
}

// foldedProduct is wholeProduct whose weight is decoded with the adapter added, for as many rows as make that pay.
func (d *Device) foldedProduct(o ops.FoldedQuantMatMul, x tensor.Type, add bool) (*Kernel, error) {
	w := weight4{o.Of.Scheme, o.Of.Blocksize, o.Of.N, o.Of.K, o.Of.Nested}
	m := x.Size() / max(x.Dim(-1), 1)
	cols := foldCols(w.cols)
	if d.capability < 80 || !d.multiplies(x.DType) || !powerBlock(w.blocksize) || cols == 0 || w.rows == 0 || o.Rank > foldRank || !foldPays(m, w, o.Rank, o.Of.Trans) {
		return nil, device.ErrNoKernel
	}
	f, err := d.foldingDecoder(w, x.DType, o.Rank, o.Alpha, cols)
	if err != nil {
		return nil, err
	}
	return d.decodedProduct(decoded4{w, "dequantize_fold", f.enqueue}, tensor.T(x.DType, m, x.Dim(-1)), o.Of.Trans, add)
}

// foldPays reports whether decoding a weight with an adapter pays for m rows of x. What it saves is that the adapter's part of the result is written and read,
// 4 bytes an element, and a launch. What it costs is reading A again for each block of rows, from the last cache, whose bytes are half as dear.
func foldPays(m int, w weight4, rank int, trans bool) bool {
	out := w.rows
	if trans {
		out = w.cols
	}
	saved := 4 * int64(m) * int64(out)
	again := 2 * int64(rank) * int64(w.cols) * int64(ceilDiv(w.rows, foldHeight))
	return m >= foldRows && saved >= again/2
}

// foldCols is how many columns a block makes, 0 where rows of the weight cannot be cut into such.
func foldCols(cols int) int {
	for n := 256; n >= 64; n /= 2 {
		if cols > 0 && cols%n == 0 && cols/n <= 1<<30 {
			return n
		}
	}
	return 0
}

// foldArgs is struct Folding of kernels/dequantize_fold.cu.
type foldArgs struct {
	codes, a, b, y Addr
	rows, cols     int64
	rank           int32
	alpha          float32
}

// foldingDecoder writes all values of a weight, with an adapter's product added before they are rounded.
type foldingDecoder struct {
	w         weight4
	grid      [3]int
	fast, any *Function // any is for any addresses and ranks; fast is nil for odd ranks
	args      foldArgs
	scales    scaleArgs
}

func (d *Device) foldingDecoder(w weight4, to tensor.DType, rank int, alpha float32, cols int) (*foldingDecoder, error) {
	steps := ceilDiv(w.rows, foldHeight)
	if rank > 32 { // a block reads much of A before it begins
		steps = ceilDiv(steps, 2)
	}
	f := &foldingDecoder{w: w, grid: [3]int{w.cols / cols, min(steps, maxGridYZ), 1}}
	f.args = foldArgs{rows: int64(w.rows), cols: int64(w.cols), rank: int32(rank), alpha: alpha}
	program := func(aligned int) (*Function, error) {
		p := w.program(to, "dequantize_fold.cu", fmt.Sprint("COLS ", cols), fmt.Sprint("DEEP ", ceilDiv(rank, 16)), fmt.Sprint("ALIGNED ", aligned))
		p.Files = []string{"eight.cuh", "fourbit.cuh", "tensor_core.cuh", "dequantize_fold.cu"}
		return d.Function(p, "dequantize_fold")
	}
	var err error
	if rank%2 != 0 {
		f.any, err = program(0)
		return f, err
	}
	if f.fast, err = program(1); err == nil {
		f.any, err = seldom(d, func() (*Function, error) { return program(0) })
	}
	return f, err
}

// enqueue takes the parts of the weight, A and B and writes y.
func (f *foldingDecoder) enqueue(c *Call, in []Addr, y Addr) error {
	last := len(in) - 2
	a := &f.args
	a.codes, a.a, a.b, a.y = in[0], in[last], in[last+1], y
	f.scales = f.w.scales(in)
	fn := f.fast
	if fn == nil || a.codes%4 != 0 || a.a%accessBytes != 0 || a.b%4 != 0 {
		fn = f.any
	}
	return c.Launch(fn, Geometry{Grid: f.grid, Block: [3]int{256}}, a, &f.scales)
}
