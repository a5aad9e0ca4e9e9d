// Blockwise quantization to 4 and 8 bits with the codes and scales of bitsandbytes' CUDA kernels: r = 1/absmax by the approximate
// reciprocal, the code of x*r by its thresholds, denormal numbers taken for zeros, NaN ignored by absmax and coded as 0.
//
// T is the dtype of x; BLOCK the block size where it is a power of two from 32 to 4096 (THREADS: of a block of quantize_blocks, RESIDENT of which a
// multiprocessor should hold), else not defined and only quantize_any is compiled. BITS is 4 or 8; the text after this file defines the functions declared here.

// encode is the code of x scaled to q.
INLINE u32 encode(float q, float x, const u32 *table);
// code_cells is the table that encode searches; null with 4 bits.
INLINE const u32 *code_cells();
// plain_table is the table of encode_plain, PLAIN words; without one PLAIN is 0.
INLINE const u32 *plain_table();

struct Larger { static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); } };  // NaN loses

#if BITS == 4
#define PER_BYTE 2
#define WORDS 1  // of the codes of eight elements
#else
#define PER_BYTE 1
#define WORDS 2
#endif
typedef Pack<u32, WORDS> Codes;

#ifdef BLOCK
#define GROUP (BLOCK / 8 < 32 ? BLOCK / 8 : 32)      // lanes that share a block
#define RUN (BLOCK > 256 ? BLOCK / 256 : 1)          // packs of a lane that share a block
#define PACKS (RUN > 4 ? RUN : 4)                    // packs of eight that a lane has in flight
#define BLOCKS (PACKS / RUN)                         // blocks of a lane
#define UNROLL (PLAIN ? 1 : PACKS)                   // what is not plain is rare, reads packs once more and leaves the registers to what is

// share is the largest of the lanes of a block.
template <class R> INLINE float share(float m) {
#pragma unroll
  for (int d = GROUP / 2; d > 0; d >>= 1) m = R::of(m, __shfl_xor_sync(FULL, m, d));
  return m;
}

// encode_pack encodes eight elements, whatever they are.
INLINE Codes encode_pack(const Eight<T> &e, float r) {
  u32 c[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float v = e.at(i);
    c[i] = encode(mul_ftz(v, r), v, code_cells());
  }
  Codes words = {};
#pragma unroll
  for (int i = 0; i < 8; i++) words.v[i * WORDS / 8] |= c[i] << (BITS == 4 ? 4 * (i ^ 1) : i % 4 * 8);
  return words;
}

#if PLAIN
// A block is plain if its absmax is a normal number, PLAIN_MOST at most, and no element is NaN. Then scaled elements are numbers between -1 and 1 (and a
// little beyond), and one read of a table and an addition find a code.

// largest is the largest magnitude of N packs, NaN where there is one.
template <int N> INLINE float largest(const Eight<f32> *e) {
  float m = 0;
#pragma unroll
  for (int u = 0; u < N; u++)
#pragma unroll
    for (int i = 0; i < 8; i++) m = LargerOrNaN::of(m, fabsf(e[u].at(i)));
  return m;
}
template <int N, class E> INLINE float largest(const Eight<E> *e) {
  u32 m = 0;
#pragma unroll
  for (int u = 0; u < N; u++) {
    const Pack<u32, 4> w = *reinterpret_cast<const Pack<u32, 4> *>(e + u);
#pragma unroll
    for (int i = 0; i < 4; i++) m = LargerPair<E>::of(m, w.v[i]);
  }
  return largest_half<E>(m);
}

#if BITS == 4
// A scaled value falls in one of 64 equal cells, each with at most one threshold: the word of a cell is the threshold, the next one the number of those
// below the cell. The sign of threshold - q is the comparison. The table lies in shared memory sixteen times, so that half a warp reads all banks.
#define COPIES 16
INLINE Codes encode_plain(const Eight<T> &e, float r, const u32 *table) {
  const u8 *mine = (const u8 *)table + lane() % COPIES * 8;
  Codes words = {};
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const float q = mul_ftz(e.at(i ^ 6), r);  // elements from the highest digit to the lowest
    const u32 cell = __float_as_uint(__fmaf_rn(q, 2048.0f, 12582912.0f + CELL_ZERO * 128)) & 0x1f80;
    const Pack<u32, 2> w = *reinterpret_cast<const Pack<u32, 2> *>(mine + cell);
    words.v[0] = words.v[0] * 16 + w.v[1] + (__float_as_uint(__uint_as_float(w.v[0]) - q) >> 31);
  }
  return words;
}
#else
#define COPIES 1
// sign_bytes of four elements from `at` on.
INLINE u32 sign_bytes(const Eight<f32> &e, int at) { return sign_bytes(e.at(at), e.at(at + 1), e.at(at + 2), e.at(at + 3)); }
template <class E> INLINE u32 sign_bytes(const Eight<E> &e, int at) {
  const Pack<u32, 4> w = *reinterpret_cast<const Pack<u32, 4> *>(&e);
  return permute(w.v[at / 2], w.v[at / 2 + 1], 0xfdb9);
}
INLINE Codes encode_plain(const Eight<T> &e, float r, const u32 *table) {
  Codes words;
  r = mul_ftz(r, PLAIN_SCALE);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    u32 s[4];
#pragma unroll
    for (int i = 0; i < 4; i++) s[i] = coded_sum(mul_ftz(e.at(4 * h + i), r), table);
    words.v[h] = third_bytes(s) ^ sign_bytes(e, 4 * h);
  }
  return words;
}
#endif
#endif

// A warp takes PACKS*32 packs of eight elements at a time; pack u of lane l is number u*32 + l. `packs` counts those of whole blocks.
KERNEL __launch_bounds__(THREADS, RESIDENT) quantize_blocks(const T *__restrict__ x, u8 *__restrict__ codes, float *__restrict__ absmax, i64 packs) {
#if PLAIN
  __shared__ __align__(16) u32 table[PLAIN * COPIES];
  for (int i = threadIdx.x; i < PLAIN * COPIES; i += blockDim.x) table[i] = plain_table()[COPIES == 1 ? i : i / (2 * COPIES) * 2 + i % 2];
  __syncthreads();
#endif
  const i64 tiles = (i64)gridDim.x * (THREADS / WARP);
  for (i64 tile = (i64)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP; tile * (PACKS * WARP) < packs; tile += tiles) {
    const i64 first = tile * (PACKS * WARP) + lane();
    const int left = packs - first < PACKS * WARP ? (int)(packs - first) : PACKS * WARP;  // pack u is there if u*32 < left
    const T *from = x + 8 * (left > 0 ? first : packs - 1);
    u32 *to = reinterpret_cast<u32 *>(codes) + WORDS * first;
    float *scales = absmax + first * 8 / BLOCK;
    Eight<T> e[PACKS];
    if (__all_sync(FULL, left > (PACKS - 1) * WARP)) {
#pragma unroll
      for (int u = 0; u < PACKS; u++) e[u] = load_eight(from + u * WARP * 8);
    } else {
#pragma unroll
      for (int u = 0; u < PACKS; u++) e[u] = load_eight(from + (u * WARP < left ? u * WARP * 8 : 0));
    }
    auto write = [&](int u, float m, const Codes &words) {
      if (u * WARP >= left) return;
      store_pack(to + WORDS * u * WARP, words);
      if (u % RUN == 0 && lane() % GROUP == 0) scales[u * WARP * 8 / BLOCK] = m;
    };
#if PLAIN
    float m[BLOCKS];
    bool plain = true;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
      m[b] = share<LargerOrNaN>(largest<RUN>(e + b * RUN));
      plain = plain && m[b] >= 0x1p-126f && m[b] <= PLAIN_MOST;
    }
    if (__all_sync(FULL, plain)) {
#pragma unroll
      for (int u = 0; u < PACKS; u++) write(u, m[u / RUN], encode_plain(e[u], rcp_approx(m[u / RUN]), table));
      continue;
    }
#endif
    auto pack = [&](int u) { return PLAIN ? load_eight(from + (u * WARP < left ? u * WARP * 8 : 0)) : e[u]; };
#pragma unroll UNROLL
    for (int b = 0; b < BLOCKS; b++) {
      float most = 0;
#pragma unroll UNROLL
      for (int u = b * RUN; u < (b + 1) * RUN; u++) {
        const Eight<T> v = pack(u);
#pragma unroll
        for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(v.at(i)));
      }
      most = flush(share<Larger>(most));
#pragma unroll UNROLL
      for (int u = b * RUN; u < (b + 1) * RUN; u++) write(u, most, encode_pack(pack(u), rcp_approx(most)));
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
