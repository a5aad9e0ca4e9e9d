package cuda

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildFoldedQuantMatMul)
	Register(buildAddFoldedQuantMatMul)
}

const (
	foldRows  = 512 // of x, from which a weight is decoded with an adapter: what the adapter adds for each is then neither written nor read
	foldRank  = 64  // of an adapter that registers suffice for
	foldStrip = 64  // columns of a warp of kernels/dequantize_fold.cu
	foldChunk = 512 // rows of a block at most, whose scales are in shared memory
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
	if m < foldRows || d.capability < 80 || !d.multiplies(x.DType) || !powerBlock(w.blocksize) || w.size() == 0 || w.cols%foldStrip != 0 || w.cols > math.MaxInt32 || o.Rank > foldRank {
		return nil, device.ErrNoKernel
	}
	f, err := d.foldingDecoder(w, x.DType, o.Rank, o.Alpha)
	if err != nil {
		return nil, err
	}
	return d.decodedProduct(decoded4{w, "dequantize_fold", f.enqueue}, tensor.T(x.DType, m, x.Dim(-1)), o.Of.Trans, add)
}

// foldArgs is struct Folding of kernels/dequantize_fold.cu.
type foldArgs struct {
	codes, a, b, y Addr
	rows           int64
	cols, rank     int32
	chunk          int32
	alpha          float32
}

// foldingDecoder writes all values of a weight, with an adapter's product added before they are rounded.
type foldingDecoder struct {
	w         weight4
	strips    int // of a block, side by side
	grid      [3]int
	shared    int
	fast, any *Function // any is for any addresses and ranks; fast is nil for ranks that are no multiple of 4
	args      foldArgs
	scales    scaleArgs
}

func (d *Device) foldingDecoder(w weight4, to tensor.DType, rank int, alpha float32) (*foldingDecoder, error) {
	f := &foldingDecoder{w: w, strips: 8, args: foldArgs{rows: int64(w.rows), cols: int32(w.cols), rank: int32(rank), alpha: alpha}}
	for w.cols%(f.strips*foldStrip) != 0 {
		f.strips /= 2
	}
	f.cut(d.sms)
	program := func(aligned int) (*Function, error) {
		p := w.program(to, "dequantize_fold.cu", fmt.Sprint("STRIPS ", f.strips), fmt.Sprint("DEEP ", ceilDiv(rank, 16)), fmt.Sprint("ALIGNED ", aligned))
		p.Files = []string{"eight.cuh", "fourbit.cuh", "tensor_core.cuh", "dequantize_fold.cu"}
		return d.Function(p, "dequantize_fold")
	}
	var err error
	if rank%4 != 0 {
		f.any, err = program(0)
		return f, err
	}
	if f.fast, err = program(1); err == nil {
		f.any, err = seldom(d, func() (*Function, error) { return program(0) })
	}
	return f, err
}

// cut gives each block as many rows as let all be on the device at once: a second round of a few blocks would take as long as the first.
func (f *foldingDecoder) cut(processors int) {
	resident := 3 // blocks of a multiprocessor, RESIDENT of the kernel
	if f.args.rank > 16 {
		resident = 2
	}
	across := f.w.cols / (f.strips * foldStrip)
	step := 8 * 8 / f.strips // rows that the warps of a block make at once
	rows := ceilDiv(f.w.rows, max(resident*processors/across, 1))
	rows = max(min(ceilDiv(rows, step)*step, foldChunk), ceilDiv(ceilDiv(f.w.rows, maxGridYZ), step)*step)
	f.args.chunk = int32(rows)
	f.grid = [3]int{across, ceilDiv(f.w.rows, rows), 1}
	units := 1
	if f.w.blocksize < foldStrip {
		units = 2
	}
	f.shared = 4 * rows * f.strips * units
}

// enqueue takes the parts of the weight, A and B and writes y.
func (f *foldingDecoder) enqueue(c *Call, in []Addr, y Addr) error {
	last := len(in) - 2
	a := &f.args
	a.codes, a.a, a.b, a.y = in[0], in[last], in[last+1], y
	f.scales = f.w.scales(in)
	fn := f.fast
	if fn == nil || a.codes%4 != 0 || a.a%accessBytes != 0 || a.b%8 != 0 {
		fn = f.any
	}
	return c.Launch(fn, Geometry{Grid: f.grid, Block: [3]int{256}, Shared: f.shared}, a, &f.scales)
}
