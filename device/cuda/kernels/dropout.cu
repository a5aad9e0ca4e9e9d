// Dropout and the random words that it is made of, after random.cuh. A thread has four features of a token: one call of the generator. For
// dropout: T; V, 4 where four features are one access, else 1.

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
// dropout is x·scale, or 0 where the feature's word is below the threshold. y may be x.
KERNEL dropout(T *y, const T *x, const u32 *key, const u32 *sample, const u32 *pos, i64 tokens, i64 n, u32 site, u32 threshold, Acc<T> scale) {
  const i64 quads = (n + 3) / 4;
  const u32 seed = key[0], step = key[1];
  for (i64 i = global_thread(); i < tokens * quads; i += global_threads()) {
    const i64 token = quads <= 0x7fffffff && i <= 0x7fffffff ? (i64)((u32)i / (u32)quads) : i / quads;
    const i64 q = i - token * quads, at = token * n + q * 4;
    T v[4];
    if (V == 4) {
      const Pack<T, V> p = load_pack<V>(x + at);
      for (int j = 0; j < V; j++) v[j] = p.v[j];
    } else {
      for (int j = 0; j < 4 && q * 4 + j < n; j++) v[j] = x[at + j];
    }
    const Words w = philox((u32)q, pos[token], sample[token], site, seed, step);
    for (int j = 0; j < 4; j++) v[j] = narrow<T>(w.v[j] < threshold ? (Acc<T>)0 : widen<T>(v[j]) * scale);
    if (V == 4) {
      Pack<T, V> p;
      for (int j = 0; j < V; j++) p.v[j] = v[j];
      store_pack(y + at, p);
    } else {
      for (int j = 0; j < 4 && q * 4 + j < n; j++) y[at + j] = v[j];
    }
  }
}
#endif
