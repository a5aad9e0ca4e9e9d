// Convolutions of x (n, channels, in) by filters (outputs, channels / groups, taps) to y (n, outputs, out), after window.cuh: each thread
// sums an element of the result.
typedef Acc<T> A;

struct Conv { i32 n, channels, outputs, groups; };

KERNEL conv(T *__restrict__ y, const T *__restrict__ x, const T *__restrict__ f, Conv c, Window w) {
  const int cg = c.channels / c.groups, og = c.outputs / c.groups;
  const i64 all = (i64)c.n * c.outputs * w.outs;
  for (i64 t = global_thread(); t < all; t += global_threads()) {
    const Spot o = spot_of((int)(t % w.outs), w.out);
    const int out = (int)(t / w.outs % c.outputs), n = (int)(t / w.outs / c.outputs);
    const T *__restrict__ in = x + ((i64)n * c.channels + out / og * cg) * w.ins;
    const T *__restrict__ own = f + (i64)out * cg * w.taps;
    A sum = 0;
    for (int k = 0; k < w.taps; k++) {
      const int i = seen(w, o, spot_of(k, w.kernel));
      if (i < 0) continue;
      for (int j = 0; j < cg; j++) sum += widen<T>(in[(i64)j * w.ins + i]) * widen<T>(own[(i64)j * w.taps + k]);
    }
    y[t] = narrow<T>(sum);
  }
}

KERNEL conv_transpose(T *__restrict__ x, const T *__restrict__ y, const T *__restrict__ f, Conv c, Window w) {
  const int cg = c.channels / c.groups, og = c.outputs / c.groups;
  const i64 all = (i64)c.n * c.channels * w.ins;
  for (i64 t = global_thread(); t < all; t += global_threads()) {
    const Spot i = spot_of((int)(t % w.ins), w.in);
    const int channel = (int)(t / w.ins % c.channels), n = (int)(t / w.ins / c.channels), g = channel / cg;
    const T *__restrict__ out = y + ((i64)n * c.outputs + g * og) * w.outs;
    const T *__restrict__ own = f + ((i64)g * og * cg + channel % cg) * w.taps;
    A sum = 0;
    for (int k = 0; k < w.taps; k++) {
      const int o = seer(w, i, spot_of(k, w.kernel));
      if (o < 0) continue;
      for (int j = 0; j < og; j++) sum += widen<T>(out[(i64)j * w.outs + o]) * widen<T>(own[(i64)j * cg * w.taps + k]);
    }
    x[t] = narrow<T>(sum);
  }
}

// conv_weight gives a block an element of the filters: the threads share the positions of all rows, and their sums meet in a fixed order.
KERNEL __launch_bounds__(256) conv_weight(T *__restrict__ f, const T *__restrict__ x, const T *__restrict__ y, Conv c, Window w) {
  const int cg = c.channels / c.groups, og = c.outputs / c.groups;
  const i64 all = (i64)c.outputs * cg * w.taps, positions = (i64)c.n * w.outs;
  for (i64 e = blockIdx.x; e < all; e += gridDim.x) {
    const Spot k = spot_of((int)(e % w.taps), w.kernel);
    const int channel = (int)(e / w.taps % cg), out = (int)(e / w.taps / cg);
    A sum = 0;
    for (i64 p = threadIdx.x; p < positions; p += blockDim.x) {
      const int o = (int)(p % w.outs), n = (int)(p / w.outs);
      const int i = seen(w, spot_of(o, w.out), k);
      if (i < 0) continue;
      sum += widen<T>(x[((i64)n * c.channels + out / og * cg + channel) * w.ins + i]) * widen<T>(y[((i64)n * c.outputs + out) * w.outs + o]);
    }
    sum = block_reduce<Sum>(sum, (A)0);
    if (threadIdx.x == 0) f[e] = narrow<T>(sum);
  }
}
