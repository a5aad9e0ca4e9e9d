// Products of any float types on the ordinary units: TA by TB into TC, summed in Acc<TC>. A block of TILE²/16 threads computes TILE x TILE of
// C, each thread 4 x 4, in steps of 16 inner indices.
// Defined by the program: TA, TB, TC, TRANS_A, TRANS_B, TILE (32 or 64); QUANTIZED, if TB is i8 with one scale a row of the stored matrix:
// values code·(scale/127) rounded to TA.

typedef Acc<TC> SUM;
#define DEEP 16
#define THREADS (TILE * TILE / 16)

// value is an element of a stored matrix: a code with the scale of its row, or a number.
#ifdef QUANTIZED
INLINE SUM value(i8 code, const f32 *scale) { return widen(narrow<TA>((f32)code * (*scale * 7.874015718698502e-3f))); }
#endif
template <class T> INLINE SUM value(T x, const f32 *) { return (SUM)widen(x); }

// fetch reads a tile: element (o, i) of DEEP x TILE to to[i][o]; `outer` of the extent `limit` and `inner` below `hi` are where it begins.
template <bool ACROSS, class T> INLINE void fetch(SUM (*to)[TILE + 4], const T *src, const f32 *scales, i64 ld, int outer, int limit, int inner, int hi) {
  for (int e = threadIdx.x; e < TILE * DEEP; e += THREADS) {
    int o = ACROSS ? e % TILE : e / DEEP, i = ACROSS ? e / TILE : e % DEEP;
    i64 row = ACROSS ? inner + i : outer + o, column = ACROSS ? outer + o : inner + i;
    to[i][o] = outer + o < limit && inner + i < hi ? value(src[row * ld + column], scales + row) : 0;
  }
}

KERNEL gemm_simt(const Product p, const f32 *scales) {
  __shared__ SUM ta[DEEP][TILE + 4], tb[DEEP][TILE + 4];
  Tile t;
  if (!find_tile<TILE, TILE>(p, t)) return;
  const TA *a = (const TA *)p.a + t.a;
  const TB *b = (const TB *)p.b + t.b;
#ifdef QUANTIZED
  scales += t.matrix * (p.stride_b / max(p.ldb, (i64)1));  // of this expert's rows
#endif
  int row0 = threadIdx.x / (TILE / 4) * 4, column0 = threadIdx.x % (TILE / 4) * 4;
  SUM acc[4][4];
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) acc[i][j] = 0;
  for (int at = t.lo; at < t.hi; at += DEEP) {
    fetch<TRANS_A>(ta, a, scales, p.lda, t.row, t.m, at, t.hi);
    fetch<!TRANS_B>(tb, b, scales, p.ldb, t.column, p.n, at, t.hi);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEEP; k++) {
      SUM x[4], y[4];
#pragma unroll
      for (int i = 0; i < 4; i++) x[i] = ta[k][row0 + i], y[i] = tb[k][column0 + i];
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] += x[i] * y[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) write_sum<TC>(p, t, t.row + row0 + i, t.column + column0 + j, acc[i][j]);
}
