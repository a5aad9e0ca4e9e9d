package quant

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/internal/fourbit"
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
	dequantize4(dst[:hi-lo], codes, absmax, lo, blocksize, scheme)
	return nil
}

var schemeValues = [2][16]float32{NF4: floats16(nf4Bits), FP4: fp4Values()}

// dequantize4 writes len(dst) elements of a tensor, beginning at element lo.
func dequantize4[E Real](dst []E, codes []byte, absmax []float32, lo, blocksize int, scheme Scheme) {
	w := fourbit.Weight{Codes: codes, Absmax: absmax, Blocksize: blocksize, Values: schemeValues[scheme]}
	switch d := any(dst).(type) {
	case []float32:
		w.Float32(d, lo, false)
	case []tensor.BFloat16:
		w.Half(tensor.View[uint16](tensor.AsBytes(d)), tensor.BF16, lo, false)
	case []tensor.Float16:
		w.Half(tensor.View[uint16](tensor.AsBytes(d)), tensor.F16, lo, false)
	}
}
