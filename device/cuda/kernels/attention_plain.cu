// Attention for every dtype, head size and option, forward and backward: a warp a query (or a key), a lane a key (or a query). Sums are in
// a fixed order. A lane holds SPAN columns of the result; wider heads go over the keys again for each SPAN * 32 columns.

#define VEC (16 / (int)sizeof(T))

INLINE Acc<T> product(const T *x, const T *y, int n) {
  Acc<T> s = 0;
  int i = 0;
  if (((u64)x | (u64)y) % 16 == 0)
#pragma unroll 4
    for (; i + VEC <= n; i += VEC) {
      Pack<T, VEC> a = load_pack<VEC>(x + i), b = load_pack<VEC>(y + i);
#pragma unroll
      for (int c = 0; c < VEC; c++) s += widen(a.v[c]) * widen(b.v[c]);
    }
  for (; i < n; i++) s += widen(x[i]) * widen(y[i]);
  return s;
}

// spread adds to each column of the lane the sum over the warp's rows of weight * row; rows below n of x, `stride` apart.
INLINE void spread(Acc<T> *sum, Acc<T> weight, const T *x, i64 stride, int n, int column, int d) {
  for (int i = 0; i < n; i++, x += stride) {
    Acc<T> w = __shfl_sync(FULL, weight, i);
#pragma unroll
    for (int s = 0; s < SPAN; s++)
      if (column + s * WARP < d) sum[s] += w * widen(x[column + s * WARP]);
  }
}

INLINE void put(T *y, const Acc<T> *sum, Acc<T> factor, int column, int d) {
#pragma unroll
  for (int s = 0; s < SPAN; s++)
    if (column + s * WARP < d) y[column + s * WARP] = narrow<T>(sum[s] * factor);
}

// Query is the query of a warp: rows are numbered as q lies, (b, tq, hq).
struct Query {
  i64 row, keys, number;  // of q; offset of its keys in k and v; index into (b, hq, tq)
  int lo, hi;
  __device__ __forceinline__ bool find(const Attention &a) {
    row = global_thread() / WARP;
    if (row >= (i64)a.b * a.tq * a.hq) return false;
    int h = (int)(row % a.hq), t = (int)(row / a.hq % a.tq), b = (int)(row / a.hq / a.tq);
    keys = b * a.key_batch + h / a.rep * a.key_head;
    number = ((i64)b * a.hq + h) * a.tq + t;
    sees(a, b, t, lo, hi);
    return true;
  }
};

KERNEL attend_plain(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, T *__restrict__ o,
                    Acc<T> *__restrict__ lse) {
  typedef Acc<T> A;
  Query me;
  if (shut(a) || !me.find(a)) return;
  q += me.row * a.d, k += me.keys, v += me.keys;
  for (int c = lane(); c - lane() < a.d; c += WARP * SPAN) {
    A top = -INF, total = 0, sum[SPAN] = {};
    for (int j0 = me.lo; j0 < me.hi; j0 += WARP) {
      int j = j0 + lane();
      A s = j < me.hi ? capped(a, (A)a.scale * product(q, k + j * a.key_row, a.d)) : (A)-INF;
      A high = Max::of(top, warp_reduce<Max>(s));
      A p = j < me.hi ? expo(s - high) : (A)0, shrink = expo(top - high);
      total = total * shrink + warp_reduce<Sum>(p);
#pragma unroll
      for (int i = 0; i < SPAN; i++) sum[i] *= shrink;
      spread(sum, p, v + j0 * a.key_row, a.key_row, min(WARP, me.hi - j0), c, a.d);
      top = high;
    }
    bool none = me.lo >= me.hi;
    put(o + me.row * a.d, sum, none ? (A)0 : 1 / total, c, a.d);
    if (c == 0) lse[me.number] = none ? (A)NO_KEYS : top + logarithm(total);
  }
}

// attend_delta: rowsum(do * o) - dlse of each query, to (b, hq, tq).
KERNEL attend_delta(Attention a, const T *__restrict__ o, const T *__restrict__ dout, const Acc<T> *__restrict__ dlse,
                    Acc<T> *__restrict__ delta) {
  i64 row = global_thread() / WARP;
  if (shut(a) || row >= (i64)a.b * a.tq * a.hq) return;
  i64 h = row % a.hq, t = row / a.hq % a.tq, b = row / a.hq / a.tq;
  Acc<T> s = 0;
  for (int i = lane(); i < a.d; i += WARP) s += widen(o[row * a.d + i]) * widen(dout[row * a.d + i]);
  s = warp_reduce<Sum>(s);
  i64 number = (b * a.hq + h) * a.tq + t;
  if (lane() == 0) delta[number] = s - (dlse ? dlse[number] : (Acc<T>)0);
}

// Weight is the probability of a (query, key) pair and the gradient of its scaled product, times scale.
struct Weight {
  Acc<T> p, ds;
  __device__ __forceinline__ void find(const Attention &a, const T *q, const T *k, const T *v, const T *dout, Acc<T> lse, Acc<T> delta) {
    Acc<T> s = capped(a, (Acc<T>)a.scale * product(q, k, a.d));
    p = expo(s - lse);
    ds = p * (product(dout, v, a.d) - delta) * cap_slope(a, s) * (Acc<T>)a.scale;
  }
};

KERNEL attend_plain_dq(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const T *__restrict__ dout,
                       const Acc<T> *__restrict__ lse, const Acc<T> *__restrict__ delta, T *__restrict__ dq) {
  Query me;
  if (shut(a) || !me.find(a)) return;
  q += me.row * a.d, dout += me.row * a.d, k += me.keys, v += me.keys;
  for (int c = lane(); c - lane() < a.d; c += WARP * SPAN) {
    Acc<T> sum[SPAN] = {};
    for (int j0 = me.lo; j0 < me.hi; j0 += WARP) {
      i64 at = (j0 + lane()) * a.key_row;
      Weight w = {};
      if (j0 + lane() < me.hi) w.find(a, q, k + at, v + at, dout, lse[me.number], delta[me.number]);
      spread(sum, w.ds, k + j0 * a.key_row, a.key_row, min(WARP, me.hi - j0), c, a.d);
    }
    put(dq + me.row * a.d, sum, (Acc<T>)1, c, a.d);
  }
}

KERNEL attend_plain_dkv(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const T *__restrict__ dout,
                        const Acc<T> *__restrict__ lse, const Acc<T> *__restrict__ delta, T *__restrict__ dk, T *__restrict__ dv) {
  i64 row = global_thread() / WARP;  // (b, tk, hkv)
  if (shut(a) || row >= (i64)a.b * a.tk * a.hkv) return;
  int g = (int)(row % a.hkv), j = (int)(row / a.hkv % a.tk), b = (int)(row / a.hkv / a.tk), from, to;
  i64 at = b * a.key_batch + g * a.key_head + j * a.key_row, stride = (i64)a.hq * a.d;
  seen_by(a, b, j, from, to);
  for (int c = lane(); c - lane() < a.d; c += WARP * SPAN) {
    Acc<T> sum_k[SPAN] = {}, sum_v[SPAN] = {};
    for (int h = g * a.rep; h < (g + 1) * a.rep; h++) {
      for (int t0 = from; t0 < to; t0 += WARP) {
        int t = t0 + lane(), lo = 0, hi = 0;
        if (t < to) sees(a, b, t, lo, hi);
        bool mine = lo <= j && j < hi;
        if (!__any_sync(FULL, mine)) continue;
        i64 base = ((i64)b * a.tq * a.hq + h) * a.d, number = ((i64)b * a.hq + h) * a.tq + t;
        Weight w = {};
        if (mine) w.find(a, q + base + t * stride, k + at, v + at, dout + base + t * stride, lse[number], delta[number]);
        int n = min(WARP, to - t0);
        spread(sum_v, w.p, dout + base + t0 * stride, stride, n, c, a.d);
        spread(sum_k, w.ds, q + base + t0 * stride, stride, n, c, a.d);
      }
    }
    put(dk + at, sum_k, (Acc<T>)1, c, a.d);
    put(dv + at, sum_v, (Acc<T>)1, c, a.d);
  }
}
