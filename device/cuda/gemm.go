package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// gemmMat is a stored, row-major operand of a product.
type gemmMat struct {
	dtype  tensor.DType
	ld     int   // elements from row to row
	stride int64 // elements from matrix to matrix of a batch
	trans  bool  // the product takes the transpose of what is stored
}

// gemmSpec asks for C = alpha·op(A)·op(B) (+ add), op(A) (m, k), op(B) (k, n), for a batch of matrices. Floats are summed in float32
// (float64 for f64), or in int32 for i8 into i32, and rounded once to C's dtype. What is added has the dtype and layout of C.
//
// With scaled, B is i8 codes of a matrix whose stored rows have one absmax f32 each: its values are code·(absmax/127) rounded to A's dtype.
type gemmSpec struct {
	m, n, k, batch int
	a, b, c        gemmMat
	alpha          float64
	add, scaled    bool
}

// gemmAt is where the operands of a launch lie; add and scales may be absent.
type gemmAt struct{ a, b, add, c, scales, scratch Addr }

// gemm is a product ready to be enqueued.
type gemm struct {
	label   string
	scratch int64 // bytes, aligned to 256
	enqueue func(c *Call, at gemmAt) error
}

// dense is the spec of a product of contiguous matrices without a batch: x (m, k) by w (k, n), or w stored (n, k) if transB.
func dense(m, n, k int, x, w, y tensor.DType, transB bool) gemmSpec {
	s := gemmSpec{m: m, n: n, k: k, batch: 1, alpha: 1, a: gemmMat{dtype: x, ld: k}, b: gemmMat{dtype: w, ld: n, trans: transB}, c: gemmMat{dtype: y, ld: n}}
	if transB {
		s.b.ld = k
	}
	return s
}

// gemm chooses how a product is computed: by cuBLASLt where it is present and has the case, else by the kernels here. Every kernel that
// multiplies whole matrices is made of it.
func (d *Device) gemm(s gemmSpec) (*gemm, error) {
	if s.m == 0 || s.n == 0 || s.batch == 0 {
		return &gemm{label: "gemm_none", enqueue: func(*Call, gemmAt) error { return nil }}, nil
	}
	g, err := d.libraryGemm(s)
	if g == nil && err == nil {
		g, err = d.wideGemm(s)
	}
	if g == nil && err == nil {
		g, err = d.ownGemm(s)
	}
	if err != nil {
		return nil, fmt.Errorf("product %v: %w", s, err)
	}
	return g, nil
}

// String is the product in words, also the key under which choices are kept.
func (s gemmSpec) String() string {
	mat := func(m gemmMat) string {
		t := ""
		if m.trans {
			t = "T"
		}
		return fmt.Sprintf("%v%s/%d/%d", m.dtype, t, m.ld, m.stride)
	}
	return fmt.Sprintf("%dx%dx%d batch %d %s by %s to %s add %v scaled %v", s.m, s.n, s.k, s.batch, mat(s.a), mat(s.b), mat(s.c), s.add, s.scaled)
}

// sums is the dtype that products are summed in.
func (s gemmSpec) sums() tensor.DType {
	switch s.c.dtype {
	case tensor.F64, tensor.I32:
		return s.c.dtype
	}
	return tensor.F32
}
