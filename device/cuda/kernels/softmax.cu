// Softmax and its logarithm over rows of n values, and their gradients. Defined before: T; V, values an access; G, threads a row; K, accesses a
// thread, at most; LOG, 1 for the logarithm. The *_rows kernels hold a row in registers, up to K accesses a thread, so that memory is read once. The *_long kernels take
// any n and any alignment; a block has a row. An output may be one of the inputs: a thread writes what only it has read.

typedef Acc<T> A;

INLINE float power(float x) { return expf(x); }
INLINE double power(double x) { return exp(x); }
INLINE float logarithm(float x) { return logf(x); }
INLINE double logarithm(double x) { return log(x); }

// Larger passes over NaN, which the sum meets.
struct Larger { template <class X> static __device__ __forceinline__ X of(X a, X b) { return b > a ? b : a; } };

// over gives every thread of a group the combination of its threads, in a fixed order. A group is within a warp, or the whole block.
template <class R> INLINE A over(A x, A none) {
  if (G > WARP) return block_reduce<R>(x, none);
#pragma unroll
  for (int d = G / 2; d > 0; d /= 2) x = R::of(x, __shfl_xor_sync(FULL, x, d));
  return x;
}

// Row is where a thread works on rows held in registers.
struct Row { i64 row; int first; };
INLINE Row row_of(i64 block) {
  Row r;
  r.row = block * (blockDim.x / G) + threadIdx.x / G;
  r.first = threadIdx.x % G * V;
  return r;
}

INLINE void read_row(Pack<T, V> (&x)[K], const T *row, int first, int n, bool present) {
#pragma unroll
  for (int k = 0; k < K; k++)
    if (present && first + k * G * V < n) x[k] = load_pack<V>(row + first + k * G * V);
}

KERNEL __launch_bounds__(512) softmax_rows(T *y, const T *x, i64 rows, int n) {
  const i64 each = blockDim.x / G;
  for (i64 b = blockIdx.x; b * each < rows; b += gridDim.x) {
    Row at = row_of(b);
    const bool present = at.row < rows;
    Pack<T, V> p[K] = {};
    read_row(p, x + at.row * n, at.first, n, present);
    A top = -(A)INF, sum = 0;
#pragma unroll
    for (int k = 0; k < K; k++)
      if (at.first + k * G * V < n)
        for (int j = 0; j < V; j++) top = Larger::of(top, widen<T>(p[k].v[j]));
    top = over<Larger>(top, -(A)INF);
    A e[K][V];
#pragma unroll
    for (int k = 0; k < K; k++)
      for (int j = 0; j < V; j++) {
        A z = widen<T>(p[k].v[j]) - top;
        e[k][j] = power(z);
        if (at.first + k * G * V < n) sum += e[k][j];
        if (LOG) e[k][j] = z;
      }
    sum = over<Sum>(sum, 0);
    const A scale = LOG ? logarithm(sum) : 1 / sum;
    if (!present) continue;
#pragma unroll
    for (int k = 0; k < K; k++) {
      const int c = at.first + k * G * V;
      if (c >= n) continue;
      for (int j = 0; j < V; j++) p[k].v[j] = narrow<T>(LOG ? e[k][j] - scale : e[k][j] * scale);
      store_pack(y + at.row * n + c, p[k]);
    }
  }
}

KERNEL __launch_bounds__(512) softmax_long(T *y, const T *x, i64 rows, int n) {
  for (i64 r = blockIdx.x; r < rows; r += gridDim.x) {
    const T *row = x + r * n;
    A top = -(A)INF, sum = 0;
#pragma unroll 4
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) top = Larger::of(top, widen<T>(row[i]));
    top = block_reduce<Larger>(top, -(A)INF);
#pragma unroll 4
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) sum += power(widen<T>(row[i]) - top);
    sum = block_reduce<Sum>(sum, (A)0);
    const A scale = LOG ? logarithm(sum) : 1 / sum;
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) {
      A z = widen<T>(row[i]) - top;
      y[r * n + i] = narrow<T>(LOG ? z - scale : power(z) * scale);
    }
  }
}

// grad is y·(g - s) for s = Σ g·y, or with LOG g - e^y·s for s = Σ g.
INLINE A grad(A y, A g, A s) { return LOG ? g - power(y) * s : y * (g - s); }

KERNEL __launch_bounds__(512) softmax_grad_rows(T *dx, const T *y, const T *gy, i64 rows, int n) {
  const i64 each = blockDim.x / G;
  for (i64 b = blockIdx.x; b * each < rows; b += gridDim.x) {
    Row at = row_of(b);
    const bool present = at.row < rows;
    Pack<T, V> p[K] = {}, g[K] = {};
    read_row(p, y + at.row * n, at.first, n, present);
    read_row(g, gy + at.row * n, at.first, n, present);
    A s = 0;
#pragma unroll
    for (int k = 0; k < K; k++)
      if (at.first + k * G * V < n)
        for (int j = 0; j < V; j++) s += LOG ? widen<T>(g[k].v[j]) : widen<T>(g[k].v[j]) * widen<T>(p[k].v[j]);
    s = over<Sum>(s, 0);
    if (!present) continue;
#pragma unroll
    for (int k = 0; k < K; k++) {
      const int c = at.first + k * G * V;
      if (c >= n) continue;
      for (int j = 0; j < V; j++) p[k].v[j] = narrow<T>(grad(widen<T>(p[k].v[j]), widen<T>(g[k].v[j]), s));
      store_pack(dx + at.row * n + c, p[k]);
    }
  }
}

KERNEL __launch_bounds__(512) softmax_grad_long(T *dx, const T *y, const T *gy, i64 rows, int n) {
  for (i64 r = blockIdx.x; r < rows; r += gridDim.x) {
    A s = 0;
#pragma unroll 4
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) s += LOG ? widen<T>(gy[r * n + i]) : widen<T>(gy[r * n + i]) * widen<T>(y[r * n + i]);
    s = block_reduce<Sum>(s, (A)0);
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) dx[r * n + i] = narrow<T>(grad(widen<T>(y[r * n + i]), widen<T>(gy[r * n + i]), s));
  }
}
