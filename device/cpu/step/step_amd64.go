//go:build amd64 && !noasm

package step

import "github.com/bitsandbyes/bitsandbyes/internal/isa"

func init() {
	if isa.Has(isa.AVX2) {
		fast = &byLevel[isa.AVX2]
		fast.update = [variants]func(blocks int, p, g, s0, s1, s2, k *float32){
			adamAVX2, adamTorchAVX2, ademamixAVX2, lionAVX2, momentumAVX2, rmspropAVX2, adagradAVX2, plainAVX2,
		}
	}
	if isa.Has(isa.AVX512) {
		fast = &byLevel[isa.AVX512]
		fast.update = [variants]func(blocks int, p, g, s0, s1, s2, k *float32){
			adamAVX512, adamTorchAVX512, ademamixAVX512, lionAVX512, momentumAVX512, rmspropAVX512, adagradAVX512, plainAVX512,
		}
	}
}
