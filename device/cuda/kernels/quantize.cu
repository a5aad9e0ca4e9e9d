// Blockwise quantization to 4 and 8 bits with the codes and scales of bitsandbytes' CUDA kernels: r = 1/absmax by the approximate
// reciprocal, the code of x*r by its thresholds, denormal numbers taken for zeros, NaN ignored by absmax and coded as 0.
//
// T is the dtype of x; BLOCK the block size where it is a power of two from 32 to 4096 (THREADS: of a block of quantize_blocks), else not
// defined and only quantize_any is compiled. BITS is 4 or 8; the text after this file defines the two functions declared here.

// encode is the code of x scaled to q.
INLINE u32 encode(float q, float x, const u32 *table);
// code_cells is the table that encode searches, of CELLS words; null with 4 bits.
INLINE const u32 *code_cells();

struct Larger { static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); } };  // NaN loses

#if BITS == 4
#define PER_BYTE 2
#else
#define PER_BYTE 1
#endif

#ifdef BLOCK
#define GROUP (BLOCK / 8 < 32 ? BLOCK / 8 : 32)      // lanes that share a block
#define RUN (BLOCK > 256 ? BLOCK / 256 : 1)          // packs of a lane that share a block
#define PACKS (RUN > 4 ? RUN : 4)                    // packs of eight that a lane has in flight

// A warp takes PACKS*32 packs of eight elements at a time; pack u of lane l is number u*32 + l. `packs` counts those of whole blocks.
KERNEL __launch_bounds__(THREADS) quantize_blocks(const T *__restrict__ x, u8 *__restrict__ codes, float *__restrict__ absmax, i64 packs) {
#if BITS == 8
  __shared__ u32 table[CELLS];
  for (int i = threadIdx.x; i < CELLS; i += blockDim.x) table[i] = code_cells()[i];
  __syncthreads();
#else
  const u32 *table = nullptr;
#endif
  i64 tile = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / WARP, tiles = (i64)gridDim.x * blockDim.x / WARP;
  for (; tile * (PACKS * WARP) < packs; tile += tiles) {
    i64 first = tile * (PACKS * WARP) + lane();
    Eight<T> e[PACKS];
#pragma unroll
    for (int u = 0; u < PACKS; u++) {
      i64 p = first + u * WARP;
      e[u] = load_eight(x + 8 * (p < packs ? p : packs - 1));
    }
#pragma unroll
    for (int g = 0; g < PACKS; g += RUN) {
      float m = 0;
#pragma unroll
      for (int u = g; u < g + RUN; u++)
#pragma unroll
        for (int i = 0; i < 8; i++) m = fmaxf(m, fabsf(e[u].at(i)));
#pragma unroll
      for (int d = GROUP / 2; d > 0; d >>= 1) m = fmaxf(m, __shfl_xor_sync(FULL, m, d));
      m = flush(m);
      float r = rcp_approx(m);
#pragma unroll
      for (int u = g; u < g + RUN; u++) {
        i64 p = first + u * WARP;
        if (p >= packs) continue;
        u32 c[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
          float v = e[u].at(i);
          c[i] = encode(mul_ftz(v, r), v, table);
        }
#if BITS == 4
        u32 word = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) word |= c[i] << (4 * (i ^ 1));
        *reinterpret_cast<u32 *>(codes + 4 * p) = word;
#else
        Pack<u32, 2> words;
        words.v[0] = c[0] | c[1] << 8 | c[2] << 16 | c[3] << 24;
        words.v[1] = c[4] | c[5] << 8 | c[6] << 16 | c[7] << 24;
        store_pack(reinterpret_cast<u32 *>(codes + 8 * p), words);
#endif
        if (u == g && lane() % GROUP == 0) absmax[p * 8 / BLOCK] = m;
      }
    }
  }
}
#endif

// quantize_any takes blocks of any size and alignment from block `first` on, one to a warp.
KERNEL __launch_bounds__(128) quantize_any(const T *__restrict__ x, u8 *__restrict__ codes, float *__restrict__ absmax, i64 n, i32 blocksize,
                                           i64 first) {
  const u32 *table = code_cells();
  i64 block = first + ((i64)blockIdx.x * blockDim.x + threadIdx.x) / WARP, step = (i64)gridDim.x * blockDim.x / WARP;
  for (; block * blocksize < n; block += step) {
    i64 lo = block * blocksize, hi = lo + blocksize < n ? lo + blocksize : n;
    float m = 0;
    for (i64 i = lo + lane(); i < hi; i += WARP) m = fmaxf(m, fabsf(widen<T>(x[i])));
    m = flush(warp_reduce<Larger>(m));
    float r = rcp_approx(m);
    for (i64 i = lo + lane() * PER_BYTE; i < hi; i += WARP * PER_BYTE) {
      float v = widen<T>(x[i]);
      u32 c = encode(mul_ftz(v, r), v, table);
#if BITS == 4
      u32 next = ZERO_CODE;
      if (i + 1 < hi) {
        v = widen<T>(x[i + 1]);
        next = encode(mul_ftz(v, r), v, table);
      }
      c = c << 4 | next;
#endif
      codes[i / PER_BYTE] = (u8)c;
    }
    if (lane() == 0) absmax[block] = m;
  }
}
