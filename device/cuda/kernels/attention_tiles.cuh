// What the tensor-core attention kernels share. Head sizes are multiples of 8 up to D, a multiple of 16; columns beyond are zeros. A
// tile in shared memory has rows of D + 8 elements: eight of them lie in different banks. A warp works on 16 * M rows of a product.

#define STRIDE (D + 8)
#define CHUNKS (D / 8)  // of 16 bytes in a row

// A Spot is where a lane reads a tile: its address in shared memory, from which every step is at a constant distance.
#ifdef BYES_EMULATE
typedef const T *Spot;
INLINE Spot spot(const T *p) { return p; }
INLINE Spot ahead(Spot s, int elements) { return s + elements; }
INLINE void load_at(u32 *r, Spot s) { load_matrices(r, s); }
INLINE void load_turned_at(u32 *r, Spot s) { load_matrices_transposed(r, s); }
INLINE void copy_at(Spot to, const T *from, int bytes) { copy_async((void *)to, from, bytes); }
#else
typedef u32 Spot;
INLINE Spot spot(const T *p) { return shared_address(p); }
INLINE Spot ahead(Spot s, int elements) { return s + elements * (int)sizeof(T); }
INLINE void load_at(u32 *r, Spot s) {
#if __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(s));
#endif
}
INLINE void load_turned_at(u32 *r, Spot s) {
#if __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(s));
#endif
}
INLINE void copy_at(Spot to, const T *from, int bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
#else
  Pack<u32, 4> x = {};
  if (bytes == 16) x = *(const Pack<u32, 4> *)from;
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.v[0]), "r"(x.v[1]), "r"(x.v[2]), "r"(x.v[3]) : "memory");
#endif
}
#endif

// fetch starts copying rows [first, first + ROWS) of x, `step` elements apart, to a tile; rows from `last` on become zeros. A copy of no
// bytes reads nothing, wherever it points.
template <int ROWS, int THREADS> INLINE void fetch(T *tile, const T *x, i64 step, int first, int last, int d) {
  if constexpr (THREADS % CHUNKS == 0 && ROWS * CHUNKS % THREADS == 0) {
    constexpr int each = THREADS / CHUNKS;
    int r = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS * 8, rest = c < d ? last - first - r : 0;
    const T *from = x + (i64)(first + r) * step + c;
    Spot to = spot(tile + r * STRIDE + c);
#pragma unroll
    for (int n = 0; n < ROWS; n += each, from += each * step) copy_at(ahead(to, n * STRIDE), from, n < rest ? 16 : 0);
  } else {
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
      int r = i / CHUNKS, c = i % CHUNKS * 8;
      copy_at(spot(tile + r * STRIDE + c), x + (i64)(first + r) * step + c, first + r < last && c < d ? 16 : 0);
    }
  }
}

// left_spot is for left operands: 16 rows of a tile, at columns k..k+15 of which load_at gives those of a step. turned_spot, the same place,
// is for right operands of which the tile's rows k..k+15 are the inner index and its columns n..n+15 those of the result: load_turned_at
// gives r[0..1] for the first eight columns and r[2..3] for the others. right_spot is for right operands whose columns are the tile's rows
// n..n+15, and whose inner index its columns k..k+15: load_at, likewise.
INLINE Spot left_spot(const T *tile) { return spot(tile + lane() % 16 * STRIDE + lane() / 16 * 8); }
INLINE Spot turned_spot(const T *tile) { return left_spot(tile); }
INLINE Spot right_spot(const T *tile) { return spot(tile + (lane() / 16 * 8 + lane() % 8) * STRIDE + lane() / 8 % 2 * 8); }

// Rows x columns of a product in registers: of 16 rows, value [n][i] is that of row lane/4 + (i & 2 ? 8 : 0), column 8n + lane%4*2 + i%2.

// multiply adds G times 16 rows, 16 apart in a tile, times the N rows of another to c; both have D columns.
template <int N, int G> INLINE void multiply(float (*c)[N / 8][4], Spot left, Spot right) {
#pragma unroll
  for (int k = 0; k < D; k += 16) {
    u32 a[G][4];
#pragma unroll
    for (int g = 0; g < G; g++) load_at(a[g], ahead(left, 16 * g * STRIDE + k));
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      u32 b[4];
      load_at(b, ahead(right, n * STRIDE + k));
#pragma unroll
      for (int g = 0; g < G; g++) {
        mma<T>(c[g][n / 8], a[g], b);
        mma<T>(c[g][n / 8 + 1], a[g], b + 2);
      }
    }
  }
}

// pack makes values [0], [1] of a product the left operand of a step.
INLINE void pack(u32 *a, const float (*x)[4]) {
  a[0] = narrow_pair<T>(x[0][0], x[0][1]);
  a[1] = narrow_pair<T>(x[0][2], x[0][3]);
  a[2] = narrow_pair<T>(x[1][0], x[1][1]);
  a[3] = narrow_pair<T>(x[1][2], x[1][3]);
}

// accumulate adds weights (G times 16 x N) times the N rows of a tile to sum (G times 16 x D).
template <int N, int G> INLINE void accumulate(float (*sum)[D / 8][4], const float (*weights)[N / 8][4], Spot turned) {
#pragma unroll
  for (int k = 0; k < N; k += 16) {
    u32 a[G][4];
#pragma unroll
    for (int g = 0; g < G; g++) pack(a[g], weights[g] + k / 8);
#pragma unroll
    for (int n = 0; n < D; n += 16) {
      u32 b[4];
      load_turned_at(b, ahead(turned, k * STRIDE + n));
#pragma unroll
      for (int g = 0; g < G; g++) {
        mma<T>(sum[g][n / 8], a[g], b);
        mma<T>(sum[g][n / 8 + 1], a[g], b + 2);
      }
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

// soft is the soft cap: cap * tanh(x / cap), by an exponential. A NaN stays one, which min would hide.
INLINE float soft(float x, float cap) {
  float r = ratio(x, cap), e = power2((r > 15.f ? 15.f : r) * (2 * LOG2E));
  return cap * (1 - ratio(2.f, e + 1));
}

// EACH runs what follows for the tasks of the block: one, or, where a launch has fewer blocks than tasks (LOOP is defined), several.
#ifdef LOOP
#define EACH(task, n) for (int task = blockIdx.x; task < (n); __syncthreads(), task += gridDim.x)
#else
#define EACH(task, n) for (int task = blockIdx.x, once = 1; once; once = 0)
#endif
