// What a lane does with scores of a tile of 16 rows of a warp: weights with running maxima and sums, and gradients.

struct FlashRow { int lo, hi; float top, total; };  // of a query: keys it sees, greatest score and sum so far

// hide sets the scores of keys that a row does not see to minus infinity.
INLINE void hide(float (*s)[4], const FlashRow *rows, int j0) {
#pragma unroll
  for (int n = 0; n < BK / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int j = j0 + 8 * n + lane() % 4 * 2 + i % 2;
      if (j < rows[i / 2].lo || j >= rows[i / 2].hi) s[n][i] = -INF;
    }
}

// weigh turns scores into weights, and gives the factors of what was summed before. A NaN is not in the maximum, but in the sum of weights.
INLINE void weigh(float (*s)[4], FlashRow *rows, float unit, float *shrinks) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    FlashRow &r = rows[half];
    float high = r.top;
#pragma unroll
    for (int n = 0; n < BK / 8; n++) high = fmaxf(high, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    high = fmaxf(high, __shfl_xor_sync(FULL, high, 1));
    high = fmaxf(high, __shfl_xor_sync(FULL, high, 2));
    float base = high == -INF ? 0 : high * unit, shrink = power2(r.top * unit - base), part = 0;
#pragma unroll
    for (int n = 0; n < BK / 8; n++)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; i++) part += s[n][i] = power2(s[n][i] * unit - base);
    r.total = r.total * shrink + part;
    r.top = high, shrinks[half] = shrink;
  }
}

INLINE void rescale(float (*sum)[4], const float *shrinks) {
#pragma unroll
  for (int n = 0; n < D / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) sum[n][i] *= shrinks[i / 2];
}

// finish gives the factor of a row's sum, and its lse.
INLINE float finish(FlashRow &r, float unit, float &lse) {
  r.total += __shfl_xor_sync(FULL, r.total, 1);
  r.total += __shfl_xor_sync(FULL, r.total, 2);
  bool none = r.lo >= r.hi;
  lse = none ? NO_KEYS : r.top * unit * LN2 + logf(r.total);
  return none ? 0 : 1 / r.total;
}

// differentiate turns a product of q and k into the probability p, and dp, of do and v, into the gradient of the former over a.scale. top is lse
// times log2 e; out says that the key is not seen.
INLINE void differentiate(const Attention &a, float &s, float &dp, float top, float shift, bool out) {
  float slope = 1, x = s * (a.scale * LOG2E);
  if (CAPPED) {
    float y = soft(s * a.scale, a.cap), t = ratio(y, a.cap);
    slope = 1 - t * t, x = y * LOG2E;
  }
  float p = power2(x - top), ds = p * (dp - shift);
  if (CAPPED) ds *= slope;
  s = out ? 0.f : p, dp = out ? 0.f : ds;
}

// differentiate_tile does so for 16 x N products. seen says which of them count, where not all do.
template <int N, class Top, class Shift, class Seen>
INLINE void differentiate_tile(const Attention &a, float (*s)[4], float (*dp)[4], Top top, Shift shift, bool whole, Seen seen) {
#pragma unroll
  for (int n = 0; n < N / 8; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) differentiate(a, s[n][i], dp[n][i], top(n, i), shift(n, i), !whole && !seen(n, i));
  }
}
