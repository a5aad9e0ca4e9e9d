package flash

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

// kernel is one set of inner loops. A tile has nr queries side by side and works on mr keys, or mr elements of a head, at a time.
// Pointers are to the first of as many elements as the other arguments say; the generated declarations say how many.
type kernel struct {
	mr, nr  int
	outer   func(kc, strips int, a *float32, lda, astep int, b, c, shrink *float32)
	inner   func(groups, agroup, strips int, a, b *float32, ldb int, c *float32, ldc int)
	softmax func(keys int, s, state *float32)
	lse     func(state, out *float32)
	slopes  func(keys int, s, dp, state *float32)
	hide    func(keys int, s *float32, first int, seen *int32)
	scale   func(rows int, x, by *float32)
	// strips turns eight rows into columns of the 8/mr strips that lie step apart, transpose into rows of eight ldd apart.
	strips    func(dst *float32, step int, src *float32, lds, blocks int)
	transpose func(dst *float32, ldd int, src *float32, lds, blocks int)
	cut       func(rows, strips int, dst *float32, step int, src *float32, lds int)
	dotRows   func(rows, blocks int, x *float32, ldx int, y *float32, ldy int, out *float32)
	few       []fewKernel // the widest first
}

// widenRows converts rows of 16-bit floats.
type widenRows func(rows, blocks int, dst *float32, ldd int, src *uint16, lds int)

// fewKernel are the loops for single queries and for 16-bit rows; heads are whole multiples of lanes.
type fewKernel struct {
	lanes int
	dots  func(keys, blocks int, k *float32, ldk int, q, out, ahead *float32, share int)
	weigh func(keys, blocks int, v *float32, ldv int, p, out, ahead *float32, share int)
	// bf16 and f16 are nil in Go, where rows are converted one by one.
	bf16, f16 widenRows
}

// kernels holds what this processor runs; it is filled before main and never changed. kernels[isa.Generic] is never nil.
var kernels = [isa.AVX512 + 1]*kernel{isa.Generic: twin(4, 8)}

// best is the fastest of them.
func best() *kernel {
	l := isa.AVX512
	for kernels[l] == nil {
		l--
	}
	return kernels[l]
}

// Describe tells the loops in use.
func Describe() string {
	l := isa.AVX512
	for kernels[l] == nil {
		l--
	}
	return fmt.Sprintf("%v, tiles of %d keys x %d queries", l, kernels[l].mr, kernels[l].nr)
}

// pad is what the extent of a head is rounded up to: eight rows are transposed at a time, and strips are 4 or 8 wide.
const pad = 8

func roundUp(n, to int) int { return (n + to - 1) / to * to }
