package gemm

import (
	"fmt"
	"unsafe"
)

// Kernel is an implementation of the inner loops.
type Kernel uint8

// The kernels. Generic is pure Go and always there; the others need an amd64 processor with the named extensions and a build
// without the tag noasm.
const (
	Auto       Kernel = iota // the fastest available
	Generic                  // pure Go
	AVX2                     // AVX2, FMA and F16C
	AVX512                   // AVX-512F, BW, DQ and VL
	AVX512BF16               // AVX512-BF16 besides, for products of two bfloat16 matrices
	numKernels
)

// String returns the kernel's name.
func (k Kernel) String() string {
	if k >= numKernels {
		return "unknown"
	}
	return [...]string{"auto", "generic", "avx2", "avx512", "avx512bf16"}[k]
}

// Available reports whether the kernel runs here.
func (k Kernel) Available() bool { return k == Auto || k < numKernels && kernels[k] != nil }

// Best is the kernel that Auto stands for.
func Best() Kernel { return Auto.resolve() }

// Describe tells the loops of float32, bfloat16 and int8 products that Auto stands for.
func Describe() (f32, bf16, int8 string) {
	best, bytes := kernels[Best()], Best()
	for kernels8[bytes] == nil {
		bytes--
	}
	f32 = fmt.Sprintf("%v, tiles of %d x %d", min(Best(), AVX512), best.mr, best.nr)
	bf16 = "widened to float32 while packed"
	if best.pairs != nil {
		bf16 = fmt.Sprintf("%v, tiles of %d x %d", Best(), best.mr, best.nr)
	}
	k8 := kernels8[bytes]
	how := map[int]string{2: "pairs of 16 bits", 4: "VNNI"}[k8.per]
	return f32, bf16, fmt.Sprintf("%v, %s, tiles of %d x %d", bytes, how, k8.mr, k8.nr)
}

func (k Kernel) resolve() Kernel {
	if k != Auto {
		return k
	}
	for k = fastest; kernels[k] == nil; k-- {
	}
	return k
}

// fastest is the kernel that Auto stands for, or the next lower one that there is. Intel's processors have pairs of bfloat16, but multiply them at
// half the rate of float32.
var fastest = AVX512

// kernels holds what this processor runs; it is filled before main and never changed. kernels[Generic] is never nil.
var kernels = [numKernels]*kernel{Generic: &generic}

// kernel is one set of inner loops. Pointers are to the first of as many elements as the other arguments say; strides and widths are
// in elements.
type kernel struct {
	mr, nr int // rows and columns of a micro-tile
	// tile sets rows x cols of c, at most mr x nr, to alpha times a product over kc steps, or adds it. Row r of A at step k is
	// a[r*rs+k*ks]; row k of B begins at b[k*bs] and may be read for nr columns. On the way it prefetches 128 bytes at next and each step on.
	tile func(rows, kc int, a *float32, rs, ks int, b *float32, bs int, c *float32, ldc, cols int, alpha float32, add bool, next uintptr, step int)
	// tilePack is tile for mr x nr, with packed A and kc a multiple of 64, that copies the rows of B to a strip on the way; nil without.
	tilePack func(kc int, a *float32, b *float32, bs int, to *float32, c *float32, ldc int, alpha float32, add bool, next uintptr, step int)
	// tileTurn are tile for mr x nr, with packed B and kc a multiple of 64, that copy the even or the odd rows of A to a strip on the way; nil without.
	tileTurn [2]func(kc int, a *float32, rs int, to *float32, b *float32, c *float32, ldc int, alpha float32, add bool, next uintptr, step int)
	// direct says that tile is fast for any strides, so that operands may stay where they lie.
	direct bool
	packers
	pairs *pairKernel // nil without loops for pairs of bfloat16
	// dots* are products of 1, 2 or 4 rows with four rows of w; nil without them. See the assembly.
	dotsF32           func(m, n int, x *float32, ldx int, w *float32, ldw int, out *float32)
	dotsBF16, dotsF16 func(m, n int, x *float32, ldx int, w *uint16, ldw int, out *float32)
	dot               func(n int, x, y *float32) float32
	dot4              func(n int, x, w *float32, ldw int, out *[4]float32)
	axpy              func(n int, alpha float32, x, y *float32)
	axpy4             func(n int, alpha *[4]float32, x *float32, ldx int, y *float32)
}

// packers make strips. What is nil is done by others and in Go.
type packers struct {
	// rows packs up to 16 stored rows as lanes, cols up to 32 stored columns; see the assembly.
	rowsF32           func(kc int, dst *float32, w, put int, src *float32, lds, lanes int)
	rowsBF16, rowsF16 func(kc int, dst *float32, w, put int, src *uint16, lds, lanes int)
	colsF32           func(kc int, dst *float32, w int, src *float32, lds, have int)
	colsBF16, colsF16 func(kc int, dst *float32, w int, src *uint16, lds, have int)
	// transpose8 and transpose6 turn rows into columns.
	transpose8, transpose6 func(dst *float32, ldd int, src *float32, lds, blocks int)
}

var generic = kernel{mr: 4, nr: 4, tile: tileGo, dot: dotGo, dot4: dot4Go, axpy: axpyGo, axpy4: axpy4Go}

// tileGo is the micro-kernel in Go, 4x4.
func tileGo(rows, kc int, a *float32, rs, ks int, b *float32, bs int, c *float32, ldc, cols int, alpha float32, add bool, _ uintptr, _ int) {
	if rows == 4 && rs == 1 && ks == 4 && bs == 4 {
		var s [16]float32
		squareGo(kc, a, b, &s)
		storeGo(&s, rows, c, ldc, cols, alpha, add)
		return
	}
	var s [16]float32
	as, bv := unsafe.Slice(a, (rows-1)*rs+(kc-1)*ks+1), unsafe.Slice(b, (kc-1)*bs+cols)
	for k := range kc {
		w := bv[k*bs : k*bs+cols]
		for i := range rows {
			x := as[i*rs+k*ks]
			row := s[4*i : 4*i+4]
			for j, v := range w {
				row[j] += x * v
			}
		}
	}
	storeGo(&s, rows, c, ldc, cols, alpha, add)
}

// squareGo sums a whole micro-tile of packed strips.
func squareGo(kc int, a, b *float32, s *[16]float32) {
	as, bs := unsafe.Slice((*[4]float32)(unsafe.Pointer(a)), kc), unsafe.Slice((*[4]float32)(unsafe.Pointer(b)), kc)
	for half := 0; half < 4; half += 2 { // eight sums at a time stay in registers
		var s00, s01, s02, s03, s10, s11, s12, s13 float32
		for k := range as {
			x, y := as[k][half], as[k][half+1]
			w := &bs[k]
			s00 += x * w[0]
			s01 += x * w[1]
			s02 += x * w[2]
			s03 += x * w[3]
			s10 += y * w[0]
			s11 += y * w[1]
			s12 += y * w[2]
			s13 += y * w[3]
		}
		copy(s[4*half:], []float32{s00, s01, s02, s03, s10, s11, s12, s13})
	}
}

func storeGo(s *[16]float32, rows int, c *float32, ldc, cols int, alpha float32, add bool) {
	cs := unsafe.Slice(c, (rows-1)*ldc+cols)
	for i := range rows {
		row := cs[i*ldc : i*ldc+cols]
		for j := range row {
			v := alpha * s[4*i+j]
			if add {
				v += row[j]
			}
			row[j] = v
		}
	}
}

func dotGo(n int, x, y *float32) float32 {
	xs, ys := unsafe.Slice(x, n), unsafe.Slice(y, n)
	var s [4]float32
	for len(xs) >= 4 && len(ys) >= 4 {
		s[0] += xs[0] * ys[0]
		s[1] += xs[1] * ys[1]
		s[2] += xs[2] * ys[2]
		s[3] += xs[3] * ys[3]
		xs, ys = xs[4:], ys[4:]
	}
	for i := range xs {
		s[0] += xs[i] * ys[i]
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

func dot4Go(n int, x, w *float32, ldw int, out *[4]float32) {
	ws := unsafe.Slice(w, 3*ldw+n)
	for r := range out {
		out[r] = dotGo(n, x, &ws[r*ldw])
	}
}

func axpyGo(n int, alpha float32, x, y *float32) {
	xs, ys := unsafe.Slice(x, n), unsafe.Slice(y, n)
	for i, v := range xs {
		ys[i] += alpha * v
	}
}

func axpy4Go(n int, alpha *[4]float32, x *float32, ldx int, y *float32) {
	xs, ys := unsafe.Slice(x, 3*ldx+n), unsafe.Slice(y, n)
	a, b, c, d := xs[:n], xs[ldx:ldx+n], xs[2*ldx:2*ldx+n], xs[3*ldx:]
	for i := range ys {
		ys[i] += (alpha[0]*a[i] + alpha[1]*b[i]) + (alpha[2]*c[i] + alpha[3]*d[i])
	}
}
