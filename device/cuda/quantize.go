package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildQuantize4)
	Register(buildQuantize8)
}

// quantizer launches kernels/quantize.cu.
type quantizer struct {
	n         int64
	blocksize int
	size      int64 // bytes of an element
	perByte   int64 // codes of a byte
	whole     int64 // elements of whole blocks that quantize_blocks takes; 0 without it
	blocks    *Function
	any       *Function
	threads   int   // of a block of quantize_blocks
	each      int64 // packs of eight elements that such a block takes
}

var quantizeFiles = []string{"approx.cuh", "eight.cuh", "quantize.cu"}

func buildQuantize4(d *Device, o ops.Quantize4, s device.Spec) (*Kernel, error) {
	p := Program{Files: quantizeFiles, Text: encode4Text(o.Scheme),
		Define: []string{"BITS 4", fmt.Sprintf("ZERO_CODE %d", o.Scheme.ZeroCode())}}
	return d.quantizer(p, s.In[0], o.Blocksize, 2)
}

func buildQuantize8(d *Device, o ops.Quantize8, s device.Spec) (*Kernel, error) {
	text, cells, err := encode8Text(o.Unsigned, o.Moment)
	if err != nil {
		return nil, err
	}
	p := Program{Files: quantizeFiles, Text: text, Define: []string{"BITS 8", fmt.Sprintf("CELLS %d", cells)}}
	return d.quantizer(p, s.In[0], o.Blocksize, 1)
}

// powerBlock is whether block sizes have kernels of their own.
func powerBlock(blocksize int) bool {
	return blocksize >= 32 && blocksize <= 4096 && blocksize&(blocksize-1) == 0
}

func (d *Device) quantizer(p Program, x tensor.Type, blocksize, perByte int) (*Kernel, error) {
	q := &quantizer{n: int64(x.Size()), blocksize: blocksize, size: int64(x.DType.Size()), perByte: int64(perByte)}
	p.Define = append(p.Define, "T "+cType(x.DType))
	p.Exact = true
	var err error
	if powerBlock(blocksize) {
		// Blocks of threads that load a table of 24 KB are large and take several tiles, as far as registers allow.
		q.threads, q.each = 128, int64(max(blocksize/256, 4)*128)
		if perByte == 1 && blocksize <= 1024 {
			q.threads, q.each = 512, 4*512*4
		}
		p.Define = append(p.Define, fmt.Sprintf("BLOCK %d", blocksize), fmt.Sprintf("THREADS %d", q.threads))
		q.whole = q.n / int64(blocksize) * int64(blocksize)
		if q.blocks, err = d.Function(p, "quantize_blocks"); err != nil {
			return nil, err
		}
	}
	if q.any, err = d.Function(p, "quantize_any"); err != nil {
		return nil, err
	}
	return &Kernel{Label: "quantize", Enqueue: q.enqueue}, nil
}

func (q *quantizer) enqueue(c *Call) error {
	if q.n == 0 {
		return nil
	}
	x, codes, absmax := c.In[0], c.Out[0], c.Out[1]
	done := q.whole
	if x%16 != 0 || codes%16 != 0 {
		done = 0
	}
	if done > 0 {
		packs := done / 8
		grid := min((packs+q.each-1)/q.each, 1<<30)
		if err := c.Launch(q.blocks, Rows(int(grid), q.threads), x, codes, absmax, packs); err != nil {
			return err
		}
	}
	if done == q.n {
		return nil
	}
	first := done / int64(q.blocksize)
	rest := int64(quant.Blocks(int(q.n), q.blocksize)) - first
	return c.Launch(q.any, Rows(int(min((rest+3)/4, 1<<20)), 128), x, codes, absmax, q.n, int32(q.blocksize), first)
}
