package quant

import (
	"fmt"
	"math"
)

// QuantizeScales is the second quantization of QLoRA (arXiv 2305.14314, section 3): the mean of the scales is taken off and the rest
// quantized to 8 bits in blocks of StateBlocksize with the signed dynamic code book. codes must hold len(absmax) bytes and
// nestedAbsmax Blocks(len(absmax), StateBlocksize) values. The mean is summed in float64 and rounded once; no scales have mean 0.
func QuantizeScales(codes []byte, nestedAbsmax, absmax []float32) (offset float32, err error) {
	if err := check8(len(codes), len(nestedAbsmax), len(absmax), StateBlocksize, DynamicSigned()); err != nil {
		return 0, err
	}
	offset = meanScale(absmax)
	quantizeScalesAround(codes, nestedAbsmax, absmax, offset, StateBlocksize)
	return offset, nil
}

func meanScale(absmax []float32) float32 {
	if len(absmax) == 0 {
		return 0
	}
	sum := 0.0
	for _, a := range absmax {
		sum += float64(a)
	}
	return float32(sum / float64(len(absmax)))
}

// quantizeScalesAround quantizes absmax-offset for a given offset, in blocks of the signed dynamic code book.
func quantizeScalesAround(codes []byte, nestedAbsmax, absmax []float32, offset float32, blocksize int) {
	book, rest := DynamicSigned(), make([]float32, min(blocksize, len(absmax)))
	for b := range Blocks(len(absmax), blocksize) {
		lo := b * blocksize
		x := absmax[lo:min(lo+blocksize, len(absmax))]
		for i, a := range x {
			rest[i] = flush(a - offset)
		}
		nestedAbsmax[b] = book.QuantizeBlock(codes[lo:lo+len(x)], rest[:len(x)])
	}
}

// RestoreScales writes scales lo to hi-1 to dst[:hi-lo]: values[codes[i]]*nestedAbsmax[i/blocksize] + offset, product and sum each
// rounded to float32. codes and nestedAbsmax are those of the whole tensor.
func RestoreScales(dst []float32, codes []byte, nestedAbsmax []float32, offset float32, lo, hi, blocksize int, values *[256]float32) error {
	switch {
	case values == nil:
		return fmt.Errorf("quant: no code values for the second-level scales")
	case lo < 0 || hi < lo || hi > len(codes) || hi-lo > len(dst) || blocksize < 1 || Blocks(hi, blocksize) > len(nestedAbsmax):
		return fmt.Errorf("quant: scales [%d, %d) in blocks of %d do not fit %d codes, %d second-level scales and %d outputs",
			lo, hi, blocksize, len(codes), len(nestedAbsmax), len(dst))
	}
	for i := lo; i < hi; i++ {
		dst[i-lo] = float32(values[codes[i]]*nestedAbsmax[i/blocksize]) + offset
	}
	return nil
}

func finite(x float32) bool { return math.Float32bits(x)&infBits != infBits }
