// Exact products of i8 in i32 on the ordinary units, for any layout: four inner indices at a time (dp4a). A block of 256 threads computes
// 64 x 64 of C, each thread 4 x 4, in steps of 32 inner indices. Defined by the program: TRANS_A, TRANS_B.

#define TILE 64
#define WORDS 8  // of a step

// fetch packs a tile: inner indices 4w to 4w + 3 of column o in to[w][o]. The rest is as in gemm_simt.cu.
template <bool ACROSS> INLINE void fetch(u32 (*to)[TILE + 4], const i8 *src, i64 ld, int outer, int limit, int inner, int hi, bool aligned) {
  for (int e = threadIdx.x; e < TILE * WORDS; e += 256) {
    int o = ACROSS ? e % TILE : e / WORDS, w = ACROSS ? e / TILE : e % WORDS, at = inner + 4 * w;
    u32 x = 0;
    if (outer + o < limit) {
      if (!ACROSS && aligned && at + 4 <= hi) {
        x = *(const u32 *)(src + (i64)(outer + o) * ld + at);
      } else {
        for (int j = 0; j < 4; j++)
          if (at + j < hi) x |= (u32)(u8)(ACROSS ? src[(i64)(at + j) * ld + outer + o] : src[(i64)(outer + o) * ld + at + j]) << 8 * j;
      }
    }
    to[w][o] = x;
  }
}

KERNEL gemm_i8(const Product p) {
  __shared__ u32 ta[WORDS][TILE + 4], tb[WORDS][TILE + 4];
  Tile t;
  if (!find_tile<TILE, TILE>(p, t)) return;
  const i8 *a = (const i8 *)p.a + t.a, *b = (const i8 *)p.b + t.b;
  int row0 = threadIdx.x / 16 * 4, column0 = threadIdx.x % 16 * 4;
  i32 acc[4][4];
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) acc[i][j] = 0;
  for (int at = t.lo; at < t.hi; at += 4 * WORDS) {
    fetch<TRANS_A>(ta, a, p.lda, t.row, t.m, at, t.hi, p.aligned & 1);
    fetch<!TRANS_B>(tb, b, p.ldb, t.column, p.n, at, t.hi, p.aligned & 2);
    __syncthreads();
#pragma unroll
    for (int w = 0; w < WORDS; w++)
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] = __dp4a((int)ta[w][row0 + i], (int)tb[w][column0 + j], acc[i][j]);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) write_sum<i32>(p, t, t.row + row0 + i, t.column + column0 + j, acc[i][j]);
}
