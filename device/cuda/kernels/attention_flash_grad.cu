// The gradient of attention by tensor cores. Probabilities are computed again from lse, once for the queries' gradient and once for the
// keys': every sum is made by one warp in one order, so results are the same in every run, and nothing is added in memory.
// D, T, BM (queries of a tile), BK (keys of a tile), M (tiles of queries in memory at a time) and CAPPED are defined outside; a warp takes 16 rows.
// PASS, where it is defined, leaves one kernel, so that kernels which have other tiles are no longer compiled for each of them: 1 dq, 2 dkv, 3 delta.

#if !defined(PASS) || PASS == 3
// attend_flash_delta: rowsum(do * o) - dlse of each query, to (b, hq, tq); eight lanes a query.
KERNEL attend_flash_delta(Attention a, const T *__restrict__ o, const T *__restrict__ dout, const float *__restrict__ dlse,
                          float *__restrict__ delta) {
  if (shut(a)) return;
  i64 n = (i64)a.b * a.tq * a.hq;
  for (i64 first = (global_thread() - lane()) / 8; first < n; first += global_threads() / 8) {
    i64 row = first + lane() / 8;
    float s = 0;
    for (int c = lane() % 8 * 8; row < n && c < a.d; c += 64) {
      Pack<T, 8> x = load_pack<8>(o + row * a.d + c), y = load_pack<8>(dout + row * a.d + c);
#pragma unroll
      for (int i = 0; i < 8; i++) s += to_float(x.v[i]) * to_float(y.v[i]);
    }
    for (int i = 4; i > 0; i >>= 1) s += __shfl_xor_sync(FULL, s, i);
    if (row >= n || lane() % 8 != 0) continue;
    i64 h = row % a.hq, t = row / a.hq % a.tq, b = row / a.hq / a.tq, number = (b * a.hq + h) * a.tq + t;
    delta[number] = s - (dlse ? dlse[number] : 0.f);
  }
}
#endif

// flash_dq takes BM queries of a head and goes over the keys that they see.
INLINE void flash_dq(const Attention &a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const T *__restrict__ dout,
                     const float *__restrict__ lse, const float *__restrict__ delta, T *__restrict__ dq, T *memory, int *low, int *high, int task) {
  T *queries = memory, *douts = queries + BM * STRIDE, *keys = douts + BM * STRIDE, *values = keys + BK * STRIDE;
  int heads = a.b * a.hq, tile = (a.tq + BM - 1) / BM - 1 - task / heads;
  int h = task % heads % a.hq, b = task % heads / a.hq, t0 = tile * BM, mine = threadIdx.x / WARP * 16;
  i64 step = (i64)a.hq * a.d, base = ((i64)b * a.tq * a.hq + h) * a.d, numbers = ((i64)b * a.hq + h) * a.tq;
  k += b * a.key_batch + h / a.rep * a.key_head, v += b * a.key_batch + h / a.rep * a.key_head;
  fetch<BM, BM * 2>(queries, q + base, step, t0, a.tq, a.d);
  fetch<BM, BM * 2>(douts, dout + base, step, t0, a.tq, a.d);
  for (int i = threadIdx.x; i < BM; i += blockDim.x) {
    low[i] = 1, high[i] = 0;
    if (t0 + i < a.tq) sees(a, b, t0 + i, low[i], high[i]);
  }
  __syncthreads();
  Span all = span_of(low, high, BM), own = span_of(low + mine, high + mine, 16);
  int lo[2], hi[2];
  float top[2], shift[2], sum[1][D / 8][4] = {};
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int r = mine + 8 * i + lane() / 4;
    bool there = t0 + r < a.tq;
    lo[i] = low[r], hi[i] = high[r];
    top[i] = there ? lse[numbers + t0 + r] * LOG2E : 0, shift[i] = there ? delta[numbers + t0 + r] : 0;
  }
  Spot left_query = left_spot(queries + mine * STRIDE), left_dout = left_spot(douts + mine * STRIDE);
  Spot right_keys = right_spot(keys), right_values = right_spot(values), turned_keys = turned_spot(keys);
  fetch<BK, BM * 2>(keys, k, a.key_row, all.lo, all.hi, a.d);
  fetch<BK, BM * 2>(values, v, a.key_row, all.lo, all.hi, a.d);
  copy_commit();
  for (int j0 = all.lo; j0 < all.hi; j0 += BK) {
    bool active = own.lo < j0 + BK && own.hi > j0, whole = own.full_lo <= j0 && j0 + BK <= own.full_hi;
    float s[1][BK / 8][4] = {}, dp[1][BK / 8][4] = {};
    copy_wait<0>();
    __syncthreads();
    if (active) {
      multiply<BK, 1>(dp, left_dout, right_values);
      multiply<BK, 1>(s, left_query, right_keys);
    }
    __syncthreads();  // the values were used
    if (j0 + BK < all.hi) fetch<BK, BM * 2>(values, v, a.key_row, j0 + BK, all.hi, a.d);
    copy_commit();
    if (active) {
      auto seen = [&](int n, int i) {
        int j = j0 + 8 * n + lane() % 4 * 2 + i % 2;
        return lo[i / 2] <= j && j < hi[i / 2];
      };
      auto base = [&](int, int i) { return top[i / 2]; };
      auto less = [&](int, int i) { return shift[i / 2]; };
      differentiate_tile<BK>(a, s[0], dp[0], base, less, whole, seen);
      accumulate<BK, 1>(sum, dp, turned_keys);
    }
    __syncthreads();  // the keys were used
    if (j0 + BK < all.hi) fetch<BK, BM * 2>(keys, k, a.key_row, j0 + BK, all.hi, a.d);
    copy_commit();
  }
  copy_wait<0>();
  __syncthreads();
  deliver(dq + base, step, t0 + mine, a.tq, a.d, queries + mine * STRIDE, sum[0], a.scale, a.scale);
}

#if !defined(PASS) || PASS == 1
extern "C" __global__ void __launch_bounds__(BM * 2)
attend_flash_dq(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const T *__restrict__ dout,
                const float *__restrict__ lse, const float *__restrict__ delta, T *__restrict__ dq) {
  if (shut(a)) return;
  SHARED_DYNAMIC(T, memory);
  __shared__ int low[BM], high[BM];
  EACH(task, (a.tq + BM - 1) / BM * a.b * a.hq) flash_dq(a, q, k, v, dout, lse, delta, dq, memory, low, high, task);
}
#endif

// Beside are the numbers of a tile's queries: the keys each sees, its lse times log2 e and delta; and, for each warp that wrote them, whether
// its queries see all keys of the block.
struct Beside { int low[BM], high[BM], whole[BK / 16]; float top[BM], shift[BM]; };

// Steps are the tiles of queries that a block of keys goes over: those of [from, to) for each head. M of them are in shared memory.
struct Steps {
  const T *q, *dout;
  const float *lse, *delta;
  int b, h0, from, to, each, n;
  int lo, hi;        // of this thread's query, for Beside
  float top, shift;

  // begin starts copying tile number i, which is then taken from memory that was read long before.
  __device__ __forceinline__ void begin(const Attention &a, T *queries, T *douts, int i) {
    if (i >= n) return;
    int h = h0 + i / each, t0 = from + i % each * BM, t = t0 + threadIdx.x;
    i64 base = ((i64)b * a.tq * a.hq + h) * a.d, step = (i64)a.hq * a.d;
    fetch<BM, BK * 2>(queries, q + base, step, t0, to, a.d);
    fetch<BM, BK * 2>(douts, dout + base, step, t0, to, a.d);
    lo = hi = 0, top = shift = 0;
    if (threadIdx.x >= BM || t >= to) return;
    sees(a, b, t, lo, hi);
    i64 number = ((i64)b * a.hq + h) * a.tq + t;
    top = lse[number] * LOG2E, shift = delta[number];
  }
  __device__ __forceinline__ void put(Beside &x, int j0, int end) const {
    bool whole = __all_sync(FULL, threadIdx.x >= BM || (lo <= j0 && hi >= end));
    if (lane() == 0) x.whole[threadIdx.x / WARP] = whole;
    if (threadIdx.x < BM) x.low[threadIdx.x] = lo, x.high[threadIdx.x] = hi, x.top[threadIdx.x] = top, x.shift[threadIdx.x] = shift;
  }
};

// flash_dkv takes BK keys of a key head and goes over the queries that see them, of all heads that share it. Rows of its products are
// keys.
INLINE void flash_dkv(const Attention &a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const T *__restrict__ dout,
                      const float *__restrict__ lse, const float *__restrict__ delta, T *__restrict__ dk, T *__restrict__ dv, T *memory,
                      Beside &beside, int *range, int task) {
  T *keys = memory, *values = keys + BK * STRIDE, *queries = values + BK * STRIDE, *douts = queries + M * BM * STRIDE;
  int heads = a.b * a.hkv, j0 = task / heads * BK, g = task % heads % a.hkv, b = task % heads / a.hkv;
  int mine = threadIdx.x / WARP * 16, end = min(j0 + BK, a.tk), from, to;
  i64 at = b * a.key_batch + g * a.key_head;
  fetch<BK, BK * 2>(keys, k + at, a.key_row, j0, a.tk, a.d);
  fetch<BK, BK * 2>(values, v + at, a.key_row, j0, a.tk, a.d);
  range_of(a, b, j0, end, range, from, to);
  int each = (max(to - from, 0) + BM - 1) / BM;
  Steps steps = {q, dout, lse, delta, b, g * a.rep, from, to, each, each * a.rep};
  float sum_k[1][D / 8][4] = {}, sum_v[1][D / 8][4] = {};
  Spot left_keys = left_spot(keys + mine * STRIDE), left_values = left_spot(values + mine * STRIDE);
  steps.begin(a, queries, douts, 0);
  copy_commit();
  for (int i = 0; i < steps.n; i++) {
    T *qs = queries + i % M * BM * STRIDE, *ds = douts + i % M * BM * STRIDE;
    __syncthreads();  // what came before was used
    steps.put(beside, j0, end);
    if (M > 1) steps.begin(a, queries + (i + 1) % M * BM * STRIDE, douts + (i + 1) % M * BM * STRIDE, i + 1);
    copy_commit();
    copy_wait<1>();
    if (M == 1) copy_wait<0>();
    __syncthreads();
    float s[1][BM / 8][4] = {}, dp[1][BM / 8][4] = {};
    multiply<BM, 1>(s, left_keys, right_spot(qs));
    multiply<BM, 1>(dp, left_values, right_spot(ds));
    bool whole = end == j0 + BK;
#pragma unroll
    for (int w = 0; w < BK / 16; w++) whole = whole && beside.whole[w];
    auto seen = [&](int n, int c) {
      int j = j0 + mine + c / 2 * 8 + lane() / 4, t = 8 * n + lane() % 4 * 2 + c % 2;
      return beside.low[t] <= j && j < beside.high[t];
    };
    auto base = [&](int n, int c) { return beside.top[8 * n + lane() % 4 * 2 + c % 2]; };
    auto less = [&](int n, int c) { return beside.shift[8 * n + lane() % 4 * 2 + c % 2]; };
    differentiate_tile<BM>(a, s[0], dp[0], base, less, whole, seen);
    accumulate<BM, 1>(sum_v, s, turned_spot(ds));
    accumulate<BM, 1>(sum_k, dp, turned_spot(qs));
    if (M > 1) continue;
    __syncthreads();
    steps.begin(a, queries, douts, i + 1);
    copy_commit();
  }
  copy_wait<0>();
  __syncthreads();
  deliver(dk + at, a.key_row, j0 + mine, end, a.d, keys + mine * STRIDE, sum_k[0], a.scale, a.scale);
  deliver(dv + at, a.key_row, j0 + mine, end, a.d, values + mine * STRIDE, sum_v[0], 1, 1);
}

#if !defined(PASS) || PASS == 2
extern "C" __global__ void __launch_bounds__(BK * 2)
attend_flash_dkv(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const T *__restrict__ dout,
                 const float *__restrict__ lse, const float *__restrict__ delta, T *__restrict__ dk, T *__restrict__ dv) {
  if (shut(a)) return;
  SHARED_DYNAMIC(T, memory);
  __shared__ Beside beside;
  __shared__ int range[2];
  EACH(task, (a.tk + BK - 1) / BK * a.b * a.hkv) flash_dkv(a, q, k, v, dout, lse, delta, dk, dv, memory, beside, range, task);
}
#endif
