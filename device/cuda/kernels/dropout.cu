// Dropout and the random words that it is made of, after random.cuh. A call of the generator gives the words of four features of a token. For
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
// dropout is x·scale, or 0 where the feature's word is below the threshold. y may be x. A thread has F features of a token.
enum { F = V > 1 ? V : 4 };
KERNEL dropout(T *y, const T *x, const u32 *key, const u32 *sample, const u32 *pos, i64 tokens, i64 n, u32 site, u32 threshold, Acc<T> scale) {
  const i64 parts = (n + F - 1) / F, all = tokens * parts;
  const u32 seed = key[0], step = key[1];
  for (i64 i = global_thread(); i < all; i += global_threads()) {
    const i64 token = all <= 0x7fffffff ? (i64)((u32)i / (u32)parts) : i / parts;
    const i64 f = (i - token * parts) * F, at = token * n + f;
    T v[F];
    if (V > 1) {
      const Pack<T, V> p = load_pack<V>(x + at);
      for (int j = 0; j < V; j++) v[j] = p.v[j];
    } else {
      for (int j = 0; j < F && f + j < n; j++) v[j] = x[at + j];
    }
#pragma unroll
    for (int q = 0; q < F / 4; q++) {
      const Words w = philox((u32)(f / 4 + q), pos[token], sample[token], site, seed, step);
#pragma unroll
      for (int j = 0; j < 4; j++) v[q * 4 + j] = narrow<T>(w.v[j] < threshold ? (Acc<T>)0 : widen<T>(v[q * 4 + j]) * scale);
    }
    if (V > 1) {
      Pack<T, V> p;
      for (int j = 0; j < V; j++) p.v[j] = v[j];
      store_pack(y + at, p);
    } else {
      for (int j = 0; j < F && f + j < n; j++) y[at + j] = v[j];
    }
  }
}
#endif
