package quant

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// StateBlocksize is the block size of 8-bit optimizer states and of second-level scales.
const StateBlocksize = 256

// Quantize8 writes the 8-bit code of each element and one absmax per block of blocksize elements (at least 1). codes must hold len(src)
// bytes and absmax Blocks(len(src), blocksize) values. Special values are treated as by Quantize4;
// a block whose absmax is above 2^126, where the kernels' reciprocal is 0, has the code of 0 throughout.
func Quantize8[E Real](codes []byte, absmax []float32, src []E, blocksize int, book *Codebook) error {
	return quantizeBlocks8(codes, absmax, src, blocksize, book, false)
}

// QuantizeMoments8 is Quantize8 with the correction of QuantizeBlockSigned.
func QuantizeMoments8[E Real](codes []byte, absmax []float32, src []E, blocksize int, book *Codebook) error {
	return quantizeBlocks8(codes, absmax, src, blocksize, book, true)
}

func quantizeBlocks8[E Real](codes []byte, absmax []float32, src []E, blocksize int, book *Codebook, signed bool) error {
	if err := check8(len(codes), len(absmax), len(src), blocksize, book); err != nil {
		return err
	}
	for b := quantizeRuns8(codes, absmax, src, blocksize, book, signed); b < Blocks(len(src), blocksize); b++ {
		lo, hi := b*blocksize, min((b+1)*blocksize, len(src))
		absmax[b] = quantizeBlock8(codes[lo:hi], src[lo:hi], book, signed)
	}
	return nil
}

// quantizeRuns8 quantizes as many whole blocks as vector loops can and returns their number.
func quantizeRuns8[E Real](codes []byte, absmax []float32, src []E, blocksize int, book *Codebook, signed bool) (blocks int) {
	t := book.Cells()
	if signed {
		t = book.MomentCells()
	}
	if t == nil || blocksize < step8() || blocksize%16 != 0 {
		return 0
	}
	blocks = len(src) / blocksize
	var scales, r [runBlocks]float32
	run := min(max(runElements/blocksize, 1), runBlocks)
	for b := 0; b < blocks; b += run {
		n := min(run, blocks-b)
		lo, hi := b*blocksize, (b+n)*blocksize
		x, out := src[lo:hi], codes[lo:hi]
		maxima(scales[:n], x, blocksize)
		plain := reciprocals(&r, &scales, n)
		copy(absmax[b:], scales[:n])
		encode8(out, x, r[:n], blocksize, t)
		for i := 0; i < n && !plain; i++ {
			if !PlainScale(scales[i]) {
				absmax[b+i] = quantizeBlock8(out[i*blocksize:(i+1)*blocksize], x[i*blocksize:(i+1)*blocksize], book, signed)
			}
		}
	}
	return blocks
}

// quantizeBlock8 quantizes one block of any length through a scratch of bounded length.
func quantizeBlock8[E Real](codes []byte, x []E, book *Codebook, signed bool) (absmax float32) {
	if f, ok := any(x).([]float32); ok {
		if signed {
			return book.QuantizeBlockSigned(codes, f)
		}
		return book.QuantizeBlock(codes, f)
	}
	var scratch [1024]float32
	for i := 0; i < len(x); i += len(scratch) {
		absmax = max(absmax, AbsMax(toFloat32(scratch[:], x[i:min(i+len(scratch), len(x))])))
	}
	for i := 0; i < len(x); i += len(scratch) {
		f := toFloat32(scratch[:], x[i:min(i+len(scratch), len(x))])
		book.codes(codes[i:i+len(f)], f, absmax)
		for j, v := range f {
			if !signed {
				break
			}
			codes[i+j] = book.SignAdjust(codes[i+j], v)
		}
	}
	return absmax
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
	dst = dst[:hi-lo]
	first := lo / blocksize
	dequantize8(dst, codes[first*blocksize:], absmax[first:], lo-first*blocksize, blocksize, &book.decodeTable, large(dst))
	return nil
}

// Dequantize8Large is Dequantize8 for a part of an output that is too large to stay in the caches: it is written past them.
func Dequantize8Large[E Real](dst []E, codes []byte, absmax []float32, blocksize int, book *Codebook) error {
	if err := check8(len(codes), len(absmax), len(dst), blocksize, book); err != nil {
		return err
	}
	dequantize8(dst, codes, absmax, 0, blocksize, &book.decodeTable, true)
	return nil
}

// StreamBytes is the size of an output from which it is written past the caches: it would not stay in them until it is read.
const StreamBytes = 16 << 20

func large[E Real](dst []E) bool { return len(tensor.AsBytes(dst)) >= StreamBytes }

// dequantize8 writes elements lo to lo+len(dst)-1, past the caches with stream.
func dequantize8[E Real](dst []E, codes []byte, absmax []float32, lo, blocksize int, t *decodeTable, stream bool) {
	hi := lo + len(dst)
	for lo < hi {
		b := lo / blocksize
		n := min((b+1)*blocksize, hi) - lo
		if blocks := wholeBlocks(absmax, b, lo, hi, blocksize); blocks > 0 {
			n = blocks * blocksize
			decode8(dst, codes[lo:lo+n], absmax[b:b+blocks], blocksize, t, stream)
		} else {
			decodeBlock8(dst[:n], codes[lo:lo+n], absmax[b], t)
		}
		dst, lo = dst[n:], lo+n
	}
}

// wholeBlocks is how many of the blocks of [lo, hi) from b on a vector loop may decode together: those that are whole, beginning at lo,
// and have finite scales.
func wholeBlocks(absmax []float32, b, lo, hi, blocksize int) int {
	if lo != b*blocksize || blocksize%decode8Step() != 0 {
		return 0
	}
	n := 0
	for _, a := range absmax[b:max(hi/blocksize, b)] {
		if !finite(a) {
			break
		}
		n++
	}
	return n
}

// decodeBlock8 decodes part of one block.
func decodeBlock8[E Real](dst []E, codes []byte, absmax float32, t *decodeTable) {
	codes = codes[:len(dst)]
	if step := decode8Step(); len(dst) >= step && finite(absmax) {
		n := len(dst) &^ (step - 1)
		scale := [1]float32{absmax}
		decode8(dst, codes, scale[:], n, t, false)
		dst, codes = dst[n:], codes[n:]
	}
	switch d := any(dst).(type) {
	case []float32:
		for i, k := range codes {
			d[i] = t.values[k] * absmax
		}
	case []tensor.Float16:
		for i, k := range codes {
			d[i] = tensor.ToF16(t.values[k] * absmax)
		}
	case []tensor.BFloat16:
		for i, k := range codes {
			d[i] = tensor.ToBF16(t.values[k] * absmax)
		}
	}
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
	absmax = math.Float32frombits(bits)
	if t := c.Cells(); t != nil && PlainScale(absmax) {
		t.encode(codes, x, Rcp(absmax))
		return absmax
	}
	absmax = AbsMax(x)
	r := Rcp(absmax)
	for i, v := range x {
		codes[i] = c.Nearest(scaled(v, r))
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
	absmax = math.Float32frombits(bits)
	if t := c.moments(); t != nil && PlainScale(absmax) {
		t.encode(codes, x, Rcp(absmax))
		return absmax
	}
	absmax = c.QuantizeBlock(codes, x)
	for i, v := range x {
		codes[i] = c.SignAdjust(codes[i], v)
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
	decodeBlock8(dst[:n], codes[:n], absmax, &c.decodeTable)
}
