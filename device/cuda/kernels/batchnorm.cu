// Normalization of channels over rows and spatial axes; a block has a channel. x is (n, channels, size); sums are in float64.
typedef Acc<T> A;

INLINE i64 place(i64 i, i64 channel, i64 channels, i64 size) { return (i / size * channels + channel) * size + i % size; }

KERNEL __launch_bounds__(512) batchnorm(T *__restrict__ y, A *__restrict__ means, A *__restrict__ vars, const T *__restrict__ x, const T *__restrict__ w,
                                        const T *__restrict__ b, i64 n, i64 channels, i64 size, double eps) {
  const i64 all = n * size;
  for (i64 c = blockIdx.x; c < channels; c += gridDim.x) {
    double sum = 0;
    for (i64 i = threadIdx.x; i < all; i += blockDim.x) sum += (double)widen<T>(x[place(i, c, channels, size)]);
    const double mean = block_reduce<Sum>(sum, 0.0) / (double)all;
    sum = 0;
    for (i64 i = threadIdx.x; i < all; i += blockDim.x) {
      const double d = (double)widen<T>(x[place(i, c, channels, size)]) - mean;
      sum += d * d;
    }
    const double var = block_reduce<Sum>(sum, 0.0) / (double)all;
    if (threadIdx.x == 0) means[c] = (A)mean, vars[c] = (A)var;
    const A scale = (A)((w ? (double)widen<T>(w[c]) : 1.0) / sqrt(var + eps)), shift = b ? widen<T>(b[c]) : (A)0, mu = (A)mean;
    for (i64 i = threadIdx.x; i < all; i += blockDim.x) {
      const i64 at = place(i, c, channels, size);
      y[at] = narrow<T>((widen<T>(x[at]) - mu) * scale + shift);
    }
  }
}

// batchnorm_grad: dx, dw and db may be absent.
KERNEL __launch_bounds__(512) batchnorm_grad(T *__restrict__ dx, T *__restrict__ dw, T *__restrict__ db, const T *__restrict__ x, const T *__restrict__ w,
                                             const A *__restrict__ means, const A *__restrict__ vars, const T *__restrict__ gy, i64 n, i64 channels,
                                             i64 size, double eps) {
  const i64 all = n * size;
  for (i64 c = blockIdx.x; c < channels; c += gridDim.x) {
    const A mean = means[c];
    const double rstd = 1 / sqrt((double)vars[c] + eps);
    double sum = 0, dot = 0;
    for (i64 i = threadIdx.x; i < all; i += blockDim.x) {
      const i64 at = place(i, c, channels, size);
      const double g = (double)widen<T>(gy[at]);
      sum += g;
      dot += g * (double)(widen<T>(x[at]) - mean);
    }
    sum = block_reduce<Sum>(sum, 0.0);
    dot = block_reduce<Sum>(dot, 0.0) * rstd;
    if (threadIdx.x == 0) {
      if (dw) dw[c] = narrow<T>((A)dot);
      if (db) db[c] = narrow<T>((A)sum);
    }
    if (!dx) continue;
    const A scale = (A)((w ? (double)widen<T>(w[c]) : 1.0) * rstd), shift = (A)(sum / (double)all), tilt = (A)(dot / (double)all * rstd);
    for (i64 i = threadIdx.x; i < all; i += blockDim.x) {
      const i64 at = place(i, c, channels, size);
      dx[at] = narrow<T>(scale * (widen<T>(gy[at]) - shift - (widen<T>(x[at]) - mean) * tilt));
    }
  }
}
