// RMSNorm, LayerNorm (CENTRE 1) and their gradients over rows of n values. Defined before: T; V, values an access; K, accesses a thread; GROUP, threads
// a row, a power of two; THREADS of a block; EXACT, whether GROUP·K·V is n; CENTRE; MORE, whether a second tensor is added; SUMS, how many of dw and
// db the gradient sums (0, 1: dw, 2: dw and db); BLOCKS and GRAD_BLOCKS, for how many blocks on a multiprocessor there should be registers; STAGES.
//
// A row belongs to GROUP threads of a block. They hold the row in registers, K packs of V values each, so that memory is read once. Blocks go on
// to further rows, and keep w meanwhile; STAGES - 1 rows are on their way to shared memory while one is worked on, each thread copying what it
// will read itself (dynamic shared memory: STAGES · tensors · K · THREADS packs of 16 bytes). Without stages rows are read when they are needed.
// The *_long kernels take any n and any alignment, read a row once for each of its sums, and give it a whole block.
// An output may be one of the inputs: a thread writes what only it has read, and rows that are on their way are other rows.

typedef Acc<T> A;
typedef Pack<T, V> P;

INLINE float root(float x) { return sqrtf(x); }
INLINE double root(double x) { return sqrt(x); }

// row_sums gives each thread of G, a group in a block, the sums of N values over them, in a fixed order. turn begins as 0; two halves of the
// shared memory in turn need one barrier a call.
template <int G, int N> INLINE void row_sums(A (&s)[N], int &turn) {
#pragma unroll
  for (int d = (G < WARP ? G : WARP) / 2; d > 0; d >>= 1)
#pragma unroll
    for (int i = 0; i < N; i++) s[i] += __shfl_xor_sync(FULL, s[i], d);
  if (G <= WARP) return;
  __shared__ A part[2][32][N];
  if (lane() == 0)
#pragma unroll
    for (int i = 0; i < N; i++) part[turn][threadIdx.x / WARP][i] = s[i];
  __syncthreads();
  const int warps = G / WARP, from = threadIdx.x / G * warps + (lane() & (warps - 1));
#pragma unroll
  for (int i = 0; i < N; i++) s[i] = part[turn][from][i];
#pragma unroll
  for (int d = warps / 2; d > 0; d >>= 1)
#pragma unroll
    for (int i = 0; i < N; i++) s[i] += __shfl_xor_sync(FULL, s[i], d);
  turn ^= 1;
}

#define SLOTS (THREADS / GROUP)  // rows of a block

// Place is where a thread works: its first value in a row, and its row of each block's; and 1/n.
struct Place {
  int at;
  i64 row, rows;
  A share;
};

INLINE Place place(int n) {
  Place p;
  p.share = (A)1 / (A)n;
  p.at = (threadIdx.x & (GROUP - 1)) * V;
  p.row = (i64)blockIdx.x * SLOTS + threadIdx.x / GROUP;
  p.rows = (i64)gridDim.x * SLOTS;
  return p;
}

// column is the first value of the thread's k-th pack; inside tells whether the row has it.
INLINE int column(Place at, int k) { return at.at + k * GROUP * V; }
INLINE bool inside(int c, int n) { return EXACT || c < n; }

INLINE P fill(A x) {
  P p;
#pragma unroll
  for (int j = 0; j < V; j++) p.v[j] = narrow<T>(x);
  return p;
}

// read_row loads the thread's packs of a row, `none` where there is no row or no parameter.
INLINE void read_row(P (&x)[K], const T *row, bool present, int n, Place at, P none) {
#pragma unroll
  for (int k = 0; k < K; k++) {
    int c = column(at, k);
    x[k] = present && inside(c, n) ? load_pack<V>(row + c) : none;
  }
}

// Rows brings the rows of M tensors, in the order of the block.
template <int M> struct Rows {
  const T *from[M];
#if STAGES > 0
  SharedAt to;
  int stage;  // of the row that is taken next

  // start sends the first rows on their way.
  __device__ __forceinline__ void start(const Place &at, i64 rows, int n) {
    SHARED_DYNAMIC(u8, memory);
    to = shared_at(memory) + threadIdx.x * 16;
#pragma unroll
    for (stage = 0; stage < STAGES - 1; stage++) send(at.row + stage * at.rows, at, rows, n);
    stage = 0;
  }

  __device__ __forceinline__ SharedAt place(int tensor, int k) const { return to + ((stage * M + tensor) * K + k) * (THREADS * 16); }

  __device__ __forceinline__ void send(i64 row, const Place &at, i64 rows, int n) {
    if (row < rows)
#pragma unroll
      for (int i = 0; i < M; i++)
#pragma unroll
        for (int k = 0; k < K; k++)
          if (inside(column(at, k), n)) copy_async(place(i, k), from[i] + row * n + column(at, k), 16);
    copy_commit();
  }

  // take gives the row at.row, zeros where there is none, and sends for one behind those that are on their way, to where the last one was.
  __device__ __forceinline__ void take(P (&x)[M][K], const Place &at, i64 rows, int n) {
    copy_wait<STAGES - 2>();
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
      for (int k = 0; k < K; k++) {
        x[i][k] = fill(0);
        if (at.row < rows && inside(column(at, k), n)) {
          Pack<u32, 4> words = load_shared(place(i, k));
          x[i][k] = *reinterpret_cast<P *>(&words);
        }
      }
    int now = stage;
    stage = stage == 0 ? STAGES - 1 : stage - 1;
    send(at.row + (STAGES - 1) * at.rows, at, rows, n);
    stage = now + 1 == STAGES ? 0 : now + 1;
  }
#else
  __device__ __forceinline__ void start(const Place &, i64, int) {}
  __device__ __forceinline__ void take(P (&x)[M][K], const Place &at, i64 rows, int n) {
#pragma unroll
    for (int i = 0; i < M; i++) read_row(x[i], from[i] + at.row * n, at.row < rows, n, at, fill(0));
  }
#endif
};

// keep_row holds a row packed between its uses.
INLINE void keep_row(P (&x)[K]) {
#pragma unroll
  for (int k = 0; k < K; k++) keep_packed(x[k]);
}

// row_mean is the mean of a row, 0 without CENTRE.
INLINE A row_mean(const P (&x)[K], Place at, int &turn) {
  if (!CENTRE) return 0;
  A s[1] = {0};
#pragma unroll
  for (int k = 0; k < K; k++)
#pragma unroll
    for (int j = 0; j < V; j++) s[0] += value(x[k], j);
  row_sums<GROUP>(s, turn);
  return s[0] * at.share;
}

// norm_rows is y = (x - mean)·rstd·w + b; w and b may be absent. With MORE x is first x + more, rounded as a sum by itself is, which goes to `sum`.
KERNEL __launch_bounds__(THREADS, BLOCKS) norm_rows(T *y, T *sum, const T *x, const T *more, const T *w, const T *b, i64 rows, int n, A eps) {
  Place at = place(n);
  int turn = 0;
  Rows<1 + MORE> in;
  in.from[0] = x;
  if (MORE) in.from[MORE] = more;
  in.start(at, rows, n);
  P ws[K];
  read_row(ws, w, w != 0, n, at, fill(1));
  // The first row of the block decides: warps reduce together.
  for (i64 lo = (i64)blockIdx.x * SLOTS; lo < rows; lo += at.rows, at.row += at.rows) {
    P xs[1 + MORE][K];
    bool mine = at.row < rows;
    in.take(xs, at, rows, n);
#pragma unroll
    for (int k = 0; k < K * MORE; k++) {
#pragma unroll
      for (int j = 0; j < V; j++) xs[0][k].v[j] = narrow<T>(value(xs[0][k], j) + value(xs[MORE][k], j));
      if (mine && inside(column(at, k), n)) store_pack(sum + at.row * n + column(at, k), xs[0][k]);
    }
    A mean = row_mean(xs[0], at, turn), s[1] = {0};
    keep_row(xs[0]);
#pragma unroll
    for (int k = 0; k < K; k++) {
      if (!inside(column(at, k), n)) continue;
#pragma unroll
      for (int j = 0; j < V; j++) {
        A d = value(xs[0][k], j) - mean;
        s[0] += d * d;
      }
    }
    row_sums<GROUP>(s, turn);
    A rstd = (A)1 / root(s[0] * at.share + eps);
    keep_row(xs[0]);
    keep_row(ws);
    if (!mine) continue;
#pragma unroll
    for (int k = 0; k < K; k++) {
      if (!inside(column(at, k), n)) continue;
      P out, shift = CENTRE && b ? load_pack<V>(b + column(at, k)) : fill(0);
#pragma unroll
      for (int j = 0; j < V; j++) {
        A v = (value(xs[0][k], j) - mean) * rstd * value(ws[k], j);
        out.v[j] = narrow<T>(CENTRE ? v + value(shift, j) : v);
      }
      store_pack(y + at.row * n + column(at, k), out);
    }
  }
}

// grad_stats returns mean(u) and mean(u·x̂) for u = gy·w, and rstd.
INLINE void grad_stats(const P (&x)[K], const P (&g)[K], const P (&w)[K], int n, Place at, A eps, int &turn, A mean, A &rstd, A &shift, A &tilt) {
  A s[2 + CENTRE] = {};  // Σ (x - mean)², Σ u·(x - mean), Σ u
#pragma unroll
  for (int k = 0; k < K; k++) {
    if (!inside(column(at, k), n)) continue;
#pragma unroll
    for (int j = 0; j < V; j++) {
      A d = value(x[k], j) - mean, u = value(g[k], j) * value(w[k], j);
      s[0] += d * d;
      s[1] += u * d;
      if (CENTRE) s[1 + CENTRE] += u;
    }
  }
  row_sums<GROUP>(s, turn);
  rstd = (A)1 / root(s[0] * at.share + eps);
  tilt = s[1] * rstd * at.share;
  shift = CENTRE ? s[1 + CENTRE] * at.share : (A)0;
}

// fold_slots adds the sums of the groups of a block, in order; the first group has them.
INLINE void fold_slots(A (&s)[K][V]) {
  if (SLOTS == 1) return;
  __shared__ A fold[SLOTS > 1 ? THREADS : 1][V];
#pragma unroll
  for (int k = 0; k < K; k++) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < V; j++) fold[threadIdx.x][j] = s[k][j];
    __syncthreads();
    if (threadIdx.x >= GROUP) continue;
    for (int other = threadIdx.x + GROUP; other < THREADS; other += GROUP)
#pragma unroll
      for (int j = 0; j < V; j++) s[k][j] += fold[other][j];
  }
}

// write_sums stores the block's sums of a pack.
INLINE void write_sums(A *to, const A (&s)[V]) {
  const int part = V < 16 / (int)sizeof(A) ? V : 16 / (int)sizeof(A);
#pragma unroll
  for (int j = 0; j < V; j += part) {
    Pack<A, part> p;
#pragma unroll
    for (int i = 0; i < part; i++) p.v[i] = s[j + i];
    store_pack(to + j, p);
  }
}

// norm_grad is dx = rstd·(u - mean(u) - x̂·mean(u·x̂)), u = gy·w, with MORE plus `more`, where dx is, and the sums Σ gy·x̂ and Σ gy over the rows
// that each block has seen: dw and db (blocks, n).
KERNEL __launch_bounds__(THREADS, GRAD_BLOCKS) norm_grad(T *dx, A *dw, A *db, const T *more, const T *x, const T *w, const T *gy, i64 rows, int n, A eps) {
  Place at = place(n);
  int turn = 0;
  Rows<2 + MORE> in;
  in.from[0] = x, in.from[1] = gy;
  if (MORE) in.from[1 + MORE] = more;
  in.start(at, rows, n);
  P ws[K];
  read_row(ws, w, w != 0, n, at, fill(1));
  A sw[K][V] = {}, sb[K][V] = {};
  for (i64 lo = (i64)blockIdx.x * SLOTS; lo < rows; lo += at.rows, at.row += at.rows) {
    P xs[2 + MORE][K];
    in.take(xs, at, rows, n);
    A mean = row_mean(xs[0], at, turn), rstd, shift, tilt;
    keep_row(xs[0]);
    keep_row(ws);
    grad_stats(xs[0], xs[1], ws, n, at, eps, turn, mean, rstd, shift, tilt);
    keep_row(xs[0]);
    keep_row(xs[1]);
    keep_row(ws);
    if (at.row >= rows) continue;
#pragma unroll
    for (int k = 0; k < K; k++) {
      int c = column(at, k);
      if (!inside(c, n)) continue;
      P out;
#pragma unroll
      for (int j = 0; j < V; j++) {
        A g = value(xs[1][k], j), xh = (value(xs[0][k], j) - mean) * rstd, d = rstd * (g * value(ws[k], j) - shift - xh * tilt);
        out.v[j] = narrow<T>(MORE ? value(xs[1 + MORE][k], j) + d : d);
        if (SUMS > 0) sw[k][j] += g * xh;
        if (SUMS > 1) sb[k][j] += g;
      }
      if (dx) store_pack(dx + at.row * n + c, out);
    }
  }
  if (SUMS == 0) return;
  fold_slots(sw);
  if (SUMS > 1) fold_slots(sb);
  if (threadIdx.x >= GROUP) return;
#pragma unroll
  for (int k = 0; k < K; k++) {
    int c = column(at, k);
    if (!inside(c, n)) continue;
    write_sums(dw + (i64)blockIdx.x * n + c, sw[k]);
    if (SUMS > 1) write_sums(db + (i64)blockIdx.x * n + c, sb[k]);
  }
}

// norm_columns adds count rows of partial sums (count, n) in a fixed order: of dw, or db in the second row of blocks. A block of 256 threads has 8
// columns, which are as little as memory reads, and 32 rows of them at once.
KERNEL __launch_bounds__(256) norm_columns(T *dw, T *db, const A *parts_w, const A *parts_b, int count, int n) {
  __shared__ A sums[256 / WARP][8];
  T *out = blockIdx.y == 0 ? dw : db;
  const A *part = blockIdx.y == 0 ? parts_w : parts_b;
  const int c = blockIdx.x * 8 + threadIdx.x % 8;
  A s = 0;
  if (c < n) {
#pragma unroll 9
    for (int p = threadIdx.x / 8; p < count; p += 32) s += part[(i64)p * n + c];
  }
  s += __shfl_xor_sync(FULL, s, 8);
  s += __shfl_xor_sync(FULL, s, 16);
  if (lane() < 8) sums[threadIdx.x / WARP][lane()] = s;
  __syncthreads();
  if (threadIdx.x >= 8 || c >= n) return;
#pragma unroll
  for (int w = 1; w < 256 / WARP; w++) s += sums[w][threadIdx.x];
  out[c] = narrow<T>(s);
}

#define LONG 512  // threads of a block that works on a row in memory

// long_stats returns the mean (0 without CENTRE) and 1/sqrt(mean((x - mean)²) + eps) of a row in memory.
INLINE void long_stats(const T *x, int n, A eps, int &turn, A &mean, A &rstd) {
  mean = 0;
  A s[1] = {0};
  if (CENTRE) {
    for (int c = threadIdx.x; c < n; c += blockDim.x) s[0] += widen<T>(x[c]);
    row_sums<LONG>(s, turn);
    mean = s[0] / (A)n;
    s[0] = 0;
  }
  for (int c = threadIdx.x; c < n; c += blockDim.x) {
    A d = widen<T>(x[c]) - mean;
    s[0] += d * d;
  }
  row_sums<LONG>(s, turn);
  rstd = (A)1 / root(s[0] / (A)n + eps);
}

KERNEL __launch_bounds__(LONG) norm_long(T *y, T *sum, const T *x, const T *more, const T *w, const T *b, i64 rows, int n, A eps) {
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
KERNEL __launch_bounds__(LONG) norm_grad_long(T *dx, A *dw, A *db, const T *more, const T *x, const T *w, const T *gy, i64 rows, int n, A eps) {
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
    row_sums<LONG>(s, turn);
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
