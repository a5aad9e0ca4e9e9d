package quant

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// StateBlocksize is the block size of 8-bit optimizer states and of second-level scales.
const StateBlocksize = 256

// Quantize8 writes the 8-bit code of each element and one absmax per block of blocksize elements (at least 1). codes must hold len(src)
// bytes and absmax Blocks(len(src), blocksize) values. Special values are treated as by Quantize4.
func Quantize8[E Real](codes []byte, absmax []float32, src []E, blocksize int, book *Codebook) error {
	if err := check8(len(codes), len(absmax), len(src), blocksize, book); err != nil {
		return err
	}
	var scratch [MaxBlocksize]float32
	for b := range Blocks(len(src), blocksize) {
		x := src[b*blocksize : min((b+1)*blocksize, len(src))]
		c := codes[b*blocksize:][:len(x)]
		if f, ok := any(x).([]float32); ok {
			absmax[b] = book.QuantizeBlock(c, f)
			continue
		}
		absmax[b] = quantizeHalves(c, x, scratch[:], book)
	}
	return nil
}

// quantizeHalves quantizes one block of any length through a scratch of bounded length.
func quantizeHalves[E Real](codes []byte, x []E, scratch []float32, book *Codebook) float32 {
	if len(x) <= len(scratch) {
		return book.QuantizeBlock(codes, toFloat32(scratch, x))
	}
	var a float32
	for i := 0; i < len(x); i += len(scratch) {
		a = max(a, AbsMax(toFloat32(scratch, x[i:min(i+len(scratch), len(x))])))
	}
	r := Rcp(a)
	for i := 0; i < len(x); i += len(scratch) {
		f := toFloat32(scratch, x[i:min(i+len(scratch), len(x))])
		for j, v := range f {
			codes[i+j] = book.Nearest(scaled(v, r))
		}
	}
	return a
}

// Dequantize8 writes the len(dst) elements that codes and absmax hold: value*absmax in float32, rounded once to E.
func Dequantize8[E Real](dst []E, codes []byte, absmax []float32, blocksize int, book *Codebook) error {
	return Dequantize8Range(dst, codes, absmax, 0, len(dst), blocksize, book)
}

// Dequantize8Range writes elements lo to hi-1 of a quantized tensor to dst[:hi-lo]; codes and absmax are those of the whole tensor.
func Dequantize8Range[E Real](dst []E, codes []byte, absmax []float32, lo, hi, blocksize int, book *Codebook) error {
	if lo < 0 || hi < lo || len(dst) < hi-lo {
		return fmt.Errorf("quant: range [%d, %d) does not fit %d elements of output", lo, hi, len(dst))
	}
	if err := check8(len(codes), len(absmax), hi, blocksize, book); err != nil {
		return err
	}
	for base := lo; lo < hi; {
		b := lo / blocksize
		end := min((b+1)*blocksize, hi)
		d, c := dst[lo-base:end-base], codes[lo:end]
		switch d := any(d).(type) {
		case []float32:
			book.DequantizeBlock(d, c, absmax[b])
		case []tensor.Float16:
			for i, k := range c {
				d[i] = tensor.ToF16(book.values[k] * absmax[b])
			}
		case []tensor.BFloat16:
			for i, k := range c {
				d[i] = tensor.ToBF16(book.values[k] * absmax[b])
			}
		}
		lo = end
	}
	return nil
}

func check8(codes, absmax, n, blocksize int, book *Codebook) error {
	switch {
	case book == nil:
		return fmt.Errorf("quant: no code book: use DynamicSigned, DynamicUnsigned or NewCodebook")
	case blocksize < 1:
		return fmt.Errorf("quant: blocksize %d: must be at least 1", blocksize)
	case codes < n || absmax < Blocks(n, blocksize):
		return fmt.Errorf("quant: %d elements in blocks of %d need %d codes and %d scales, got %d and %d",
			n, blocksize, n, Blocks(n, blocksize), codes, absmax)
	}
	return nil
}

// QuantizeBlock quantizes one block and returns its absmax. It allocates nothing; of codes and x the shorter length counts.
func (c *Codebook) QuantizeBlock(codes []byte, x []float32) (absmax float32) {
	n := min(len(codes), len(x))
	codes, x = codes[:n], x[:n]
	bits := maxAbsBits(x)
	if bits < fastLow || bits >= fastHigh || !c.flat {
		absmax = AbsMax(x)
		r := Rcp(absmax)
		for i, v := range x {
			codes[i] = c.Nearest(scaled(v, r))
		}
		return absmax
	}
	absmax = math.Float32frombits(bits)
	r := Rcp(absmax)
	if c.steps > 1 {
		for i, v := range x {
			codes[i] = c.find(float32(v * r))
		}
		return absmax
	}
	for i, v := range x {
		q := float32(v * r)
		k := c.start[math.Float32bits(q)>>16]
		codes[i] = k + uint8(math.Float32bits(c.above[k]-q)>>31)
	}
	return absmax
}

// QuantizeBlockSigned is QuantizeBlock for the first moment of an 8-bit optimizer: a code whose value has not the sign of its element
// moves one code towards the element, so that a small negative moment does not become zero. As in the CUDA kernel the sign is the sign
// bit and the code wraps: in a block of zeros, whose codes are 0, a +0 gets code 255 (and is worth +0 either way, absmax being 0).
func (c *Codebook) QuantizeBlockSigned(codes []byte, x []float32) (absmax float32) {
	n := min(len(codes), len(x))
	codes, x = codes[:n], x[:n]
	bits := maxAbsBits(x)
	if bits < fastLow || bits >= fastHigh || !c.flat || c.steps > 1 {
		absmax = c.QuantizeBlock(codes, x)
		for i, v := range x {
			codes[i] = c.SignAdjust(codes[i], v)
		}
		return absmax
	}
	absmax = math.Float32frombits(bits)
	r := Rcp(absmax)
	for i, v := range x { // QuantizeBlock's loop with the correction in it
		q := float32(v * r)
		k := c.start[math.Float32bits(q)>>16]
		k += uint8(math.Float32bits(c.above[k]-q) >> 31)
		if (math.Float32bits(c.values[k])^math.Float32bits(v))>>31 != 0 {
			k = c.SignAdjust(k, v)
		}
		codes[i] = k
	}
	return absmax
}

// SignAdjust is the correction that QuantizeBlockSigned makes to the code of element x.
func (c *Codebook) SignAdjust(code uint8, x float32) uint8 {
	switch {
	case (math.Float32bits(c.values[code])^math.Float32bits(x))>>31 == 0:
		return code
	case x > 0:
		return code + 1
	}
	return code - 1
}

// DequantizeBlock writes value*absmax for each code of one block. It allocates nothing; of dst and codes the shorter length counts.
func (c *Codebook) DequantizeBlock(dst []float32, codes []byte, absmax float32) {
	n := min(len(codes), len(dst))
	dst = dst[:n]
	for i, k := range codes[:n] {
		dst[i] = c.values[k] * absmax
	}
}
