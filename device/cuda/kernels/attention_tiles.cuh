// What the tensor-core attention kernels share. Head sizes are multiples of 8 up to D, a multiple of 16; columns beyond are zeros. A
// tile in shared memory has rows of D + 8 elements: eight of them lie in different banks. A warp works on 16 * M rows of a product.

#define STRIDE (D + 8)
#define CHUNKS (D / 8)  // of 16 bytes in a row

// fetch starts copying rows [first, first + ROWS) of x, `step` elements apart, to a tile; rows from `last` on become zeros.
template <int ROWS> INLINE void fetch(T *tile, const T *x, i64 step, int first, int last, int d) {
  for (int i = threadIdx.x; i < ROWS * CHUNKS; i += blockDim.x) {
    int r = i / CHUNKS, c = i % CHUNKS * 8;
    bool there = first + r < last && c < d;
    copy_async(tile + r * STRIDE + c, there ? x + (first + r) * step + c : x, there ? 16 : 0);
  }
}

// rows_of loads the left operand of a step: rows 0..15 of the tile, columns k..k+15.
INLINE void rows_of(u32 *a, const T *tile, int k) {
  load_matrices(a, tile + lane() % 16 * STRIDE + k + lane() / 16 * 8);
}

// columns_of loads the right operand of two steps whose columns are the tile's rows n..n+15 and whose inner index is its columns k..k+15:
// b[0..1] for the first eight, b[2..3] for the others.
INLINE void columns_of(u32 *b, const T *tile, int n, int k) {
  load_matrices(b, tile + (n + lane() / 16 * 8 + lane() % 8) * STRIDE + k + lane() / 8 % 2 * 8);
}

// turned_columns_of is the same where the tile's rows are the inner index k..k+15 and its columns n..n+15 those of the result.
INLINE void turned_columns_of(u32 *b, const T *tile, int n, int k) {
  load_matrices_transposed(b, tile + (k + lane() % 16) * STRIDE + n + lane() / 16 * 8);
}

// Rows x columns of a product in registers: of 16 rows, value [n][i] is that of row lane/4 + (i & 2 ? 8 : 0), column 8n + lane%4*2 + i%2.

// multiply adds rows 0..15 of tile a times the N rows of tile b to c; both have D columns.
template <int N> INLINE void multiply(float (*c)[4], const T *a, const T *b) {
#pragma unroll
  for (int k = 0; k < D; k += 16) {
    u32 left[4];
    rows_of(left, a, k);
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      u32 right[4];
      columns_of(right, b, n, k);
      mma<T>(c[n / 8], left, right);
      mma<T>(c[n / 8 + 1], left, right + 2);
    }
  }
}

// pack makes values [2i], [2i + 1] of a product the left operand of a step.
INLINE void pack(u32 *a, const float (*x)[4]) {
  a[0] = narrow_pair<T>(x[0][0], x[0][1]);
  a[1] = narrow_pair<T>(x[0][2], x[0][3]);
  a[2] = narrow_pair<T>(x[1][0], x[1][1]);
  a[3] = narrow_pair<T>(x[1][2], x[1][3]);
}

// accumulate adds weights (16 x N) times the N rows of a tile to sum (16 x D).
template <int N> INLINE void accumulate(float (*sum)[4], const float (*weights)[4], const T *tile) {
#pragma unroll
  for (int k = 0; k < N; k += 16) {
    u32 left[4];
    pack(left, weights + k / 8);
#pragma unroll
    for (int n = 0; n < D; n += 16) {
      u32 right[4];
      turned_columns_of(right, tile, n, k);
      mma<T>(sum[n / 8], left, right);
      mma<T>(sum[n / 8 + 1], left, right + 2);
    }
  }
}

// deliver writes a product of 16 rows (sum times a factor for each of the lane's two rows) to memory through the tile's rows, which
// belong to this warp. Rows from `last` on are left out.
INLINE void deliver(T *y, i64 step, int first, int last, int d, T *tile, const float (*sum)[4], float f0, float f1) {
  u32 *row0 = (u32 *)(tile + lane() / 4 * STRIDE + lane() % 4 * 2), *row1 = row0 + 4 * STRIDE;
  __syncwarp();
#pragma unroll
  for (int n = 0; n < D / 8; n++) {
    row0[n * 4] = narrow_pair<T>(sum[n][0] * f0, sum[n][1] * f0);
    row1[n * 4] = narrow_pair<T>(sum[n][2] * f1, sum[n][3] * f1);
  }
  __syncwarp();
  for (int i = lane(); i < 16 * CHUNKS; i += WARP) {
    int r = i / CHUNKS, c = i % CHUNKS * 8;
    if (first + r < last && c < d) store_pack(y + (first + r) * step + c, load_pack<8>(tile + r * STRIDE + c));
  }
  __syncwarp();
}

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

#ifdef BYES_EMULATE
INLINE float power2(float x) { return exp2f(x); }
INLINE float ratio(float a, float b) { return a / b; }
#else
INLINE float power2(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
INLINE float ratio(float a, float b) { return __fdividef(a, b); }
#endif

// soft is the soft cap: cap * tanh(x / cap), by an exponential.
INLINE float soft(float x, float cap) {
  float e = power2(min(ratio(x, cap), 15.f) * (2 * LOG2E));
  return cap * (1 - ratio(2.f, e + 1));
}

// EACH runs what follows for the tasks of the block: one, or, where a launch has fewer blocks than tasks (LOOP is defined), several.
#ifdef LOOP
#define EACH(task, n) for (int task = blockIdx.x; task < (n); __syncthreads(), task += gridDim.x)
#else
#define EACH(task, n) for (int task = blockIdx.x, once = 1; once; once = 0)
#endif
