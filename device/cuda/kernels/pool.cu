// Pooling, after window.cuh: each thread has one element of the result, and takes the taps in their order.
typedef Acc<T> A;

// max_pool gives the largest element of each window, the first of equal ones, NaN before all, and its position in the channel; a window
// that sees nothing gives -inf and -1.
KERNEL max_pool(T *__restrict__ y, i32 *__restrict__ at, const T *__restrict__ x, i64 channels, Window w) {
  for (i64 t = global_thread(); t < channels * w.outs; t += global_threads()) {
    const T *__restrict__ in = x + t / w.outs * w.ins;
    const Spot o = spot_of((int)(t % w.outs), w.out);
    A most = (A)-INF;
    int best = -1;
    for (int k = 0; k < w.taps; k++) {
      const int i = seen(w, o, spot_of(k, w.kernel));
      if (i < 0) continue;
      const A v = widen<T>(in[i]);
      if (best < 0 || (most == most && !(v <= most))) most = v, best = i;
    }
    y[t] = narrow<T>(most);
    at[t] = best;
  }
}

// share is one over the divisor of an output position: COUNT 0 has none, 1 counts what the window sees, 2 the padding lo and hi as well.
INLINE A share(const Window &w, const Spot &o) {
  A s = 1;
  for (int a = 0; COUNT != 0 && a < 3; a++) {
    int n = 0;
    const int low = COUNT == 2 ? -w.lo[a] : 0, high = w.in[a] + (COUNT == 2 ? w.hi[a] : 0);
    for (int k = 0; k < w.kernel[a]; k++) {
      const int p = o.at[a] * w.stride[a] + k * w.dilation[a] - w.lo[a];
      n += p >= low && p < high;
    }
    s = s / (A)n;
  }
  return s;
}

KERNEL sum_pool(T *__restrict__ y, const T *__restrict__ x, i64 channels, Window w) {
  for (i64 t = global_thread(); t < channels * w.outs; t += global_threads()) {
    const T *__restrict__ in = x + t / w.outs * w.ins;
    const Spot o = spot_of((int)(t % w.outs), w.out);
    A sum = 0;
    for (int k = 0; k < w.taps; k++) {
      const int i = seen(w, o, spot_of(k, w.kernel));
      if (i >= 0) sum += widen<T>(in[i]);
    }
    y[t] = narrow<T>(COUNT ? sum * share(w, o) : sum);
  }
}

// sum_unpool is its transpose.
KERNEL sum_unpool(T *__restrict__ x, const T *__restrict__ y, i64 channels, Window w) {
  for (i64 t = global_thread(); t < channels * w.ins; t += global_threads()) {
    const T *__restrict__ out = y + t / w.ins * w.outs;
    const Spot i = spot_of((int)(t % w.ins), w.in);
    A sum = 0;
    for (int k = w.taps - 1; k >= 0; k--) {  // the last tap is that of the first position that sees x
      const int o = seer(w, i, spot_of(k, w.kernel));
      if (o >= 0) sum += COUNT ? widen<T>(out[o]) * share(w, spot_of(o, w.out)) : widen<T>(out[o]);
    }
    x[t] = narrow<T>(sum);
  }
}

KERNEL pool_pick(T *__restrict__ y, const T *__restrict__ x, const i32 *__restrict__ at, i64 channels, i32 ins, i32 outs) {
  for (i64 t = global_thread(); t < channels * outs; t += global_threads()) {
    const int i = at[t];
    y[t] = i >= 0 && i < ins ? x[t / outs * ins + i] : narrow<T>((A)0);
  }
}

// pool_place adds elements at their positions in the channel. A warp has a channel; equal positions are added in order: a lane takes those that
// leave its own number as the rest of a division by 32. sums are A (channels, ins).
KERNEL pool_place(A *__restrict__ sums, const T *__restrict__ u, const i32 *__restrict__ at, i64 channels, i32 ins, i32 outs) {
  const i64 warps = global_threads() / WARP;
  for (i64 c = global_thread() / WARP; c < channels; c += warps) {
    for (int i = lane(); i < ins; i += WARP) sums[c * ins + i] = 0;
    for (int k = 0; k < outs; k++) {
      const int i = at[c * outs + k];
      if (i >= 0 && i < ins && i % WARP == lane()) sums[c * ins + i] += widen<T>(u[c * outs + k]);
    }
  }
}

KERNEL pool_round(T *__restrict__ y, const A *__restrict__ sums, i64 n) {
  for (i64 i = global_thread(); i < n; i += global_threads()) y[i] = narrow<T>(sums[i]);
}
