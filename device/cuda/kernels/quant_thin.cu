// y (m, n) = c + x (m, k)·Wᵀ for few rows of x and a weight (n, k) in 4 bits, read once as it is stored. Values are rounded to T and products
// summed in float32. c is null or where y is or apart from it.

#ifdef TENSOR_CORES
// quant_thin: m <= 8*COLUMNS, k a multiple of 32, x aligned to 16 bytes, blocks of a power of two of at least 32. A block of WARPS warps
// takes 16 rows of the weight, its warps share k in steps of 128; BLOCKS of them fit a multiprocessor. Within a step lane 4g + t has the
// 32 elements from 32t on of rows g and g + 8 of the weight, and of row g of x: products of a tensor-core step may be summed in any order
// as long as both operands are permuted alike, so each lane reads whole 16-byte words.
#define STEP 128
#ifndef PERMUTED
#define PERMUTED (COLUMNS > 1)  // row g is decoded by permutations and row g + 8 by shuffles, so that the pipes of both are at work; 0: both by shuffles
#endif
#ifndef DEPTH
#define DEPTH 1  // steps that a warp has in flight while it computes one
#endif

// Rows are the codes and scales of a lane in one step.
struct Rows {
  Pack<u32, 4> code[2];
  Scale scale[2];
#ifdef NESTED
  float outer[2];
#endif
};

INLINE void load_rows(Rows &r, const u8 *codes, const Scales &s, const i64 *row, i32 at, i32 k) {
  if (at >= k) return;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    i64 i = row[h] + at, block = i >> SHIFT;
    r.code[h] = load_pack<4>(reinterpret_cast<const u32 *>(codes + i / 2));
    r.scale[h] = __ldg(s.absmax + block);
#ifdef NESTED
    r.outer[h] = __ldg(s.nested + (block >> 8));
#endif
  }
}

INLINE float scale_in(const Rows &r, int h, float offset) {
#ifdef NESTED
  return restored(r.scale[h], r.outer[h], offset);
#else
  return r.scale[h];
#endif
}

// load_x reads eight elements of a row of x from `at` on, zeros outside of it.
INLINE Pack<u32, 4> load_x(const T *x, i32 row, i32 at, i32 m, i32 k) {
  if (row >= m || at >= k) return Pack<u32, 4>{};
  return load_pack<4>(reinterpret_cast<const u32 *>(x + (i64)row * k + at));
}

KERNEL __launch_bounds__(WARPS * WARP, BLOCKS) quant_thin(const T *__restrict__ x, const u8 *__restrict__ codes, Scales s, const T *c, T *y, i32 m,
                                                  i32 n, i32 k) {
  __shared__ float sums[WARPS][16][8 * COLUMNS + 1];
  int warp = threadIdx.x / WARP, g = lane() / 4, t = lane() % 4, first = blockIdx.x * 16;
  float mine = level(lane() & 15), offset = offset_of(s), acc[COLUMNS][2][4] = {};  // two sums, as each step of one waits for the step before
  i64 row[2];
#pragma unroll
  for (int h = 0; h < 2; h++) row[h] = (i64)min(first + g + 8 * h, n - 1) * k;
  Rows ring[DEPTH] = {};
#pragma unroll
  for (int u = 0; u < DEPTH; u++) load_rows(ring[u], codes, s, row, (warp + u * WARPS) * STEP + 32 * t, k);
  for (i32 from = warp * STEP; from < k; from += WARPS * STEP * DEPTH) {
#pragma unroll
    for (int u = 0; u < DEPTH; u++) {
      i32 start = from + u * WARPS * STEP, at = start + 32 * t;
      if (start >= k) break;  // for all lanes
#if PERMUTED
      const Sixteen upper = sixteen<T>(scale_in(ring[u], 0, offset));
#endif
      const float scale[2] = {scale_in(ring[u], 0, offset), scale_in(ring[u], 1, offset)};
#pragma unroll
      for (int q = 0; q < 4; q++) {
        u32 a[2][4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
#if PERMUTED
          if (h == 0) {
            u32 w[4];
            values_of(w, ring[u].code[0].v[q], upper);
#pragma unroll
            for (int i = 0; i < 4; i++) a[i / 2][2 * (i % 2)] = w[i];
            continue;
          }
#endif
          float v[8];
          decode_eight(v, ring[u].code[h].v[q], mine, scale[h]);
#pragma unroll
          for (int i = 0; i < 4; i++) a[i / 2][h + 2 * (i % 2)] = narrow_pair<T>(v[2 * i], v[2 * i + 1]);
        }
        if (q == 3) load_rows(ring[u], codes, s, row, at + WARPS * STEP * DEPTH, k);
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
          Pack<u32, 4> b = load_x(x, g + 8 * j, at + 8 * q, m, k);
          mma<T>(acc[j][0], a[0], &b.v[0]);
          mma<T>(acc[j][1], a[1], &b.v[2]);
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < COLUMNS; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) sums[warp][g + 8 * (i / 2)][8 * j + 2 * t + i % 2] = acc[j][0][i] + acc[j][1][i];
  __syncthreads();
  for (int i = threadIdx.x; i < 16 * m; i += WARPS * WARP) {
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += sums[w][i % 16][i / 16];
    i64 at = (i64)(i / 16) * n + first + i % 16;
    if (first + i % 16 < n) y[at] = narrow<T>(c ? widen<T>(c[at]) + sum : sum);
  }
}
#endif

// quant_thin_any: a warp takes a row of the weight, for up to ROWS rows of x, any k, block size and alignment.
#define ROWS 4
KERNEL __launch_bounds__(128) quant_thin_any(const T *__restrict__ x, const u8 *__restrict__ codes, Scales s, const T *c, T *y, i32 m,
                                             i32 n, i32 k, i32 blocksize) {
  i64 row = global_thread() / WARP;
  if (row >= n) return;
  float sum[ROWS] = {}, offset = offset_of(s);
  for (i32 at = lane(); at < k; at += WARP) {
    i64 i = row * k + at, block = i / blocksize;
    float v = __fmul_rn(level(codes[i / 2] >> (i & 1 ? 0 : 4) & 15), scale_of(s, block, s.absmax[block], offset));
    v = widen<T>(narrow<T>(v));
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      if (r < m) sum[r] += v * widen<T>(x[(i64)r * k + at]);
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    float total = warp_reduce<Sum>(sum[r]);
    i64 at = (i64)r * n + row;
    if (r < m && lane() == 0) y[at] = narrow<T>(c ? widen<T>(c[at]) + total : total);
  }
}
