package quant

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Dequantize4 writes the len(dst) elements that codes and absmax hold: table[code]*absmax in float32, rounded once to E.
func Dequantize4[E Real](dst []E, codes []byte, absmax []float32, blocksize int, scheme Scheme) error {
	return Dequantize4Range(dst, codes, absmax, 0, len(dst), blocksize, scheme)
}

// Dequantize4Range writes elements lo to hi-1 of a quantized tensor to dst[:hi-lo]. codes and absmax are those of the whole tensor; lo
// and hi may lie within a block and within a byte.
func Dequantize4Range[E Real](dst []E, codes []byte, absmax []float32, lo, hi, blocksize int, scheme Scheme) error {
	if lo < 0 || hi < lo || len(dst) < hi-lo {
		return fmt.Errorf("quant: range [%d, %d) does not fit %d elements of output", lo, hi, len(dst))
	}
	if err := check4(len(codes), len(absmax), hi, blocksize, scheme); err != nil {
		return err
	}
	dst = dst[:hi-lo]
	for lo < hi {
		b := lo / blocksize
		end := min((b+1)*blocksize, hi)
		dequantizeBlock4(dst[:end-lo], codes, absmax[b], lo, scheme)
		dst, lo = dst[end-lo:], end
	}
	return nil
}

var schemeValues = [2][16]float32{NF4: floats16(nf4Bits), FP4: fp4Values()}

// dequantizeBlock4 writes len(dst) elements of one block, beginning at element lo of the tensor.
func dequantizeBlock4[E Real](dst []E, codes []byte, absmax float32, lo int, scheme Scheme) {
	v := &schemeValues[scheme]
	if lo%2 == 1 && len(dst) > 0 {
		dst[0] = fromFloat32[E](v[codes[lo/2]&15] * absmax)
		dst, lo = dst[1:], lo+1
	}
	if n := len(dst); n%2 == 1 {
		dst[n-1] = fromFloat32[E](v[codes[(lo+n)/2]>>4] * absmax)
	}
	pairs := codes[lo/2 : lo/2+len(dst)/2]
	switch d := any(dst).(type) {
	case []float32:
		dequantizePairs(d, pairs, absmax, v)
	case []tensor.Float16:
		var lut [16]uint16
		for i := range lut {
			lut[i] = uint16(tensor.ToF16(v[i] * absmax))
		}
		lookupPairs(tensor.AsBytes(d), pairs, &lut)
	case []tensor.BFloat16:
		var lut [16]uint16
		for i := range lut {
			lut[i] = uint16(tensor.ToBF16(v[i] * absmax))
		}
		lookupPairs(tensor.AsBytes(d), pairs, &lut)
	}
}

func dequantizePairs(dst []float32, codes []byte, absmax float32, v *[16]float32) {
	var lut [16]uint64
	for i := range lut {
		lut[i] = uint64(math.Float32bits(v[i] * absmax))
	}
	out := tensor.AsBytes(dst)
	for ; len(codes) >= 4 && len(out) >= 32; codes, out = codes[4:], out[32:] {
		w := binary.LittleEndian.Uint32(codes)
		binary.LittleEndian.PutUint64(out, lut[w>>4&15]|lut[w&15]<<32)
		binary.LittleEndian.PutUint64(out[8:], lut[w>>12&15]|lut[w>>8&15]<<32)
		binary.LittleEndian.PutUint64(out[16:], lut[w>>20&15]|lut[w>>16&15]<<32)
		binary.LittleEndian.PutUint64(out[24:], lut[w>>28]|lut[w>>24&15]<<32)
	}
	for i, c := range codes {
		binary.LittleEndian.PutUint64(out[8*i:], lut[c>>4]|lut[c&15]<<32)
	}
}

// lookupPairs writes two 16-bit elements for each code byte.
func lookupPairs(out []byte, codes []byte, lut *[16]uint16) {
	for ; len(codes) >= 4 && len(out) >= 16; codes, out = codes[4:], out[16:] {
		w := binary.LittleEndian.Uint32(codes)
		binary.LittleEndian.PutUint32(out, uint32(lut[w>>4&15])|uint32(lut[w&15])<<16)
		binary.LittleEndian.PutUint32(out[4:], uint32(lut[w>>12&15])|uint32(lut[w>>8&15])<<16)
		binary.LittleEndian.PutUint32(out[8:], uint32(lut[w>>20&15])|uint32(lut[w>>16&15])<<16)
		binary.LittleEndian.PutUint32(out[12:], uint32(lut[w>>28])|uint32(lut[w>>24&15])<<16)
	}
	for i, c := range codes {
		binary.LittleEndian.PutUint32(out[4*i:], uint32(lut[c>>4])|uint32(lut[c&15])<<16)
	}
}
