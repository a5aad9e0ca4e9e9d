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
	each      int64 // packs of eight elements that such a block takes at a time
	resident  int64 // blocks that the device holds at once
}

var quantizeFiles = []string{"approx.cuh", "eight.cuh", "largest.cuh", "cells.cuh", "quantize.cu"}

func buildQuantize4(d *Device, o ops.Quantize4, s device.Spec) (*Kernel, error) {
	p, err := quantize4Program(o.Scheme)
	if err != nil {
		return nil, err
	}
	return d.quantizer(p, s.In[0], o.Blocksize, 2)
}

func buildQuantize8(d *Device, o ops.Quantize8, s device.Spec) (*Kernel, error) {
	p, err := quantize8Program(o)
	if err != nil {
		return nil, err
	}
	return d.quantizer(p, s.In[0], o.Blocksize, 1)
}

func quantize4Program(s quant.Scheme) (Program, error) {
	p := Program{Files: quantizeFiles, Text: encode4Text(s), Define: []string{"BITS 4", fmt.Sprintf("ZERO_CODE %d", s.ZeroCode())}}
	t, err := plain4(s)
	t.add(&p)
	return p, err
}

func quantize8Program(o ops.Quantize8) (Program, error) {
	cells, err := cellsOf(o.Unsigned, o.Moment)
	if err != nil {
		return Program{}, err
	}
	p := Program{Files: quantizeFiles, Text: encode8Text(cells, o.Moment), Define: []string{"BITS 8"}}
	words, scale, most, err := plain8(cells, true)
	plainTable{words: words, define: []string{"PLAIN_SCALE " + scale, "PLAIN_MOST " + most}}.add(&p)
	return p, err
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
		// Blocks that load a table of 28 KB are large. Each takes tiles until there are no more; registers of a multiprocessor are shared by so many.
		var resident int
		q.threads, resident = 256, 5
		if perByte == 1 {
			q.threads, resident = 512, 3
		}
		if wide := x.DType.Size() > 2; wide || blocksize > 1024 {
			q.threads, resident = q.threads/2, max(resident-int(q.perByte), 2)
		}
		q.each, q.resident = int64(max(blocksize/256, 4)*q.threads), int64(resident*d.sms)
		p.Define = append(p.Define, fmt.Sprintf("BLOCK %d", blocksize), fmt.Sprintf("THREADS %d", q.threads), fmt.Sprintf("RESIDENT %d", resident))
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
		grid := min((packs+q.each-1)/q.each, q.resident)
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
