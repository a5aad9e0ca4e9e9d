// The gradient of attention in float32 arithmetic, in two passes, as attention_flash_grad.cu makes it: every sum has one owner.

// slopes turns products of q and k into probabilities p, and dp, products of do and v, into the gradients of the former.
INLINE void slopes(const Attention &a, float &s, float &dp, float lse, float delta, bool seen) {
  float x = capped(a, s * a.scale);
  s = seen ? expf(x - lse) : 0.f;
  dp = seen ? s * (dp - delta) * cap_slope(a, x) * a.scale : 0.f;
}

#define ONES {1, 1, 1, 1, 1, 1, 1, 1}

// attend_simt_dq: a block takes ROWS queries of a head.
extern "C" __global__ void __launch_bounds__(ROWS * 2)
attend_simt_dq(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const T *__restrict__ dout,
               const f32 *__restrict__ lse, const f32 *__restrict__ delta, T *__restrict__ dq) {
  if (shut(a)) return;
  SHARED_DYNAMIC(float, memory);
  float *queries = memory, *douts = queries + ROWS * STRIDE, *keys = douts + ROWS * STRIDE, *values = keys + COLS * STRIDE;
  float *weights = values + COLS * STRIDE;
  __shared__ int low[ROWS], high[ROWS];
  int heads = a.b * a.hq, t0 = ((a.tq + ROWS - 1) / ROWS - 1 - blockIdx.x / heads) * ROWS;
  int h = blockIdx.x % heads % a.hq, b = blockIdx.x % heads / a.hq;
  i64 step = (i64)a.hq * a.d, base = ((i64)b * a.tq * a.hq + h) * a.d, numbers = ((i64)b * a.hq + h) * a.tq + t0;
  k += b * a.key_batch + h / a.rep * a.key_head, v += b * a.key_batch + h / a.rep * a.key_head;
  widen_tile<ROWS>(queries, q + base, step, t0, a.tq, a.d);
  widen_tile<ROWS>(douts, dout + base, step, t0, a.tq, a.d);
  for (int i = threadIdx.x; i < ROWS; i += ROWS * 2) {
    low[i] = 1, high[i] = 0;
    if (t0 + i < a.tq) sees(a, b, t0 + i, low[i], high[i]);
  }
  __syncthreads();
  Span all = span_of(low, high, ROWS);
  float sum[8][D / 16] = {}, top[8], shift[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    bool there = t0 + down() + i < a.tq;
    top[i] = there ? lse[numbers + down() + i] : 0.f, shift[i] = there ? delta[numbers + down() + i] : 0.f;
  }
  for (int j0 = all.lo; j0 < all.hi; j0 += COLS) {
    __syncthreads();
    widen_tile<COLS>(keys, k, a.key_row, j0, all.hi, a.d);
    widen_tile<COLS>(values, v, a.key_row, j0, all.hi, a.d);
    __syncthreads();
    float s[8][COLS / 16], dp[8][COLS / 16];
    dots(s, queries, keys);
    dots(dp, douts, values);
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < COLS / 16; j++) {
        int at = j0 + across() + 16 * j;
        slopes(a, s[i][j], dp[i][j], top[i], shift[i], low[down() + i] <= at && at < high[down() + i]);
      }
    __syncwarp();
    keep(weights, dp);
    __syncwarp();
    gather_rows(sum, weights, keys);
  }
  const float ones[8] = ONES;
  hand_out(dq + base, step, t0, a.tq, a.d, sum, ones);
}

// attend_simt_dkv: a block takes ROWS keys of a key head and goes over the queries that see them, of all heads that share it, COLS at a
// time.
extern "C" __global__ void __launch_bounds__(ROWS * 2)
attend_simt_dkv(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const T *__restrict__ dout,
                const f32 *__restrict__ lse, const f32 *__restrict__ delta, T *__restrict__ dk, T *__restrict__ dv) {
  if (shut(a)) return;
  SHARED_DYNAMIC(float, memory);
  float *keys = memory, *values = keys + ROWS * STRIDE, *queries = values + ROWS * STRIDE, *douts = queries + COLS * STRIDE;
  float *weights = douts + COLS * STRIDE;
  __shared__ int low[COLS], high[COLS], range[2];
  __shared__ float top[COLS], shift[COLS];
  int heads = a.b * a.hkv, j0 = blockIdx.x / heads * ROWS, g = blockIdx.x % heads % a.hkv, b = blockIdx.x % heads / a.hkv;
  int end = min(j0 + ROWS, a.tk), from, to;
  i64 at = b * a.key_batch + g * a.key_head, step = (i64)a.hq * a.d;
  widen_tile<ROWS>(keys, k + at, a.key_row, j0, a.tk, a.d);
  widen_tile<ROWS>(values, v + at, a.key_row, j0, a.tk, a.d);
  range_of(a, b, j0, end, range, from, to);
  float sum_k[8][D / 16] = {}, sum_v[8][D / 16] = {};
  for (int h = g * a.rep; h < (g + 1) * a.rep; h++) {
    i64 base = ((i64)b * a.tq * a.hq + h) * a.d, numbers = ((i64)b * a.hq + h) * a.tq;
    for (int t0 = from; t0 < to; t0 += COLS) {
      __syncthreads();
      widen_tile<COLS>(queries, q + base, step, t0, to, a.d);
      widen_tile<COLS>(douts, dout + base, step, t0, to, a.d);
      for (int i = threadIdx.x; i < COLS; i += ROWS * 2) {
        low[i] = high[i] = 0, top[i] = shift[i] = 0;
        if (t0 + i >= to) continue;
        sees(a, b, t0 + i, low[i], high[i]);
        top[i] = lse[numbers + t0 + i], shift[i] = delta[numbers + t0 + i];
      }
      __syncthreads();
      float s[8][COLS / 16], dp[8][COLS / 16];
      dots(s, keys, queries);
      dots(dp, values, douts);
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < COLS / 16; j++) {
          int key = j0 + down() + i, t = across() + 16 * j;
          slopes(a, s[i][j], dp[i][j], top[t], shift[t], low[t] <= key && key < high[t]);
        }
      __syncwarp();
      keep(weights, s);
      __syncwarp();
      gather_rows(sum_v, weights, douts);
      __syncwarp();
      keep(weights, dp);
      __syncwarp();
      gather_rows(sum_k, weights, queries);
    }
  }
  const float ones[8] = ONES;
  hand_out(dk + at, a.key_row, j0, end, a.d, sum_k, ones);
  hand_out(dv + at, a.key_row, j0, end, a.d, sum_v, ones);
}
