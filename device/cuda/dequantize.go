package cuda

import (
	"fmt"
	"math/bits"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildDequantize)
	Register(buildDequantize8)
	Register(buildQuantEmbed)
}

// scaleArgs is struct Scales of kernels/fourbit.cuh.
type scaleArgs struct{ absmax, nested, offset Addr }

// weight4 is a weight in 4 bits as kernels see it.
type weight4 struct {
	scheme     quant.Scheme
	blocksize  int
	rows, cols int
	nested     bool
}

// program is kernels of a file that decode such weights to values of a dtype. Products are not contracted: each value is the one of
// package quant.
func (w weight4) program(to tensor.DType, file string, define ...string) Program {
	p := Program{Files: []string{"eight.cuh", "fourbit.cuh", file}, Exact: true, Define: append([]string{"T " + cType(to)}, define...),
		Text: levelsText(w.scheme)}
	if w.nested {
		p.Define = append(p.Define, "NESTED")
		p.Text += bookText(false)
	}
	if powerBlock(w.blocksize) {
		p.Define = append(p.Define, fmt.Sprintf("SHIFT %d", bits.TrailingZeros(uint(w.blocksize))))
	}
	return p
}

// scales are the operands after the codes; in begins with the codes.
func (w weight4) scales(in []Addr) scaleArgs {
	if w.nested {
		return scaleArgs{in[1], in[2], in[3]}
	}
	return scaleArgs{absmax: in[1]}
}

func (w weight4) size() int64 { return int64(w.rows) * int64(w.cols) }

// decoder writes all values of a weight.
type decoder struct {
	w          weight4
	packs, any *Function // packs is nil for block sizes that are no powers of two
	args       scaleArgs
}

func (d *Device) decoder(w weight4, to tensor.DType) (*decoder, error) {
	p := w.program(to, "dequantize.cu")
	r := &decoder{w: w}
	var err error
	if r.any, err = d.Function(p, "dequantize_any"); err != nil || !powerBlock(w.blocksize) {
		return r, err
	}
	r.packs, err = d.Function(p, "dequantize_packs")
	return r, err
}

// enqueue takes the codes and scales and writes y.
func (r *decoder) enqueue(c *Call, in []Addr, y Addr) error {
	n, done := r.w.size(), int64(0)
	r.args = r.w.scales(in)
	if r.packs != nil && in[0]%4 == 0 && y%16 == 0 {
		packs := n / 8
		done = packs * 8
		if packs > 0 {
			if err := c.Launch(r.packs, Over(packs, 256, 8), in[0], &r.args, y, packs); err != nil {
				return err
			}
		}
	}
	if done == n {
		return nil
	}
	return c.Launch(r.any, Over(n-done, 256, 4), in[0], &r.args, y, done, n, int32(r.w.blocksize))
}

func buildDequantize(d *Device, o ops.Dequantize, s device.Spec) (*Kernel, error) {
	r, err := d.decoder(weight4{o.Scheme, o.Blocksize, o.Rows, o.Cols, o.Nested}, o.To)
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "dequantize", Enqueue: func(c *Call) error { return r.enqueue(c, c.In, c.Out[0]) }}, nil
}

func buildDequantize8(d *Device, o ops.Dequantize8, s device.Spec) (*Kernel, error) {
	n, power := int64(s.In[0].Size()), powerBlock(o.Blocksize)
	p := Program{Files: []string{"eight.cuh", "dequantize8.cu"}, Exact: true, Text: bookText(o.Unsigned), Define: []string{"T " + cType(o.To)}}
	if power {
		p.Define = append(p.Define, fmt.Sprintf("SHIFT %d", bits.TrailingZeros(uint(o.Blocksize))))
	}
	one, err := d.Function(p, "dequantize8_any")
	if err != nil {
		return nil, err
	}
	var many *Function
	if power {
		if many, err = d.Function(p, "dequantize8_packs"); err != nil {
			return nil, err
		}
	}
	return &Kernel{Label: "dequantize_blockwise", Enqueue: func(c *Call) error {
		codes, absmax, y := c.In[0], c.In[1], c.Out[0]
		done := int64(0)
		if many != nil && codes%8 == 0 && y%16 == 0 && n >= 8 {
			done = n / 8 * 8
			// Blocks that load the map take four tiles each.
			if err := c.Launch(many, Over(n/8, 256, 16), codes, absmax, y, n/8); err != nil {
				return err
			}
		}
		if done == n {
			return nil
		}
		return c.Launch(one, Over(n-done, 256, 4), codes, absmax, y, done, n, int64(o.Blocksize))
	}}, nil
}

// buildQuantEmbed decodes only the rows that are looked up.
func buildQuantEmbed(d *Device, o ops.QuantEmbed, s device.Spec) (*Kernel, error) {
	w := weight4{o.Scheme, o.Blocksize, o.Rows, o.Cols, o.Nested}
	p := w.program(o.To, "dequantize.cu")
	one, err := d.Function(p, "embed_any")
	if err != nil {
		return nil, err
	}
	var many *Function
	if powerBlock(o.Blocksize) && o.Cols%8 == 0 && o.Cols > 0 {
		if many, err = d.Function(p, "embed_packs"); err != nil {
			return nil, err
		}
	}
	n, rows, cols := int64(s.In[0].Size()), int64(o.Rows), int64(o.Cols)
	var args scaleArgs
	return &Kernel{Label: "quant_embed", Enqueue: func(c *Call) error {
		if n*cols == 0 {
			return nil
		}
		ids, codes, y := c.In[0], c.In[1], c.Out[0]
		args = w.scales(c.In[1:])
		if many != nil && codes%4 == 0 && y%16 == 0 {
			return c.Launch(many, Rows(int(min(n, 1<<30)), 128), ids, codes, &args, y, n, rows, int32(cols/8))
		}
		return c.Launch(one, Over(n*cols, 256, 4), ids, codes, &args, y, n, rows, cols, int32(o.Blocksize))
	}}, nil
}
