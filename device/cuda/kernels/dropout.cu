// Dropout and the random words that it is made of, after random.cuh and eight.cuh. A call of the generator gives the words of four features of a token. For
// dropout: T; V, 4 or 8 where so many features are one access, else 1.

KERNEL random_words(u32 *y, const u32 *key, const u32 *sample, const u32 *pos, i64 tokens, i64 n, u32 site) {
  const i64 quads = (n + 3) / 4;
  const u32 seed = key[0], step = key[1];
  for (i64 i = global_thread(); i < tokens * quads; i += global_threads()) {
    const i64 token = i / quads, q = i % quads;
    const Words w = philox((u32)q, pos[token], sample[token], site, seed, step);
    for (int j = 0; j < 4 && q * 4 + j < n; j++) y[token * n + q * 4 + j] = w.v[j];
  }
}

#ifdef T
// dropout is x·scale, or 0 where the feature's word is below the threshold. y may be x. A thread has F features of each of U places, whose tokens are found by
// the numbers that divide by `parts`, places of a token (walk.cuh), or by a division where there are 2^31 and more.
enum { F = V > 1 ? V : 4, U = V > 1 ? 2 : 1 };

#if V == 8
INLINE void store_features(T *y, const Acc<T> (&v)[F]) { store_eight(y, v); }
#else
INLINE void store_features(T *y, const Acc<T> (&v)[F]) {
  Pack<T, V> p;
#pragma unroll
  for (int j = 0; j < V; j++) p.v[j] = narrow<T>(v[j]);
  store_pack(y, p);
}
#endif

KERNEL __launch_bounds__(256, 5) dropout(T *y, const T *x, const u32 *key, const u32 *sample, const u32 *pos, i64 tokens, i64 n, i64 parts, u32 mul, u32 shift, i32 small, u32 site,
                                      u32 threshold, Acc<T> scale) {
  const i64 all = tokens * parts;
  const u32 seed = key[0], step = key[1];
  for (i64 i = (i64)blockIdx.x * (U * blockDim.x) + threadIdx.x; i < all; i += (i64)gridDim.x * (U * blockDim.x)) {
    i64 token[U], f[U];
    u32 number[U], at_pos[U];
    T v[U][F];
#pragma unroll
    for (int u = 0; u < U; u++) {
      const i64 j = i + u * blockDim.x < all ? i + u * blockDim.x : all - 1;
      token[u] = small ? (i64)((__umulhi((u32)j, mul) + (u32)j) >> shift) : j / parts;
      f[u] = (j - token[u] * parts) * F;
      number[u] = sample[token[u]], at_pos[u] = pos[token[u]];
      const T *from = x + token[u] * n + f[u];
      if (V > 1) {
        const Pack<T, V> p = load_pack<V>(from);
#pragma unroll
        for (int k = 0; k < V; k++) v[u][k] = p.v[k];
      } else {
        for (int k = 0; k < F && f[u] + k < n; k++) v[u][k] = from[k];
      }
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
      Acc<T> r[F];
#pragma unroll
      for (int q = 0; q < F / 4; q++) {
        const Words w = philox((u32)(f[u] / 4 + q), at_pos[u], number[u], site, seed, step);
#pragma unroll
        for (int k = 0; k < 4; k++) r[q * 4 + k] = w.v[k] < threshold ? (Acc<T>)0 : widen<T>(v[u][q * 4 + k]) * scale;
      }
      T *to = y + token[u] * n + f[u];
      if (i + u * blockDim.x >= all) continue;
      if (V > 1) {
        store_features(to, r);
      } else {
        for (int k = 0; k < F && f[u] + k < n; k++) to[k] = narrow<T>(r[k]);
      }
    }
  }
}
#endif
