// Rotary embedding of tensors x (tokens, heads, size) by tables (tokens, half), each in blocks of its own. Defined before: T; V, values an access; INTERLEAVED, whether pairs are
// neighbours or half a head apart.
//
// A thread turns V pairs, at one place in some of the heads, so that it reads their angles once. y may be x: a thread writes what only it has read.

typedef Acc<T> A;
typedef Pack<T, V> P;

// HEADS is how many heads a thread turns: that many pairs of reads are under way at once.
#define HEADS 4

INLINE void angles(A (&to)[V], const float *table) {
  const int W = V < 4 ? V : 4;
  for (int j = 0; j < V; j += W) {
    Pack<float, W> p = load_pack<W>(table + j);
    for (int k = 0; k < W; k++) to[j + k] = (A)p.v[k];
  }
}

INLINE float product_and(float a, float b, float c) { return __fmaf_rn(a, b, c); }
INLINE double product_and(double a, double b, double c) { return __fma_rn(a, b, c); }

// turn rotates the pairs of two packs. Neighbours: pair j is values 2j and 2j+1 of the two packs in a row. Of two products that with the cosine is not rounded.
INLINE void turn(P &a, P &b, const A (&c)[V], const A (&s)[V]) {
  A x[2 * V], y[2 * V];
  for (int j = 0; j < V; j++) {
    x[j] = widen<T>(a.v[j]);
    x[V + j] = widen<T>(b.v[j]);
  }
  for (int j = 0; j < V; j++) {
    int p = INTERLEAVED ? 2 * j : j, q = INTERLEAVED ? 2 * j + 1 : V + j;
    y[p] = product_and(x[p], c[j], -(x[q] * s[j]));
    y[q] = product_and(x[q], c[j], x[p] * s[j]);
  }
  for (int j = 0; j < V; j++) {
    a.v[j] = narrow<T>(y[j]);
    b.v[j] = narrow<T>(y[V + j]);
  }
}

#define PARTS_MOST 4
struct Part {
  T *y;
  const T *x;
  i32 heads, _;
};
struct Parts { Part of[PARTS_MOST]; };

// rope: a block has threads (x, y), y of them tokens; its second number is that of its tensor. sign is -1 to turn back.
KERNEL __launch_bounds__(256, 3) rope(const __grid_constant__ Parts parts, const float *cos, const float *sin, i64 tokens, int size, int half, float sign) {
  T *y = parts.of[blockIdx.y].y;
  const T *x = parts.of[blockIdx.y].x;
  const int heads = parts.of[blockIdx.y].heads;
  i64 token = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  if (token >= tokens) return;
  int places = half / V, groups = (heads + HEADS - 1) / HEADS;
  const T *from = x + token * heads * size;
  T *to = y + token * heads * size;
  for (int i = threadIdx.x; i < places * groups; i += blockDim.x) {
    int at = i % places * V, first = i / places * HEADS;
    A c[V], s[V];
    angles(c, cos + token * half + at);
    angles(s, sin + token * half + at);
    for (int j = 0; j < V; j++) s[j] *= (A)sign;
    int lo = INTERLEAVED ? 2 * at : at, hi = INTERLEAVED ? lo + V : lo + half;
    P a[HEADS], b[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      if (first + h >= heads) continue;
      a[h] = load_pack<V>(from + (first + h) * size + lo);
      b[h] = load_pack<V>(from + (first + h) * size + hi);
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      if (first + h >= heads) continue;
      keep_packed(a[h]);
      keep_packed(b[h]);
      turn(a[h], b[h], c, s);
      store_pack(to + (first + h) * size + lo, a[h]);
      store_pack(to + (first + h) * size + hi, b[h]);
    }
  }
  if (x == y) return;
  int rest = (size - 2 * half) / V;  // what passes unturned
  for (int i = threadIdx.x; i < rest * heads; i += blockDim.x) {
    int at = i / rest * size + 2 * half + i % rest * V;
    store_pack(to + at, load_pack<V>(from + at));
  }
}
