// What the attention kernels share: the arguments, which keys a query sees, and scores.

// Attention is attnArgs of the host, field by field.
struct Attention {
  const i32 *doc, *offset, *length;  // doc_start (b, tq), q_offset (b), kv_len (b); null when absent
  const i32 *gate;                   // null, or a number on the device: 0 makes the launch do nothing, but see stats
  const f32 *stats;                  // null, or lse as (b, tq, hq): a forward launch behind a closed gate transposes it
  i32 b, tq, tk, hq, hkv, rep, d;    // rep = hq / hkv
  i32 causal, window;                // window 0: none
  f32 scale, cap;                    // cap 0: none
  i32 parts;                         // of a row's keys, where they are split
  i64 key_row, key_head, key_batch;  // strides of k and v in elements
};

INLINE bool shut(const Attention &a) { return a.gate != 0 && *a.gate == 0; }

INLINE int clamp_to(i64 x, int lo, int hi) { return x < lo ? lo : x > hi ? hi : (int)x; }

// sees sets [lo, hi) to the keys that query t of row b sees; lo == hi where it sees none.
INLINE void sees(const Attention &a, int b, int t, int &lo, int &hi) {
  i64 first = a.doc ? a.doc[(i64)b * a.tq + t] : 0, last = a.length ? min(a.tk, a.length[b]) : a.tk;
  if (a.causal) {
    i64 at = (i64)t + (a.offset ? a.offset[b] : 0);
    last = min(last, at + 1);
    if (a.window > 0) first = max(first, at - a.window + 1);
  }
  hi = clamp_to(last, 0, a.tk);
  lo = clamp_to(first, 0, hi);
}

// seen_by sets [lo, hi) to an interval that holds the queries of row b that see key j: bounds by causality and the window only.
INLINE void seen_by(const Attention &a, int b, int j, int &lo, int &hi) {
  lo = 0, hi = a.tq;
  if (!a.causal) return;
  i64 at = (i64)j - (a.offset ? a.offset[b] : 0);
  lo = clamp_to(at, 0, a.tq);
  if (a.window > 0) hi = clamp_to(at + a.window, lo, a.tq);
}

INLINE f32 expo(f32 x) { return expf(x); }
INLINE f64 expo(f64 x) { return exp(x); }
INLINE f32 logarithm(f32 x) { return logf(x); }
INLINE f64 logarithm(f64 x) { return log(x); }
INLINE f32 tangent(f32 x) { return tanhf(x); }
INLINE f64 tangent(f64 x) { return tanh(x); }

// NO_KEYS is the lse of a query that sees no key (ops.NoKeys).
#define NO_KEYS -1e30f

// capped turns a scaled product into a score.
template <class A> INLINE A capped(const Attention &a, A s) { return a.cap > 0 ? (A)a.cap * tangent(s / (A)a.cap) : s; }

// cap_slope is the derivative of capped, given its result.
template <class A> INLINE A cap_slope(const Attention &a, A s) {
  if (!(a.cap > 0)) return (A)1;
  A t = s / (A)a.cap;
  return (A)1 - t * t;
}

// Span is the keys that some rows see: [lo, hi) holds all, and rows that see every key of [full_lo, full_hi) need no mask there.
struct Span { int lo, hi, full_lo, full_hi; };

// span_of gives it for n rows, each with its interval in low and high; a row outside the tensor has low > high. All lanes get it.
INLINE Span span_of(const int *low, const int *high, int n) {
  Span s = {0x7fffffff, 0, 0, 0x7fffffff};
  for (int i = lane(); i < n; i += WARP) {
    int lo = low[i], hi = high[i];
    if (lo > hi) continue;
    s.full_lo = max(s.full_lo, lo), s.full_hi = min(s.full_hi, hi);
    if (lo < hi) s.lo = min(s.lo, lo), s.hi = max(s.hi, hi);
  }
  s.lo = warp_reduce<Min>(s.lo), s.hi = warp_reduce<Max>(s.hi);
  s.full_lo = warp_reduce<Max>(s.full_lo), s.full_hi = warp_reduce<Min>(s.full_hi);
  s.lo = min(s.lo, s.hi);
  return s;
}

// range_of sets [from, to) to the queries that see one of keys [j0, end) of row b.
INLINE void range_of(const Attention &a, int b, int j0, int end, int *range, int &from, int &to) {
  int skip;
  seen_by(a, b, j0, from, skip), seen_by(a, b, end - 1, skip, to);
  if (threadIdx.x == 0) range[0] = a.tq, range[1] = 0;
  __syncthreads();
  for (int t = from + threadIdx.x; t < to; t += blockDim.x) {
    int lo, hi;
    sees(a, b, t, lo, hi);
    if (lo < end && hi > j0 && lo < hi) atomicMin(&range[0], t), atomicMax(&range[1], t + 1);
  }
  __syncthreads();
  from = range[0], to = range[1];
}

// turn transposes a.b matrices of rows x columns numbers, tiles first, first + stride, ... of 32 x 32; for blocks of so many warps.
template <int WARPS> INLINE void turn(const Attention &a, int rows, int columns, const f32 *__restrict__ x, f32 *__restrict__ y, int first, int stride) {
  __shared__ f32 tile[32][33];
  int across = (columns + 31) / 32, tiles = (rows + 31) / 32 * across, at = lane(), warp = threadIdx.x / WARP;
  for (i64 i = first; i < (i64)tiles * a.b; i += stride) {
    i64 base = i / tiles * rows * columns;
    int r0 = (int)(i % tiles) / across * 32, c0 = (int)(i % tiles) % across * 32;
    f32 v[32 / WARPS];
#pragma unroll
    for (int n = 0; n < 32 / WARPS; n++) {
      int r = r0 + warp + n * WARPS;
      v[n] = r < rows && c0 + at < columns ? x[base + (i64)r * columns + c0 + at] : 0.f;
    }
    __syncthreads();  // the tile before was written out
#pragma unroll
    for (int n = 0; n < 32 / WARPS; n++) tile[warp + n * WARPS][at] = v[n];
    __syncthreads();
#pragma unroll
    for (int n = 0; n < 32 / WARPS; n++) {
      int c = c0 + warp + n * WARPS;
      if (c < columns && r0 + at < rows) y[base + (i64)c * rows + r0 + at] = tile[at][warp + n * WARPS];
    }
  }
}
