//go:build amd64 && !noasm

package step

import "github.com/bitsandbyes/bitsandbyes/internal/isa"

func init() {
	if isa.Has(isa.AVX2) {
		fast = &byLevel[isa.AVX2]
		fast.scaled = scaleAVX2
		fast.update = [variants]func(blocks int, p, g, s0, s1, s2, k *float32){
			adamAVX2, adamTorchAVX2, ademamixAVX2, lionAVX2, momentumAVX2, rmspropAVX2, adagradAVX2, plainAVX2,
		}
		fast.update8 = [variants]func(b *byte, p, g, m, before, next, k *float32){
			adam8AVX2, adamTorch8AVX2, ademamix8AVX2, lion8AVX2, momentum8AVX2, rmsprop8AVX2, adagrad8AVX2, nil,
		}
	}
	if isa.Has(isa.AVX512) {
		fast = &byLevel[isa.AVX512]
		fast.scaled = scaleAVX512
		fast.update = [variants]func(blocks int, p, g, s0, s1, s2, k *float32){
			adamAVX512, adamTorchAVX512, ademamixAVX512, lionAVX512, momentumAVX512, rmspropAVX512, adagradAVX512, plainAVX512,
		}
		// The wide loops over blocks decode by permuting bytes. Without that the narrow ones do as well.
		fast.update8 = byLevel[isa.AVX2].update8
	}
	if isa.VBMI() {
		fast.planes = true
		fast.update8 = [variants]func(b *byte, p, g, m, before, next, k *float32){
			adam8AVX512, adamTorch8AVX512, ademamix8AVX512, lion8AVX512, momentum8AVX512, rmsprop8AVX512, adagrad8AVX512, nil,
		}
	}
}
