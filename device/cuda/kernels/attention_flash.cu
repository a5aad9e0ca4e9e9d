// Attention by tensor cores without the score matrix (Dao 2023): a block takes BM queries of a head, 16 * M a warp, and goes over the keys
// that they see BK at a time with running maxima and sums. D, T, BM, BK, M and CAPPED are defined outside.

#define WARPS (BM / (16 * M))

// flash computes tile number `task`; those with the most keys come first.
INLINE void flash(const Attention &a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, T *__restrict__ o,
                  float *__restrict__ lse, T *memory, int *low, int *high, int task) {
  T *queries = memory, *keys = queries + BM * STRIDE, *values = keys + BK * STRIDE;
  int heads = a.b * a.hq, tile = (a.tq + BM - 1) / BM - 1 - task / heads, mine = threadIdx.x / WARP * 16 * M;
  int h = task % heads % a.hq, b = task % heads / a.hq, t0 = tile * BM;
  i64 step = (i64)a.hq * a.d, base = ((i64)b * a.tq * a.hq + h) * a.d;
  k += b * a.key_batch + h / a.rep * a.key_head, v += b * a.key_batch + h / a.rep * a.key_head;

  fetch<BM, WARPS * WARP>(queries, q + base, step, t0, a.tq, a.d);
  for (int i = threadIdx.x; i < BM; i += blockDim.x) {
    low[i] = 1, high[i] = 0;
    if (t0 + i < a.tq) sees(a, b, t0 + i, low[i], high[i]);
  }
  __syncthreads();
  Span all = span_of(low, high, BM), own = span_of(low + mine, high + mine, 16 * M);
  FlashRow rows[M][2];
  float sum[M][D / 8][4] = {};
#pragma unroll
  for (int i = 0; i < 2 * M; i++) {
    int r = mine + i * 8 + lane() / 4;
    rows[i / 2][i % 2].lo = low[r], rows[i / 2][i % 2].hi = high[r], rows[i / 2][i % 2].top = -INF, rows[i / 2][i % 2].total = 0;
  }
  Spot left = left_spot(queries + mine * STRIDE), right = right_spot(keys), turned = turned_spot(values);
  float unit = LOG2E * (CAPPED ? 1 : a.scale);  // scores times unit are exponents of 2
  fetch<BK, WARPS * WARP>(keys, k, a.key_row, all.lo, all.hi, a.d);
  copy_commit();
  for (int j0 = all.lo; j0 < all.hi; j0 += BK) {
    bool active = own.lo < j0 + BK && own.hi > j0, whole = own.full_lo <= j0 && j0 + BK <= own.full_hi;
    copy_wait<0>();
    __syncthreads();  // the keys are there, and the values before were used
    fetch<BK, WARPS * WARP>(values, v, a.key_row, j0, all.hi, a.d);
    copy_commit();
    float s[M][BK / 8][4] = {};
    if (active) multiply<BK, M>(s, left, right);
    copy_wait<0>();
    __syncthreads();  // the values are there, and the keys were used
    if (j0 + BK < all.hi) fetch<BK, WARPS * WARP>(keys, k, a.key_row, j0 + BK, all.hi, a.d);
    copy_commit();
    if (!active) continue;
#pragma unroll
    for (int m = 0; m < M; m++) {
      if (CAPPED) {
#pragma unroll
        for (int n = 0; n < BK / 8; n++)
          for (int i = 0; i < 4; i++) s[m][n][i] = soft(s[m][n][i] * a.scale, a.cap);
      }
      if (!whole) hide(s[m], rows[m], j0);
      float shrinks[2];
      weigh(s[m], rows[m], unit, shrinks);
      rescale(sum[m], shrinks);
    }
    accumulate<BK, M>(sum, s, turned);
  }
  copy_wait<0>();
#pragma unroll
  for (int m = 0; m < M; m++) {
    float f[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float end;
      f[half] = finish(rows[m][half], unit, end);
      int t = t0 + mine + 16 * m + 8 * half + lane() / 4;
      if (lane() % 4 == 0 && t < a.tq) lse[((i64)b * a.hq + h) * a.tq + t] = end;
    }
    if (m == 0) __syncthreads();  // where no key is seen, the copies of the queries may still be under way
    int r = mine + 16 * m;
    deliver(o + base, step, t0 + r, a.tq, a.d, queries + r * STRIDE, sum[m], f[0], f[1]);
  }
}

extern "C" __global__ void __launch_bounds__(WARPS * WARP)
attend_flash(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, T *__restrict__ o, float *__restrict__ lse) {
  if (shut(a)) {
#ifdef LOOP
    if (a.stats) turn<WARPS>(a, a.tq, a.hq, a.stats, lse, blockIdx.x, gridDim.x);
#endif
    return;
  }
  SHARED_DYNAMIC(T, memory);
  __shared__ int low[BM], high[BM];
  EACH(task, (a.tq + BM - 1) / BM * a.b * a.hq) flash(a, q, k, v, o, lse, memory, low, high, task);
}
