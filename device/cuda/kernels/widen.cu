// widen_all writes n values of T as float. Addresses of x and y are multiples of 16 if wide.
KERNEL widen_all(const T *__restrict__ x, float *__restrict__ y, i64 n, int wide) {
  i64 packs = wide ? n / 8 : 0;
  for (i64 i = global_thread(); i < packs; i += global_threads()) {
    Eight<T> e = load_eight(x + 8 * i);
    float v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = e.at(j);
    store_eight(y + 8 * i, v);
  }
  for (i64 i = 8 * packs + global_thread(); i < n; i += global_threads()) y[i] = widen(x[i]);
}
