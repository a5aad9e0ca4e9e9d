// RMSNorm, LayerNorm (CENTRE 1) and their gradients over rows of n values. Defined before: T; V, values an access; K, accesses a thread;
// CENTRE; SUMS, how many of dw and db the gradient sums (0, 1: dw, 2: dw and db); THREADS of a block; BLOCKS, for
// how many blocks at once on a multiprocessor there should be registers.
//
// A row belongs to `group` threads of a block, a power of two. They hold the row in registers, K packs of V values each, so that memory is
// read once. Blocks go on to further rows, and keep w meanwhile.
// The *_long kernels take any n and any alignment, read a row once for each of its sums, and give it a whole block.
// An output may be one of the inputs: a thread writes what only it has read.

typedef Acc<T> A;
typedef Pack<T, V> P;

INLINE float root(float x) { return sqrtf(x); }
INLINE double root(double x) { return sqrt(x); }

// row_sums gives each thread of a group the sums of N values over it, in a fixed order. turn begins as 0; two halves of the shared
// memory in turn need one barrier a call.
template <int N> INLINE void row_sums(A (&s)[N], int group, int &turn) {
  for (int d = (group < WARP ? group : WARP) / 2; d > 0; d >>= 1)
    for (int i = 0; i < N; i++) s[i] += __shfl_xor_sync(FULL, s[i], d);
  if (group <= WARP) return;
  __shared__ A part[2][32][N];
  if (lane() == 0)
    for (int i = 0; i < N; i++) part[turn][threadIdx.x / WARP][i] = s[i];
  __syncthreads();
  int warps = group / WARP, from = threadIdx.x / group * warps + (lane() & (warps - 1));
  for (int i = 0; i < N; i++) s[i] = part[turn][from][i];
  for (int d = warps / 2; d > 0; d >>= 1)
    for (int i = 0; i < N; i++) s[i] += __shfl_xor_sync(FULL, s[i], d);
  turn ^= 1;
}

// Place is where a thread works: its first value in a row, and its row of each block's; and 1/n.
struct Place {
  int at, step;
  i64 row, rows;
  A share;
};

INLINE Place place(int group, int n) {
  Place p;
  p.share = (A)1 / (A)n;
  int slots = blockDim.x / group;
  p.at = (threadIdx.x & (group - 1)) * V;
  p.step = group * V;
  p.row = (i64)blockIdx.x * slots + threadIdx.x / group;
  p.rows = (i64)gridDim.x * slots;
  return p;
}

INLINE P fill(A x) {
  P p;
  for (int j = 0; j < V; j++) p.v[j] = narrow<T>(x);
  return p;
}

// read_row loads the thread's packs of a row, `none` where there is no row or no parameter.
INLINE void read_row(P (&x)[K], const T *row, bool present, int n, Place at, P none) {
#pragma unroll
  for (int k = 0; k < K; k++) {
    int c = at.at + k * at.step;
    x[k] = present && c < n ? load_pack<V>(row + c) : none;
  }
}

// keep_packed makes the compiler read packs anew where they are used next: values of 16 bits then stay packed between the uses, in half the
// registers, and more rows are under way at once.
INLINE void keep_packed(P (&x)[K]) {
#ifndef BYES_EMULATE
  if (sizeof(T) != 2 || V < 2) return;
#pragma unroll
  for (int k = 0; k < K; k++) {
    u32 *words = reinterpret_cast<u32 *>(&x[k]);
    for (int j = 0; j < V / 2; j++) asm volatile("" : "+r"(words[j]));
  }
#endif
}

// stats returns the row's mean (0 without CENTRE) and 1/sqrt(mean((x - mean)²) + eps).
INLINE void stats(const P (&x)[K], int n, Place at, int group, A eps, int &turn, A &mean, A &rstd) {
  mean = 0;
  A s[1] = {0};
  if (CENTRE) {
#pragma unroll
    for (int k = 0; k < K; k++)
      for (int j = 0; j < V; j++) s[0] += widen<T>(x[k].v[j]);
    row_sums(s, group, turn);
    mean = s[0] * at.share;
    s[0] = 0;
  }
#pragma unroll
  for (int k = 0; k < K; k++) {
    if (at.at + k * at.step >= n) continue;
    for (int j = 0; j < V; j++) {
      A d = widen<T>(x[k].v[j]) - mean;
      s[0] += d * d;
    }
  }
  row_sums(s, group, turn);
  rstd = (A)1 / root(s[0] * at.share + eps);
}

// add_row adds another row to one, rounded as a sum by itself is.
INLINE void add_row(P (&x)[K], const T *more, T *sum, int n, Place at) {
#pragma unroll
  for (int k = 0; k < K; k++) {
    int c = at.at + k * at.step;
    if (c >= n) continue;
    P p = load_pack<V>(more + c);
    for (int j = 0; j < V; j++) x[k].v[j] = narrow<T>(widen<T>(x[k].v[j]) + widen<T>(p.v[j]));
    store_pack(sum + c, x[k]);
  }
}

// norm_rows is y = (x - mean)·rstd·w + b; w and b may be absent. With `more` x is first x + more, which goes to `sum`.
KERNEL __launch_bounds__(THREADS, 2 * BLOCKS) norm_rows(T *y, T *sum, const T *x, const T *more, const T *w, const T *b, i64 rows, int n, int group, A eps) {
  Place at = place(group, n);
  int turn = 0;
  P ws[K];
  read_row(ws, w, w != 0, n, at, fill(1));
  // The first row of the block decides: warps reduce together.
  for (i64 lo = (i64)blockIdx.x * (blockDim.x / group); lo < rows; lo += at.rows, at.row += at.rows) {
    P xs[K];
    bool mine = at.row < rows;
    read_row(xs, x + at.row * n, mine, n, at, fill(0));
    if (more && mine) add_row(xs, more + at.row * n, sum + at.row * n, n, at);
    A mean, rstd;
    stats(xs, n, at, group, eps, turn, mean, rstd);
    keep_packed(xs);
    keep_packed(ws);
    if (!mine) continue;
#pragma unroll
    for (int k = 0; k < K; k++) {
      int c = at.at + k * at.step;
      if (c >= n) continue;
      P out;
      P shift = b ? load_pack<V>(b + c) : fill(0);
      for (int j = 0; j < V; j++) {
        A v = (widen<T>(xs[k].v[j]) - mean) * rstd * widen<T>(ws[k].v[j]);
        out.v[j] = narrow<T>(b ? v + widen<T>(shift.v[j]) : v);
      }
      store_pack(y + at.row * n + c, out);
    }
  }
}

// grad_stats returns mean(u) and mean(u·x̂) for u = gy·w, and rstd.
INLINE void grad_stats(const P (&x)[K], const P (&g)[K], const P (&w)[K], int n, Place at, int group, A eps, int &turn, A &mean, A &rstd,
                       A &shift, A &tilt) {
  A s[3] = {0, 0, 0};  // Σ (x - mean)², Σ u·(x - mean), Σ u
  mean = 0;
  if (CENTRE) {
    A m[1] = {0};
#pragma unroll
    for (int k = 0; k < K; k++)
      for (int j = 0; j < V; j++) m[0] += widen<T>(x[k].v[j]);
    row_sums(m, group, turn);
    mean = m[0] * at.share;
  }
#pragma unroll
  for (int k = 0; k < K; k++) {
    if (at.at + k * at.step >= n) continue;
    for (int j = 0; j < V; j++) {
      A d = widen<T>(x[k].v[j]) - mean, u = widen<T>(g[k].v[j]) * widen<T>(w[k].v[j]);
      s[0] += d * d;
      s[1] += u * d;
      s[2] += u;
    }
  }
  row_sums(s, group, turn);
  rstd = (A)1 / root(s[0] * at.share + eps);
  tilt = s[1] * rstd * at.share;
  shift = CENTRE ? s[2] * at.share : (A)0;
}

// fold_slots adds the sums of the groups of a block, in order; the first group has them.
INLINE void fold_slots(A (&s)[K][V], int group) {
  __shared__ A fold[THREADS][V];
  if (group == THREADS) return;
#pragma unroll
  for (int k = 0; k < K; k++) {
    __syncthreads();
    for (int j = 0; j < V; j++) fold[threadIdx.x][j] = s[k][j];
    __syncthreads();
    if (threadIdx.x >= group) continue;
    for (int other = threadIdx.x + group; other < THREADS; other += group)
      for (int j = 0; j < V; j++) s[k][j] += fold[other][j];
  }
}

// norm_grad is dx = rstd·(u - mean(u) - x̂·mean(u·x̂)), u = gy·w, plus `more` if it is present, where dx is, and the sums Σ gy·x̂ and Σ gy over the rows
// that each block has seen: dw and db (blocks, n).
KERNEL __launch_bounds__(THREADS, BLOCKS) norm_grad(T *dx, A *dw, A *db, const T *more, const T *x, const T *w, const T *gy, i64 rows, int n, int group,
                                        A eps) {
  Place at = place(group, n);
  int turn = 0;
  P ws[K];
  read_row(ws, w, w != 0, n, at, fill(1));
  A sw[K][V] = {}, sb[K][V] = {};
  P nx[K], ng[K];  // the next row is on its way while one is worked on
  read_row(nx, x + at.row * n, at.row < rows, n, at, fill(0));
  read_row(ng, gy + at.row * n, at.row < rows, n, at, fill(0));
  for (i64 lo = (i64)blockIdx.x * (blockDim.x / group); lo < rows; lo += at.rows, at.row += at.rows) {
    P xs[K], gs[K];
#pragma unroll
    for (int k = 0; k < K; k++) xs[k] = nx[k], gs[k] = ng[k];
    bool mine = at.row < rows, more_rows = at.row + at.rows < rows;
    read_row(nx, x + (at.row + at.rows) * n, more_rows, n, at, fill(0));
    read_row(ng, gy + (at.row + at.rows) * n, more_rows, n, at, fill(0));
    P base[K];
    read_row(base, more + at.row * n, mine && more != 0, n, at, fill(0));
    A mean, rstd, shift, tilt;
    keep_packed(ws);
    grad_stats(xs, gs, ws, n, at, group, eps, turn, mean, rstd, shift, tilt);
    keep_packed(xs);
    keep_packed(gs);
    keep_packed(ws);
    if (!mine) continue;
#pragma unroll
    for (int k = 0; k < K; k++) {
      int c = at.at + k * at.step;
      if (c >= n) continue;
      P out;
      for (int j = 0; j < V; j++) {
        A g = widen<T>(gs[k].v[j]), xh = (widen<T>(xs[k].v[j]) - mean) * rstd;
        out.v[j] = narrow<T>(widen<T>(base[k].v[j]) + rstd * (g * widen<T>(ws[k].v[j]) - shift - xh * tilt));
        if (SUMS > 0) sw[k][j] += g * xh;
        if (SUMS > 1) sb[k][j] += g;
      }
      if (dx) store_pack(dx + at.row * n + c, out);
    }
  }
  if (SUMS == 0) return;
  fold_slots(sw, group);
  if (SUMS > 1) fold_slots(sb, group);
  if (threadIdx.x >= group) return;
#pragma unroll
  for (int k = 0; k < K; k++) {
    int c = at.at + k * at.step;
    if (c >= n) continue;
    for (int j = 0; j < V; j++) {
      dw[(i64)blockIdx.x * n + c + j] = sw[k][j];
      if (SUMS > 1) db[(i64)blockIdx.x * n + c + j] = sb[k][j];
    }
  }
}

// norm_columns adds count rows of partial sums (count, n) in a fixed order: of dw, or db in the second row of blocks. A block of (32, 32) threads
// has 32 columns.
KERNEL norm_columns(T *dw, T *db, const A *parts_w, const A *parts_b, int count, int n) {
  __shared__ A sums[32][33];
  T *out = blockIdx.y == 0 ? dw : db;
  const A *part = blockIdx.y == 0 ? parts_w : parts_b;
  int c = blockIdx.x * 32 + threadIdx.x;
  A s = 0;
  if (c < n)
    for (int p = threadIdx.y; p < count; p += 32) s += part[(i64)p * n + c];
  sums[threadIdx.y][threadIdx.x] = s;
  __syncthreads();
  if (threadIdx.y != 0 || c >= n) return;
  for (int y = 1; y < 32; y++) s += sums[y][threadIdx.x];
  out[c] = narrow<T>(s);
}

// long_stats is stats of a row in memory.
INLINE void long_stats(const T *x, int n, A eps, int &turn, A &mean, A &rstd) {
  mean = 0;
  A s[1] = {0};
  if (CENTRE) {
    for (int c = threadIdx.x; c < n; c += blockDim.x) s[0] += widen<T>(x[c]);
    row_sums(s, blockDim.x, turn);
    mean = s[0] / (A)n;
    s[0] = 0;
  }
  for (int c = threadIdx.x; c < n; c += blockDim.x) {
    A d = widen<T>(x[c]) - mean;
    s[0] += d * d;
  }
  row_sums(s, blockDim.x, turn);
  rstd = (A)1 / root(s[0] / (A)n + eps);
}

KERNEL __launch_bounds__(512) norm_long(T *y, T *sum, const T *x, const T *more, const T *w, const T *b, i64 rows, int n, A eps) {
  int turn = 0;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *xs = x + row * n;
    if (more) {
      for (int c = threadIdx.x; c < n; c += blockDim.x) sum[row * n + c] = narrow<T>(widen<T>(xs[c]) + widen<T>(more[row * n + c]));
      xs = sum + row * n;
    }
    A mean, rstd;
    long_stats(xs, n, eps, turn, mean, rstd);
    for (int c = threadIdx.x; c < n; c += blockDim.x) {
      A v = (widen<T>(xs[c]) - mean) * rstd;
      if (w) v *= widen<T>(w[c]);
      if (b) v += widen<T>(b[c]);
      y[row * n + c] = narrow<T>(v);
    }
  }
}

// norm_grad_long sums dw and db, one row of n a block, in memory.
KERNEL __launch_bounds__(512) norm_grad_long(T *dx, A *dw, A *db, const T *more, const T *x, const T *w, const T *gy, i64 rows, int n, A eps) {
  int turn = 0;
  A *sw = dw + (i64)blockIdx.x * n, *sb = db + (i64)blockIdx.x * n;
  for (int c = threadIdx.x; c < n; c += blockDim.x) {
    if (SUMS > 0) sw[c] = 0;
    if (SUMS > 1) sb[c] = 0;
  }
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *xs = x + row * n, *gs = gy + row * n;
    A mean, rstd, s[2] = {0, 0};
    long_stats(xs, n, eps, turn, mean, rstd);
    for (int c = threadIdx.x; c < n; c += blockDim.x) {
      A u = widen<T>(gs[c]) * (w ? widen<T>(w[c]) : (A)1);
      s[0] += u;
      s[1] += u * (widen<T>(xs[c]) - mean);
    }
    row_sums(s, blockDim.x, turn);
    A shift = CENTRE ? s[0] / (A)n : (A)0, tilt = s[1] * rstd / (A)n;
    for (int c = threadIdx.x; c < n; c += blockDim.x) {
      A g = widen<T>(gs[c]), xh = (widen<T>(xs[c]) - mean) * rstd;
      if (SUMS > 0) sw[c] += g * xh;
      if (SUMS > 1) sb[c] += g;
      A base = more ? widen<T>(more[row * n + c]) : (A)0;
      if (dx) dx[row * n + c] = narrow<T>(base + rstd * (g * (w ? widen<T>(w[c]) : (A)1) - shift - xh * tilt));
    }
  }
}
