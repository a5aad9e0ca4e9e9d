// Cross-entropy of rows of n logits, `stride` apart, and its gradient; a block has a row. Defined before: T; V, logits an access.
// An ignored token has a negative label. One beyond the classes makes loss and gradient NaN: it must not pass for a good one. A gradient may
// be that of n of more classes, from class `first` on.

typedef Acc<T> A;

// power is e^x: of 16-bit logits in the processor's approximation, whose error is far below theirs.
INLINE double power(double x) { return exp(x); }
#ifdef BYES_EMULATE
INLINE float power(float x) { return expf(x); }
#else
INLINE float power(float x) { return sizeof(T) == 2 ? __expf(x) : expf(x); }
#endif
INLINE float logarithm(float x) { return logf(x); }
INLINE double logarithm(double x) { return log(x); }
INLINE float lowest(float) { return -3.402823466e38f; }
INLINE double lowest(double) { return -1.7976931348623157e308; }

INLINE A not_a_number() { return (A)__int_as_float(0x7fffffff); }

// Sums is the largest of some logits, and Σ e^(z - peak) (Milakov & Gimelshein 2018). A NaN stays in the sum.
struct Sums {
  A peak, sum;
};

INLINE Sums join(Sums a, Sums b) {
  Sums r;
  r.peak = a.peak > b.peak ? a.peak : b.peak;
  r.sum = (a.peak == r.peak ? a.sum : a.sum * power(a.peak - r.peak)) + (b.peak == r.peak ? b.sum : b.sum * power(b.peak - r.peak));
  return r;
}

// Parts cuts a row at the borders of accesses: [0, head) and [tail, n) are read one by one.
struct Parts {
  int head, tail;
};

INLINE Parts cut(const T *z, const T *dz, int n) {
  Parts p;
  u64 from = (u64)z / sizeof(T) % V, to = (u64)dz / sizeof(T) % V;
  p.head = from == to ? (int)((V - from) % V) : n;
  if (p.head > n) p.head = n;
  p.tail = p.head + (n - p.head) / V * V;
  return p;
}

// AHEAD accesses of a thread are under way at once.
#define AHEAD 4

template <int N> INLINE void read_ahead(Pack<T, N> (&p)[AHEAD], const T *z, int c, int end) {
#pragma unroll
  for (int u = 0; u < AHEAD; u++) {
    int at = c + u * (int)blockDim.x * N;
    if (at < end) p[u] = load_pack<N>(z + at);
  }
}

template <int N> INLINE void add_logits(Sums &s, const Pack<T, N> &p) {
  A z[N];
  for (int j = 0; j < N; j++) z[j] = widen<T>(p.v[j]);
  A top = z[0];
  for (int j = 1; j < N; j++) top = z[j] > top ? z[j] : top;
  if (top > s.peak) {
    s.sum *= power(s.peak - top);
    s.peak = top;
  }
  for (int j = 0; j < N; j++) s.sum += power(z[j] - s.peak);
}

template <int N> INLINE void add_range(Sums &s, const T *z, int from, int end) {
  int step = blockDim.x * N;
  for (int c = from + threadIdx.x * N; c < end; c += AHEAD * step) {
    Pack<T, N> p[AHEAD];
    read_ahead<N>(p, z, c, end);
#pragma unroll
    for (int u = 0; u < AHEAD; u++)
      if (c + u * step < end) add_logits<N>(s, p[u]);
  }
}

// sum_logits gives every thread the sums of the block's row, added in a fixed order.
INLINE Sums sum_logits(const T *z, int n) {
  __shared__ Sums part[33];
  Sums s = {lowest((A)0), 0};
  Parts p = cut(z, z, n);
  add_range<V>(s, z, p.head, p.tail);
  if (V > 1) {
    add_range<1>(s, z, 0, p.head);
    add_range<1>(s, z, p.tail, n);
  }
  for (int d = WARP / 2; d > 0; d >>= 1) {
    Sums o;
    o.peak = __shfl_xor_sync(FULL, s.peak, d);
    o.sum = __shfl_xor_sync(FULL, s.sum, d);
    s = join(s, o);
  }
  if (lane() == 0) part[threadIdx.x / WARP] = s;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < blockDim.x / WARP; w++) s = join(s, part[w]);
    part[32] = s;
  }
  __syncthreads();
  return part[32];
}

// Factors is what the softmax and the label of a row are multiplied by in the gradient.
struct Factors {
  A lse, each, hit;
  int at;  // the label's column, if it is one; -1 in the row of an ignored token
};

template <int N> INLINE void grad_range(T *dz, const T *z, int from, int end, bool counts, Factors f) {
  int step = blockDim.x * N;
  for (int c = from + threadIdx.x * N; c < end; c += AHEAD * step) {
    Pack<T, N> p[AHEAD];
    if (counts) read_ahead<N>(p, z, c, end);
#pragma unroll
    for (int u = 0; u < AHEAD; u++) {
      int at = c + u * step;
      if (at >= end) continue;
      for (int j = 0; j < N; j++) {
        A d = !counts ? (A)0 : power(widen<T>(p[u].v[j]) - f.lse) * f.each;
        p[u].v[j] = narrow<T>(at + j == f.at ? d - f.hit : d);
      }
      store_pack(dz + at, p[u]);
    }
  }
}

// write_grads writes dz = e^(z - lse)·each - onehot·hit over a row, 0 where the token is ignored. dz may be z.
INLINE void write_grads(T *dz, const T *z, int n, int label, int first, int classes, Factors f) {
  Parts p = cut(z, dz, n);
  bool counts = label >= 0;
  if (label >= classes) f.each = f.hit = not_a_number();
  f.at = counts ? label - first : -1;
  grad_range<V>(dz, z, p.head, p.tail, counts, f);
  if (V > 1) {
    grad_range<1>(dz, z, 0, p.head, counts, f);
    grad_range<1>(dz, z, p.tail, n, counts, f);
  }
}

// token_loss writes the loss of each row, and as `second` its lse, or with hits whether no logit is larger than the label's; 0 where ignored.
KERNEL __launch_bounds__(512) token_loss(A *loss, A *second, const T *z, const i32 *labels, int n, i64 stride, i32 hits) {
  i64 row = blockIdx.x;
  int label = labels[row];
  if (label < 0) {
    if (threadIdx.x == 0) loss[row] = second[row] = 0;
    return;
  }
  z += row * stride;
  Sums s = sum_logits(z, n);
  if (threadIdx.x != 0) return;
  A at = label < n ? widen<T>(z[label]) : not_a_number(), l = logarithm(s.sum);
  loss[row] = s.peak - at + l;
  second[row] = !hits ? s.peak + l : at >= s.peak ? (A)1 : (A)0;
}

// token_loss_grad writes the gradient of each row from its lse and the cotangents of loss and lse, which may be absent.
KERNEL __launch_bounds__(512) token_loss_grad(T *dz, const T *z, const i32 *labels, const A *lse, const A *gloss, const A *glse, int n, i64 stride,
                                              int first, int classes) {
  i64 row = blockIdx.x;
  Factors f;
  f.lse = lse[row];
  f.hit = gloss ? gloss[row] : (A)0;
  f.each = f.hit + (glse ? glse[row] : (A)0);
  write_grads(dz + row * stride, z + row * stride, n, labels[row], first, classes, f);
}

// token_loss_unit is token_loss and then, over the logits, the gradient of the loss itself: softmax - onehot.
KERNEL __launch_bounds__(512) token_loss_unit(A *loss, A *lse, T *z, const i32 *labels, int n, i64 stride) {
  i64 row = blockIdx.x;
  int label = labels[row];
  z += row * stride;
  Factors f = {0, 1, 1, 0};
  if (label >= 0) {
    Sums s = sum_logits(z, n);
    A at = label < n ? widen<T>(z[label]) : not_a_number(), l = logarithm(s.sum);
    f.lse = s.peak + l;
    __syncthreads();  // the label's logit has been read
    if (threadIdx.x == 0) loss[row] = s.peak - at + l;
  } else if (threadIdx.x == 0) {
    loss[row] = 0;
  }
  if (threadIdx.x == 0) lse[row] = f.lse;
  write_grads(z, z, n, label, 0, n, f);
}

// round_sums rounds sums to the result's type.
KERNEL round_sums(T *y, const A *x, i64 n) {
  for (i64 i = global_thread(); i < n; i += global_threads()) y[i] = narrow<T>(x[i]);
}
