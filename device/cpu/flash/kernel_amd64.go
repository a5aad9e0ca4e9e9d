//go:build amd64 && !noasm

package flash

import "github.com/bitsandbyes/bitsandbyes/internal/isa"

func init() {
	if !isa.Has(isa.AVX2) {
		return
	}
	few256 := fewKernel{8, dotsAVX2, weighAVX2, widenRowsBF16AVX2, widenRowsF16AVX2}
	kernels[isa.AVX2] = &kernel{
		mr: 4, nr: 16,
		outer: outerAVX2, inner: innerAVX2, softmax: softmaxAVX2, slopes: slopesAVX2, hide: hideAVX2, scale: scaleAVX2, lse: lseAVX2,
		strips: columnsTo4AVX2, transpose: columnsTo8AVX2, cut: cutAVX2, dotRows: dotRowsAVX2,
		few: []fewKernel{few256},
	}
	if !isa.Has(isa.AVX512) {
		return
	}
	kernels[isa.AVX512] = &kernel{
		mr: 8, nr: 32,
		outer: outerAVX512, inner: innerAVX512, softmax: softmaxAVX512, slopes: slopesAVX512, hide: hideAVX512, scale: scaleAVX512, lse: lseAVX512,
		strips: oneStrip(columnsTo8AVX2), transpose: columnsTo8AVX2, cut: cutAVX512, dotRows: dotRowsAVX2,
		few: []fewKernel{{16, dotsAVX512, weighAVX512, widenRowsBF16AVX512, widenRowsF16AVX512}, few256},
	}
}

// oneStrip makes a transpose into a strip eight wide.
func oneStrip(transpose func(dst *float32, ldd int, src *float32, lds, blocks int)) func(*float32, int, *float32, int, int) {
	return func(dst *float32, _ int, src *float32, lds, blocks int) { transpose(dst, 8, src, lds, blocks) }
}
