// Sums of squares, and rounding of slabs at random. After random.cuh.

// square_sums adds up the squares of a block's stretch of `each` elements in float64, in an order that follows from the shape alone.
KERNEL square_sums(const float *x, i64 n, i64 each, f64 *parts) {
  const i64 lo = (i64)blockIdx.x * each, hi = lo + each < n ? lo + each : n;
  f64 sum = 0;
  const bool packs = (reinterpret_cast<u64>(x) & 15) == 0;
  for (i64 i = lo + 4 * threadIdx.x; i < hi; i += 4 * blockDim.x) {
    Pack<float, 4> p;
    if (packs && i + 3 < hi) {
      p = load_pack<4>(x + i);
    } else {
#pragma unroll
      for (int k = 0; k < 4; k++) p.v[k] = i + k < hi ? x[i + k] : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) sum += (f64)p.v[k] * p.v[k];
  }
  sum = block_reduce<Sum>(sum, 0.0);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// square_total adds up the parts with one block.
KERNEL square_total(const f64 *parts, i32 n, float *out) {
  f64 sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += parts[i];
  sum = block_reduce<Sum>(sum, 0.0);
  if (threadIdx.x == 0) *out = (float)sum;
}

#ifdef TO
struct Slot {
  f64 scale, fixed;
  i64 offset, size;
  f32 decay;
  u32 site;
};
struct Chunk {
  i64 start;
  i32 tensor, blocks;
};

// round_slab rounds the tensors of a slab to TO; padding is written by another.
KERNEL round_slab(const float *x, const float *step, TO *y, const Slot *slots, const Chunk *chunks, u64 seed) {
  const Chunk chunk = chunks[blockIdx.x];
  const Slot slot = slots[chunk.tensor];
  const i64 end = slot.offset + slot.size;
  for (int b = threadIdx.x; b < chunk.blocks * 32; b += blockDim.x) {
    const i64 at = chunk.start + 8 * (i64)b;
    const Words w = rounding_words(seed, (u32)step[0], slot.site, (u32)((at - slot.offset) / 8));
    for (int k = 0; k < 8; k++)
      if (at + k < end) y[at + k] = round_randomly(TO(), x[at + k], rounding_bits(w, k));
  }
}
#endif
