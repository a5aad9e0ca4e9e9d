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
// dropout is x·scale, or 0 where the feature's word is below the threshold. y may be x. A thread has F features at each of its places, and reads the next ones while it
// works. A place's token is found by numbers that divide by `parts`, the places of a token (walk.cuh), or by a division where there are 2^31 places or more.
enum { F = V > 1 ? V : 4 };

struct Features {
  Pack<T, V> v[F / V];
  i64 at;
  u32 quad, pos, sample;
  int count;  // of features that there are
};

struct Dropout {
  const T *x;
  const u32 *sample, *pos;
  i64 all, n, parts;
  u32 mul, shift;
  i32 small;
};

INLINE Features read_features(const Dropout &d, i64 i) {
  Features p;
  i = i < d.all ? i : d.all - 1;
  const i64 token = d.small ? (i64)((__umulhi((u32)i, d.mul) + (u32)i) >> d.shift) : i / d.parts, f = (i - token * d.parts) * F;
  p.pos = d.pos[token], p.sample = d.sample[token], p.quad = (u32)(f / 4), p.at = token * d.n + f;
  p.count = V > 1 || d.n - f > F ? F : (int)(d.n - f);
#pragma unroll
  for (int k = 0; k < F / V; k++)
    if (k < p.count) p.v[k] = load_pack<V>(d.x + p.at + k * V);
  return p;
}

#if V == 8
INLINE void store_features(T *y, const Acc<T> (&v)[F], int) { store_eight(y, v); }
#else
INLINE void store_features(T *y, const Acc<T> (&v)[F], int count) {
#pragma unroll
  for (int k = 0; k < F / V; k++) {
    if (k >= count) break;
    Pack<T, V> p;
#pragma unroll
    for (int j = 0; j < V; j++) p.v[j] = narrow<T>(v[k * V + j]);
    store_pack(y + k * V, p);
  }
}
#endif

KERNEL __launch_bounds__(256) dropout(T *y, Dropout d, const u32 *key, u32 site, u32 threshold, Acc<T> scale) {
  const u32 seed = key[0], step = key[1];
  const i64 stride = global_threads();
  i64 i = global_thread();
  Features next = read_features(d, i);
  for (; i < d.all; i += stride) {
    const Features p = next;
    next = read_features(d, i + stride);
    Acc<T> r[F];
#pragma unroll
    for (int q = 0; q < F / 4; q++) {
      const Words w = philox(p.quad + q, p.pos, p.sample, site, seed, step);
#pragma unroll
      for (int k = 0; k < 4; k++) r[q * 4 + k] = w.v[k] < threshold ? (Acc<T>)0 : widen<T>(p.v[(q * 4 + k) / V].v[(q * 4 + k) % V]) * scale;
    }
    store_features(y + p.at, r, p.count);
  }
}
#endif
