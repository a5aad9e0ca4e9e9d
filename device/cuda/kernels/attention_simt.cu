// Attention in float32 arithmetic: a block takes ROWS queries of a head and goes over the keys that they see, COLS at a time.
extern "C" __global__ void __launch_bounds__(ROWS * 2)
attend_simt(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, T *__restrict__ o, f32 *__restrict__ lse) {
  if (shut(a)) return;
  SHARED_DYNAMIC(float, memory);
  float *queries = memory, *keys = queries + ROWS * STRIDE, *values = keys + COLS * STRIDE, *weights = values + COLS * STRIDE;
  __shared__ int low[ROWS], high[ROWS];
  int heads = a.b * a.hq, t0 = ((a.tq + ROWS - 1) / ROWS - 1 - blockIdx.x / heads) * ROWS;
  int h = blockIdx.x % heads % a.hq, b = blockIdx.x % heads / a.hq;
  i64 step = (i64)a.hq * a.d, base = ((i64)b * a.tq * a.hq + h) * a.d;
  k += b * a.key_batch + h / a.rep * a.key_head, v += b * a.key_batch + h / a.rep * a.key_head;
  widen_tile<ROWS>(queries, q + base, step, t0, a.tq, a.d);
  for (int i = threadIdx.x; i < ROWS; i += ROWS * 2) {
    low[i] = 1, high[i] = 0;
    if (t0 + i < a.tq) sees(a, b, t0 + i, low[i], high[i]);
  }
  __syncthreads();
  Span all = span_of(low, high, ROWS);
  float sum[8][D / 16] = {}, top[8], total[8] = {};
#pragma unroll
  for (int i = 0; i < 8; i++) top[i] = -INF;
  for (int j0 = all.lo; j0 < all.hi; j0 += COLS) {
    __syncthreads();
    widen_tile<COLS>(keys, k, a.key_row, j0, all.hi, a.d);
    widen_tile<COLS>(values, v, a.key_row, j0, all.hi, a.d);
    __syncthreads();
    float s[8][COLS / 16];
    dots(s, queries, keys);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      int lo = low[down() + i], hi = high[down() + i];
      float best = top[i], part = 0;
#pragma unroll
      for (int j = 0; j < COLS / 16; j++) {
        int at = j0 + across() + 16 * j;
        s[i][j] = lo <= at && at < hi ? capped(a, s[i][j] * a.scale) : -INF;
        best = Max::of(best, s[i][j]);
      }
      for (int d = 8; d > 0; d >>= 1) best = Max::of(best, __shfl_xor_sync(FULL, best, d));
      float from = best == -INF ? 0.f : best, shrink = expf(top[i] - from);
#pragma unroll
      for (int j = 0; j < COLS / 16; j++) part += s[i][j] = expf(s[i][j] - from);
      for (int d = 8; d > 0; d >>= 1) part += __shfl_xor_sync(FULL, part, d);
      top[i] = best, total[i] = total[i] * shrink + part;
#pragma unroll
      for (int c = 0; c < D / 16; c++) sum[i][c] *= shrink;
    }
    __syncwarp();
    keep(weights, s);
    __syncwarp();
    gather_rows(sum, weights, values);
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int r = down() + i, t = t0 + r;
    bool none = low[r] >= high[r];
    if (across() == 0 && t < a.tq) lse[((i64)b * a.hq + h) * a.tq + t] = none ? NO_KEYS : top[i] + logf(total[i]);
    total[i] = none ? 0.f : 1 / total[i];
  }
  hand_out(o + base, step, t0, a.tq, a.d, sum, total);
}
