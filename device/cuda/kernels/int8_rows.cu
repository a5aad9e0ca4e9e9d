// quantize_rows of int8.cu, which comes before, for values of 16 bits and rows that a block holds in registers, ROW_PACKS packs of eight a
// thread of ROW_THREADS; ROW_BLOCKS of them should share a multiprocessor.
//
// Values are kept in pairs as they are quantized. Outliers and NaN become zeros there, which have code 0 and leave the largest magnitude alone, so that
// everything after is the same for all: a product, and a sum that rounds, whose lowest byte is the code.

#if HALF
typedef f16 Seen;
#else
typedef T Seen;
#endif

// without clears what is not quantized of a pack, marks its outliers, and tells whether there was NaN.
INLINE bool without(Pack<u32, 4> &e, f32 threshold, u8 *marks) {
  bool nan = false;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const f32 v = widen<Seen>(half_of<Seen>(e.v[i / 2], i % 2));
    const bool outlier = threshold > 0.f && fabsf(v) >= threshold;
    if (outlier) marks[i] = 1;
    nan |= v != v;
    if (outlier || v != v) e.v[i / 2] &= i % 2 ? 0xffffu : 0xffff0000u;
  }
  return nan;
}

INLINE u32 largest_pair(const Pack<u32, 4> &e) {
  u32 m = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) m = LargerPair<Seen>::of(m, e.v[i]);
  return m;
}

KERNEL __launch_bounds__(ROW_THREADS, ROW_BLOCKS) quantize_rows_packed(const T *__restrict__ x, i8 *__restrict__ codes, f32 *__restrict__ stats, u8 *marks, i64 columns, f32 threshold, int strict) {
  const int begin = 8 * (int)threadIdx.x, step = 8 * (int)blockDim.x, n = (int)columns;
  x += blockIdx.x * columns;
  codes += blockIdx.x * columns;
  Pack<u32, 4> e[ROW_PACKS];
#pragma unroll
  for (int u = 0; u < ROW_PACKS; u++) {
    e[u] = Pack<u32, 4>{};
    if (begin + u * step < n) e[u] = load_pack<4>(reinterpret_cast<const u32 *>(x + begin + u * step));
  }
  u32 most = 0, nan = 0;
#pragma unroll
  for (int u = 0; u < ROW_PACKS; u++) {
#if HALF
#pragma unroll
    for (int i = 0; i < 4; i++) e[u].v[i] = narrow_pair<f16>(widen<T>(half_of<T>(e[u].v[i], 0)), widen<T>(half_of<T>(e[u].v[i], 1)));
#endif
    u32 m = largest_pair(e[u]);
    const f32 top = largest_half<Seen>(m);
    if (threshold > 0.f ? !(top < threshold) : top != top) {
      nan |= without(e[u], threshold, marks + begin + u * step);
      m = largest_pair(e[u]);
    }
    most = LargerPair<Seen>::of(most, m);
  }
  const f32 stat = flush(block_reduce<Larger>(largest_half<Seen>(most), 0.f));
  if (strict) nan = block_reduce<Larger>(nan, 0u);
  if (threadIdx.x == 0) stats[blockIdx.x] = strict && nan ? __uint_as_float(0x7fffffffu) : stat;
  const f32 r = mul_ftz(127.f, rcp_approx(stat));
  if (!(stat > 0.f && stat < INF && r > 0.f && r < INF)) {
    write_codes(codes, x, 0, columns, threshold, stat, 0);
    return;
  }
#pragma unroll
  for (int u = 0; u < ROW_PACKS; u++) {
    if (begin + u * step >= n) break;
    Pack<u32, 2> out;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      u32 c[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        c[i] = __float_as_uint(__fadd_rn(mul_ftz(widen<Seen>(half_of<Seen>(e[u].v[2 * h + i / 2], i % 2)), r), 12582912.f));
      out.v[h] = permute(permute(c[0], c[1], 0x40), permute(c[2], c[3], 0x40), 0x5410);
    }
    store_pack(reinterpret_cast<u32 *>(codes + begin + u * step), out);
  }
}
