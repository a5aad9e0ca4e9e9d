// y_i (m, r_i) = alpha_i x (m, k) A_iᵀ for few rows of x and of each A_i (r_i, k): the narrow sides of adapters that read one token. Compiled with T (the type
// of x and y), TA (that of A, whose values are rounded to T), ROWS (m), THREADS and PACKS, how many packs
// of eight elements of a row a thread has in flight. A block takes a row of an A, for all rows of x. Sums are in float32.

#define PARTS_MOST 4

struct Part {
  const TA *a;
  T *y;
  float alpha;
  i32 rows, first, _;  // of A; the first block of the launch that is its
};
struct Parts { Part of[PARTS_MOST]; i32 parts, _; };

INLINE float value(float a) { return widen<T>(narrow<T>(a)); }

KERNEL __launch_bounds__(THREADS, 1) thin_rows(const T *__restrict__ x, const __grid_constant__ Parts parts, i32 k) {
  __shared__ float sums[THREADS / WARP][ROWS];
  int at = 0;
  for (int i = 1; i < parts.parts; i++)
    if ((i32)blockIdx.x >= parts.of[i].first) at = i;
  const Part &p = parts.of[at];
  const i32 row = (i32)blockIdx.x - p.first;
  const TA *__restrict__ a = p.a + (i64)row * k;
  float acc[ROWS] = {};
  if (k % 8 == 0 && ((size_t)p.a | (size_t)x) % 16 == 0) {
    for (i32 from = 8 * threadIdx.x; from < k; from += 8 * THREADS * PACKS) {
      float u[PACKS][8];
#pragma unroll
      for (int q = 0; q < PACKS; q++) {
        const i32 i = from + 8 * THREADS * q;
        const Eight<TA> e = i < k ? load_eight(a + i) : Eight<TA>{};
#pragma unroll
        for (int j = 0; j < 8; j++) u[q][j] = e.at(j);
      }
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        Eight<T> v[PACKS];
#pragma unroll
        for (int q = 0; q < PACKS; q++) {
          const i32 i = from + 8 * THREADS * q;
          v[q] = i < k ? load_eight(x + (i64)r * k + i) : Eight<T>{};
        }
#pragma unroll
        for (int q = 0; q < PACKS; q++)
#pragma unroll
          for (int j = 0; j < 8; j++) acc[r] += value(u[q][j]) * v[q].at(j);
      }
    }
  } else {
    for (i32 i = threadIdx.x; i < k; i += THREADS)
#pragma unroll
      for (int r = 0; r < ROWS; r++) acc[r] += value(widen<TA>(a[i])) * widen<T>(x[(i64)r * k + i]);
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    float sum = warp_reduce<Sum>(acc[r]);
    if (lane() == 0) sums[threadIdx.x / WARP][r] = sum;
  }
  __syncthreads();
  if (threadIdx.x < ROWS) {
    float sum = 0;
    for (int w = 0; w < THREADS / WARP; w++) sum += sums[w][threadIdx.x];
    p.y[(i64)threadIdx.x * p.rows + row] = narrow<T>(p.alpha * sum);
  }
}
