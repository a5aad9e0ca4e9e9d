// What the kernels without tensor cores share, for exact float32: tiles in shared memory as f32, ROWS rows by COLS columns. A block has ROWS * 2
// threads: threads 16y + x hold rows 8y .. 8y + 7 and, of a product of two tiles, columns x, x + 16, ...; of a sum over D columns,
// 4x .. 4x + 3 of each 64. T, D (a multiple of 64), ROWS and COLS are defined outside.

#define STRIDE (D + 4)
#define WEIGHTS (COLS + 4)  // stride of a tile of weights
#define VEC (16 / (int)sizeof(T))

typedef Pack<float, 4> Four;
INLINE Four four(const float *p) { return load_pack<4>(p); }

INLINE int across() { return threadIdx.x % 16; }
INLINE int down() { return threadIdx.x / 16 * 8; }

// widen_tile copies rows [first, first + N) of x, `step` elements apart, to a tile; rows from `last` on and columns from d on are zeros.
template <int N> INLINE void widen_tile(float *tile, const T *x, i64 step, int first, int last, int d) {
  bool wide = (u64)x % 16 == 0 && step % VEC == 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < N * (D / VEC); i += ROWS * 2) {
    int r = i / (D / VEC), c = i % (D / VEC) * VEC;
    Pack<T, VEC> v = {};
    const T *from = x + (first + r) * step + c;
    if (first + r < last) {
      if (wide && c + VEC <= d)
        v = load_pack<VEC>(from);
      else
        for (int e = 0; e < VEC && c + e < d; e++) v.v[e] = from[e];
    }
#pragma unroll
    for (int e = 0; e < VEC; e++) tile[r * STRIDE + c + e] = widen(v.v[e]);
  }
}

// dots are the products of the thread's rows of tile x with its columns' rows of tile y.
INLINE void dots(float (*s)[COLS / 16], const float *x, const float *y) {
#pragma unroll
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < COLS / 16; j++) s[i][j] = 0;
#pragma unroll 2
  for (int k = 0; k < D; k += 4) {
    Four a[8], b[COLS / 16];
#pragma unroll
    for (int i = 0; i < 8; i++) a[i] = four(x + (down() + i) * STRIDE + k);
#pragma unroll
    for (int j = 0; j < COLS / 16; j++) b[j] = four(y + (across() + 16 * j) * STRIDE + k);
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < COLS / 16; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[i][j] += a[i].v[e] * b[j].v[e];
  }
}

// keep writes the thread's weights to a tile of them.
INLINE void keep(float *weights, const float (*s)[COLS / 16]) {
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < COLS / 16; j++) weights[(down() + i) * WEIGHTS + across() + 16 * j] = s[i][j];
}

// gather_rows adds the thread's rows of weights times the rows of a tile to sum. The weights of a row were written by the same half warp.
INLINE void gather_rows(float (*sum)[D / 16], const float *weights, const float *tile) {
#pragma unroll 2
  for (int k = 0; k < COLS; k += 4) {
    Four w[8];
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = four(weights + (down() + i) * WEIGHTS + k);
#pragma unroll
    for (int e = 0; e < 4; e++)
#pragma unroll
      for (int c = 0; c < D / 64; c++) {
        Four v = four(tile + (k + e) * STRIDE + 64 * c + across() * 4);
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
          for (int f = 0; f < 4; f++) sum[i][c * 4 + f] += w[i].v[e] * v.v[f];
      }
  }
}

// hand_out writes the thread's rows of sum times their factors.
INLINE void hand_out(T *y, i64 step, int first, int last, int d, const float (*sum)[D / 16], const float *factor) {
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int r = first + down() + i;
    if (r >= last) continue;
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
      int at = c / 4 * 64 + across() * 4 + c % 4;
      if (at < d) y[r * step + at] = narrow<T>(sum[i][c] * factor[i]);
    }
  }
}
