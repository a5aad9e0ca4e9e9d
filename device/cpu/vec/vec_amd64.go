//go:build amd64 && !noasm

package vec

import "github.com/bitsandbyes/bitsandbyes/internal/isa"

func init() {
	if !isa.Has(isa.AVX2) {
		return
	}
	fast = loops{
		widenBF16: widenBF16AVX2, widenF16: widenF16AVX2,
		narrowBF16: narrowBF16AVX2, narrowF16: narrowF16AVX2,
		exp: expAVX2, sigmoid: sigmoidAVX2, silu: siluAVX2, geluTanh: geluTanhAVX2, expSum: expSumAVX2,
	}
}
