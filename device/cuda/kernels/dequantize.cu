// Weights in 4 bits to values of T, all of them or the rows that are looked up. SHIFT is the logarithm of the block size where that is a
// power of two of at least 8; without it only the kernels for any block size are compiled.

#ifndef PACKS
#define PACKS 8  // packs of eight values that a lane has in flight
#endif

#ifdef SHIFT
// dequantize_packs: a lane reads 4 bytes and writes eight values; pack u of lane l is number u*32 + l of its warp's tile.
KERNEL __launch_bounds__(256) dequantize_packs(const u32 *__restrict__ codes, Scales s, T *__restrict__ y, i64 packs) {
  float mine = level(lane() & 15), offset = offset_of(s);
  i64 tile = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / WARP, tiles = (i64)gridDim.x * blockDim.x / WARP;
  for (; tile * (PACKS * WARP) < packs; tile += tiles) {
    i64 first = tile * (PACKS * WARP) + lane();
    u32 word[PACKS];
    Scale raw[PACKS];
#pragma unroll
    for (int u = 0; u < PACKS; u++) {
      i64 p = first + u * WARP;
      p = p < packs ? p : packs - 1;
      word[u] = __ldg(codes + p);
      raw[u] = __ldg(s.absmax + (p >> (SHIFT - 3)));
    }
#pragma unroll
    for (int u = 0; u < PACKS; u++) {
      i64 p = first + u * WARP;
      float v[8];
      decode_eight(v, word[u], mine, scale_of(s, (p < packs ? p : packs - 1) >> (SHIFT - 3), raw[u], offset));
      if (p < packs) store_eight(y + 8 * p, v);
    }
  }
}

// embed_packs: row i of y is row ids[i] of the weight, whose rows are a multiple of eight values long; zeros for an id outside it.
KERNEL __launch_bounds__(128) embed_packs(const i32 *__restrict__ ids, const u32 *__restrict__ codes, Scales s, T *__restrict__ y, i64 n, i64 rows,
                                          i32 packs) {
  float mine = level(lane() & 15), offset = offset_of(s);
  for (i64 i = blockIdx.x; i < n; i += gridDim.x) {
    i64 id = ids[i];
    bool inside = id >= 0 && id < rows;
    i64 from = inside ? id * packs : 0;
    for (i32 j = threadIdx.x - lane(); j < packs; j += blockDim.x) {
      i32 k = j + lane();
      i64 p = from + (k < packs ? k : packs - 1), block = p >> (SHIFT - 3);
      float v[8];
      decode_eight(v, codes[p], mine, scale_of(s, block, s.absmax[block], offset));
#pragma unroll
      for (int e = 0; e < 8; e++) v[e] = inside ? v[e] : 0.0f;
      if (k < packs) store_eight(y + (i * packs + k) * 8, v);
    }
  }
}
#endif

INLINE float value_at(const u8 *codes, const Scales &s, i64 i, i64 blocksize) {
  return __fmul_rn(level(codes[i / 2] >> (i & 1 ? 0 : 4) & 15), scale_at(s, i / blocksize));
}

// dequantize_any writes elements first to n-1.
KERNEL dequantize_any(const u8 *__restrict__ codes, Scales s, T *__restrict__ y, i64 first, i64 n, i32 blocksize) {
  for (i64 i = first + global_thread(); i < n; i += global_threads()) y[i] = narrow<T>(value_at(codes, s, i, blocksize));
}

// embed_any is embed_packs for rows of any length.
KERNEL embed_any(const i32 *__restrict__ ids, const u8 *__restrict__ codes, Scales s, T *__restrict__ y, i64 n, i64 rows, i64 cols,
                 i32 blocksize) {
  for (i64 at = global_thread(); at < n * cols; at += global_threads()) {
    i64 id = ids[at / cols];
    y[at] = narrow<T>(id >= 0 && id < rows ? value_at(codes, s, id * cols + at % cols, blocksize) : 0.0f);
  }
}
