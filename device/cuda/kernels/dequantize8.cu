// 8-bit codes of a dynamic map to values of T: book_value(code)*absmax in float32, rounded once.

INLINE float book_value(int code);

#define PACKS 4

#ifdef SHIFT
// dequantize8_packs: a lane reads 8 codes and writes eight values. The map is in shared memory.
KERNEL __launch_bounds__(256) dequantize8_packs(const u8 *__restrict__ codes, const float *__restrict__ absmax, T *__restrict__ y, i64 packs) {
  __shared__ float book[256];
  book[threadIdx.x] = book_value(threadIdx.x);  // 256 threads
  __syncthreads();
  i64 tile = blockIdx.x;
  for (; tile * (PACKS * 256) < packs; tile += gridDim.x) {
    i64 first = tile * (PACKS * 256) + threadIdx.x;
    Pack<u32, 2> word[PACKS];
    float scale[PACKS];
#pragma unroll
    for (int u = 0; u < PACKS; u++) {
      i64 p = first + u * 256;
      p = p < packs ? p : packs - 1;
      word[u] = load_pack<2>(reinterpret_cast<const u32 *>(codes) + 2 * p);
      scale[u] = __ldg(absmax + (p >> (SHIFT - 3)));
    }
#pragma unroll
    for (int u = 0; u < PACKS; u++) {
      i64 p = first + u * 256;
      if (p >= packs) break;
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = __fmul_rn(book[word[u].v[i / 4] >> (8 * (i % 4)) & 255], scale[u]);
      store_eight(y + 8 * p, v);
    }
  }
}
#endif

// dequantize8_any writes elements first to n-1.
KERNEL dequantize8_any(const u8 *__restrict__ codes, const float *__restrict__ absmax, T *__restrict__ y, i64 first, i64 n, i64 blocksize) {
  for (i64 i = first + global_thread(); i < n; i += global_threads()) y[i] = narrow<T>(__fmul_rn(book_value(codes[i]), absmax[i / blocksize]));
}
