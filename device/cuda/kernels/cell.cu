// Recurrent cells, a launch a step. CELL: 0 tanh, 1 ReLU, 2 GRU (gates r, z, n and w·h + b), 3 LSTM (gates i, f, g, o). T is f32 or f64. A warp has
// element j of a row b. A step at or beyond a row's length leaves the state as it is.
#define GATES (CELL == 2 ? 3 : CELL == 3 ? 4 : 1)

INLINE float raise(float x) { return expf(x); }
INLINE double raise(double x) { return exp(x); }
INLINE float bend(float x) { return tanhf(x); }
INLINE double bend(double x) { return tanh(x); }
INLINE T sigmoid(T x) { return (T)1 / ((T)1 + raise(-x)); }

struct Step {
  i32 rows, size, t;
};

// cell_step: a (rows, GATES·size), w (GATES·size, size), h and c the states before, next, gates (rows, 4·size) and c_next those of the step.
KERNEL __launch_bounds__(256) cell_step(T *__restrict__ next, T *__restrict__ gates, T *__restrict__ c_next, const T *__restrict__ a,
                                        const T *__restrict__ w, const T *__restrict__ h, const T *__restrict__ bias, const T *__restrict__ c,
                                        const i32 *__restrict__ lengths, Step s) {
  const i64 n = s.size, all = s.rows * n, warps = global_threads() / WARP;
  for (i64 at = global_thread() / WARP; at < all; at += warps) {
    const i64 b = at / n, j = at % n;
    if (lengths && lengths[b] <= s.t) {
      if (lane() == 0) next[at] = h[at];
      if (CELL >= 2 && lane() < 4) gates[b * 4 * n + lane() * n + j] = 0;
      if (CELL == 3 && lane() == 0) c_next[at] = c[at];
      continue;
    }
    T wh[GATES];
#pragma unroll
    for (int g = 0; g < GATES; g++) {
      T sum = 0;
      for (i64 k = lane(); k < n; k += WARP) sum += w[(g * n + j) * n + k] * h[b * n + k];
      wh[g] = warp_reduce<Sum>(sum);
    }
    if (lane() != 0) continue;
    const T *x = a + b * GATES * n + j;
#if CELL == 0
    next[at] = bend(x[0] + wh[0]);
#elif CELL == 1
    const T v = x[0] + wh[0];
    next[at] = v != v || v > 0 ? v : (T)0;
#elif CELL == 2
    T *out = gates + b * 4 * n + j;
    const T r = sigmoid(x[0] + wh[0]), z = sigmoid(x[n] + wh[1]), hn = wh[2] + bias[j], m = bend(x[2 * n] + r * hn);
    out[0] = r, out[n] = z, out[2 * n] = m, out[3 * n] = hn;
    next[at] = (1 - z) * m + z * h[at];
#else
    T *out = gates + b * 4 * n + j;
    const T i = sigmoid(x[0] + wh[0]), f = sigmoid(x[n] + wh[1]), g = bend(x[2 * n] + wh[2]), o = sigmoid(x[3 * n] + wh[3]);
    out[0] = i, out[n] = f, out[2 * n] = g, out[3 * n] = o;
    const T cell = f * c[at] + i * g;
    c_next[at] = cell;
    next[at] = o * bend(cell);
#endif
  }
}

struct Back {
  const T *before, *c_before, *h, *c, *gates;  // states before the step, those after it, its gates
  const T *gh, *ggates, *gc;                   // cotangents of the step's outputs, may be absent
  const i32 *lengths;
  T *da, *dn, *dwh, *dh, *dc;                  // dh and dc hold the cotangents of the states after the step
};

INLINE T own(const T *g, i64 i) { return g ? g[i] : (T)0; }

// cell_back gives the cotangents of a, and leaves in dh and dc those of the states before, without what goes through w.
KERNEL cell_back(Back p, Step s) {
  const i64 n = s.size, all = s.rows * n;
  for (i64 at = global_thread(); at < all; at += global_threads()) {
    const i64 b = at / n, j = at % n;
    T dh = p.dh[at] + own(p.gh, at);
    T *da = p.da + b * GATES * n + j;
    T dc = 0;
    if (CELL == 3) dc = p.dc[at] + own(p.gc, at);
    if (p.lengths && p.lengths[b] <= s.t) {
      for (int g = 0; g < GATES; g++) da[g * n] = 0;
      if (CELL == 2) {
        p.dn[at] = 0;
        for (int g = 0; g < GATES; g++) p.dwh[b * GATES * n + j + g * n] = 0;
      }
      p.dh[at] = dh;
      if (CELL == 3) p.dc[at] = dc;
      continue;
    }
    const i64 q = b * 4 * n + j;
#if CELL == 0
    da[0] = dh * (1 - p.h[at] * p.h[at]);
    p.dh[at] = 0;
    (void)q;
#elif CELL == 1
    da[0] = p.h[at] > 0 ? dh : (T)0;
    p.dh[at] = 0;
    (void)q;
#elif CELL == 2
    const T r = p.gates[q], z = p.gates[q + n], m = p.gates[q + 2 * n], hn = p.gates[q + 3 * n];
    const T dm = (dh * (1 - z) + own(p.ggates, q + 2 * n)) * (1 - m * m);
    T *dwh = p.dwh + b * 3 * n + j;
    da[0] = dwh[0] = (dm * hn + own(p.ggates, q)) * r * (1 - r);
    da[n] = dwh[n] = (dh * (p.before[at] - m) + own(p.ggates, q + n)) * z * (1 - z);
    da[2 * n] = dm;
    p.dn[at] = dwh[2 * n] = dm * r + own(p.ggates, q + 3 * n);
    p.dh[at] = dh * z;
#else
    const T i = p.gates[q], f = p.gates[q + n], g = p.gates[q + 2 * n], o = p.gates[q + 3 * n], tc = bend(p.c[at]);
    const T d = dc + dh * o * (1 - tc * tc);
    da[0] = (d * g + own(p.ggates, q)) * i * (1 - i);
    da[n] = (d * p.c_before[at] + own(p.ggates, q + n)) * f * (1 - f);
    da[2 * n] = (d * i + own(p.ggates, q + 2 * n)) * (1 - g * g);
    da[3 * n] = (dh * tc + own(p.ggates, q + 3 * n)) * o * (1 - o);
    p.dc[at] = d * f;
    p.dh[at] = 0;
#endif
  }
}

// cell_through adds what goes through w: dh (rows, size) += d (rows, GATES·size) · w (GATES·size, size).
KERNEL cell_through(T *__restrict__ dh, const T *__restrict__ d, const T *__restrict__ w, Step s) {
  const i64 n = s.size, all = s.rows * n;
  for (i64 at = global_thread(); at < all; at += global_threads()) {
    const i64 b = at / n, j = at % n;
    T sum = 0;
    for (i64 k = 0; k < GATES * n; k++) sum += d[b * GATES * n + k] * w[k * n + j];
    dh[at] += sum;
  }
}
