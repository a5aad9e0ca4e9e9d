// One step of an optimizer over a slab of tensors, in one launch. After approx.cuh, random.cuh,
// eight.cuh and cells.cuh.
//
// The arithmetic is that of bitsandbytes' CUDA kernels to the bit: which products are contracted into sums, approximate roots and
// reciprocals, rounding to the parameters' type after the step and after the decay. So the program is compiled without contraction, with
// approximate roots and denormals taken for zeros, and FMA is written out. The order of the terms differs between types because it does there.
//
// Defines: P and G, types of parameters and gradients; RULE; EIGHT, 1 with 8-bit moments; MOMENTS; ROUNDING; SKIP, 1 to leave out zero
// gradients; BOUND, 1 with a factor for each tensor; HALF, 1 where P has 16 bits; GHALF likewise; for 8-bit moments CELLS_A and
// CELLS_B, words of the tables of cells.cuh, SCALE_A.. and MOST_A.., what plain8 says of them, FIRST_A and FIRST_B, the first cells of the whole tables, of CODES_A words.

#define ADAM 0
#define ADAM_TORCH 1
#define ADEMAMIX 2
#define LION 3
#define MOMENTUM 4
#define RMSPROP 5
#define ADAGRAD 6

#define NEAREST 0
#define STOCHASTIC 1
#define KAHAN 2

#define FMA __fmaf_rn

#ifdef BYES_EMULATE
INLINE float power(float beta, float log_beta, float t) { return beta == 0 ? 0.0f : (float)exp2((double)(t * log_beta)); }
INLINE float root(float x) { return sqrtf(x); }
INLINE float reciprocal(float x) { return 1.0f / x; }
#else
INLINE float power(float beta, float, float t) {
  float l, r;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(l) : "f"(beta));
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(t * l));
  return r;
}
INLINE float root(float x) {
  float r;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
INLINE float reciprocal(float x) { return rcp_approx(x); }
#endif

// Slot is what a launch knows of a tensor; Chunk is a part of one, a number of blocks of 256 elements from `start` in the slab on.
struct Slot {
  f64 scale, fixed;  // factor of the learning rate; the rate itself where it is not 0
  i64 offset, size;
  f32 decay;
  u32 site;
};
struct Chunk {
  i64 start;
  i32 tensor, blocks;
};

struct Hyper {
  f32 b1, b2, b3, n1, n2;     // n: one minus beta
  f32 log1, log2;             // logarithms of b1 and b2 to base 2, for the emulator
  f32 eps;
  f64 alpha, t_alpha, t_beta3, ln1, ln3, db1, db2, db3;
  u64 seed;
  i32 nesterov, pad;
};

struct Slab {
  P *p;
  const G *g;
  void *state[3];
  float *absmax[3];
  P *comp;
  const float *lr, *step, *gscale, *ok;
  const Slot *slots;
  const Chunk *chunks;
  const float *bound;  // of each tensor
  i64 count;
};

// Step is what all elements of a launch share.
struct Step {
  float t, gscale, c1, c2, factor;  // c: bias corrections, c2 its root; factor: of the learning rate
  float r1, r2;                     // reciprocals of c1 and c2
  float alpha, b3, n3;
  bool first;
};

INLINE Step make_step(const Slab &s, const Hyper &h) {
  Step e;
  e.t = s.step[0];
  e.gscale = s.gscale[0];
  e.first = e.t <= 1;
  e.factor = 1;
  e.alpha = (float)h.alpha;
  e.b3 = h.b3;
#if RULE == ADAM || RULE == ADEMAMIX
  e.c1 = 1.0f - power(h.b1, h.log1, e.t);
  e.c2 = root(1.0f - power(h.b2, h.log2, e.t));
  e.r1 = reciprocal(e.c1);
  e.r2 = reciprocal(e.c2);
#elif RULE == ADAM_TORCH
  e.c1 = (float)(1 - pow(h.db1, (f64)e.t));
  e.c2 = __fsqrt_rn((float)(1 - pow(h.db2, (f64)e.t)));
  e.factor = __fdiv_rn(1.0f, e.c1);
#endif
#if RULE == ADEMAMIX
  const f64 t = e.t;
  if (h.t_alpha > 0) e.alpha = (float)fmin(t * (h.alpha / h.t_alpha), h.alpha);
  if (h.t_beta3 > 0) {
    const f64 x = t / h.t_beta3;
    e.b3 = (float)fmin(exp(h.ln1 * h.ln3 / ((1 - x) * h.ln3 + x * h.ln1)), h.db3);
  }
#endif
  e.n3 = 1.0f - e.b3;
  return e;
}

// Rate is what the elements of a tensor share.
struct Rate {
  float lr, step, decay, wd, bound;
};

INLINE Rate make_rate(const Slab &s, const Hyper &h, const Step &e, i32 tensor) {
  const Slot &slot = s.slots[tensor];
  Rate r;
  r.lr = slot.fixed != 0 ? (float)slot.fixed : slot.scale == 1 ? s.lr[0] : (float)((f64)s.lr[0] * slot.scale);
  r.wd = slot.decay;
  r.decay = FMA(-r.lr, r.wd, 1.0f);
  r.bound = 1;
#if BOUND
  r.bound = s.bound[tensor];
#endif
#if RULE == ADAM
  r.step = (e.c2 * r.lr) * -e.r1 * r.bound;
#else
  r.step = r.lr * e.factor * r.bound;
#endif
  return r;
}

// narrowed rounds to the parameters' type between steps, where that is asked for.
INLINE float narrowed(float x) {
#if HALF && ROUNDING == NEAREST
  return widen<P>(narrow<P>(x));
#else
  return x;
#endif
}

// coupled adds the weight decay to a gradient; i is the element's place in its tensor.
INLINE float coupled(float raw, float p, const Rate &r, const Step &e, int i) {
#if EIGHT
  const float g = raw * e.gscale;
  return r.wd > 0 ? FMA(p, r.wd, g) : g;
#elif GHALF
  const float g = widen<G>(narrow<G>(raw * e.gscale));
  return r.wd > 0 ? widen<G>(narrow<G>(FMA(p, r.wd, g))) : g;
#else
  if (!(r.wd > 0)) return raw * e.gscale;
  return i % 4 == 0 ? FMA(p, r.wd, raw * e.gscale) : FMA(raw, e.gscale, p * r.wd);
#endif
}

// scaled is the gradient of rules whose decay is not coupled.
INLINE float scaled(float raw, const Step &e) {
#if !EIGHT && GHALF
  return widen<G>(narrow<G>(raw * e.gscale));
#else
  return raw * e.gscale;
#endif
}

INLINE float sign_of(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x; }

INLINE float squares(float v, float g, float b, float n) {
#if EIGHT && !HALF
  return FMA(g, n * g, v * b);
#elif EIGHT || RULE == ADEMAMIX
  return FMA(v, b, g * (g * n));
#else
  return FMA(v, b, (g * g) * n);
#endif
}

INLINE float average(float m, float g, float b, float n) {
#if EIGHT
  return FMA(g, n, m * b);
#else
  return FMA(m, b, g * n);
#endif
}

// direction moves the moments m of an element and gives the step's direction, a multiple of which is subtracted; that of ADAM is added, by a
// rate that is negative.
INLINE float direction(float (&m)[3], float g, const Hyper &h, const Step &e) {
#if RULE == ADAM
  m[0] = average(m[0], g, h.b1, h.n1);
  m[1] = squares(m[1], g, h.b2, h.n2);
  return m[0] * reciprocal(FMA(e.c2, h.eps, root(m[1])));
#elif RULE == ADAM_TORCH
  m[0] = FMA(m[0], h.b1, g * h.n1);
  m[1] = FMA(m[1], h.b2, (g * g) * h.n2);
  return __fdiv_rn(m[0], __fdiv_rn(__fsqrt_rn(m[1]), e.c2) + h.eps);
#elif RULE == ADEMAMIX
  m[0] = average(m[0], g, h.b1, h.n1);
  m[1] = squares(m[1], g, h.b2, h.n2);
  m[2] = average(m[2], g, e.b3, e.n3);
  return FMA(m[2], e.alpha, m[0] * e.r1) * reciprocal(FMA(root(m[1]), e.r2, h.eps));
#elif RULE == LION
  const float u = average(m[0], g, h.b1, h.n1);
  m[0] = average(m[0], g, h.b2, h.n2);
  return sign_of(u);
#elif RULE == MOMENTUM
#if MOMENTS == 0
  return g;
#else
  m[0] = e.first ? g : h.n1 == 1 ? FMA(m[0], h.b1, g) : FMA(m[0], h.b1, g * h.n1);
  return h.nesterov ? FMA(m[0], h.b1, g) : m[0];
#endif
#elif RULE == RMSPROP
  m[0] = EIGHT ? FMA(g * g, h.n1, m[0] * h.b1) : FMA(m[0], h.b1, g * (g * h.n1));
  return g * reciprocal(root(m[0]) + h.eps);
#else
  m[0] = FMA(g, g, m[0]);
  return g * reciprocal(root(m[0]) + h.eps);
#endif
}

// moved is the parameter after the step and a decoupled decay.
INLINE float moved(float p, float d, const Rate &r) {
#if RULE == ADAM
  p = FMA(r.step, d, p);
#elif RULE == LION
#if !EIGHT && !HALF && !SKIP
  if (r.wd > 0) return FMA(p, r.decay, -(d * r.lr * r.bound));
#endif
  if (r.wd > 0) p = narrowed(p * r.decay);
#if EIGHT
  return p - narrowed(d * r.step);
#else
  return FMA(d * r.lr, -r.bound, p);
#endif
#elif RULE == ADAM_TORCH
  if (r.wd > 0) p = narrowed(p * r.decay);
  return p - r.step * d;
#elif !EIGHT && (RULE == RMSPROP || RULE == MOMENTUM)
  return FMA(d * r.lr, -r.bound, p);
#else
  p = FMA(-d, r.step, p);
#endif
#if RULE == ADAM || RULE == ADEMAMIX
  if (r.wd > 0) p = narrowed(p) * r.decay;
#endif
  return p;
}

#if RULE == MOMENTUM || RULE == RMSPROP || RULE == ADAGRAD
#define COUPLED 1
#else
#define COUPLED 0
#endif

#define WIDTH (HALF && GHALF && (EIGHT || MOMENTS == 0) ? 8 : 4)  // elements of an access
#define GROUPS (8 / WIDTH)

// Lane is a lane's eight elements of a block: GROUPS packs of WIDTH, 32*WIDTH elements apart.
struct Lane {
  float p[8], g[8], m[3][8];
#if ROUNDING == KAHAN && HALF
  float comp[8];
#endif
};

INLINE int place(int j) { return (j / WIDTH * WARP + lane()) * WIDTH + j % WIDTH; }

template <class T> INLINE void load_lane(float (&v)[8], const T *x) {
#pragma unroll
  for (int q = 0; q < GROUPS; q++) {
    const Pack<T, WIDTH> k = load_pack<WIDTH>(x + place(q * WIDTH));
#pragma unroll
    for (int i = 0; i < WIDTH; i++) v[q * WIDTH + i] = widen<T>(k.v[i]);
  }
}

#if EIGHT
// The text after this file defines the books: that of moments with a sign, and that of squares.
namespace moments_book {
INLINE const u32 *plain_table();
INLINE const u32 *code_cells();
INLINE float book_value(int code);
}
namespace squares_book {
INLINE const u32 *plain_table();
INLINE const u32 *code_cells();
INLINE float book_value(int code);
}

struct Books {
  const u32 *cells[2];  // in shared memory
  const float *values[2];
};

// fetch_moments decodes the moments of a block.
INLINE void fetch_moments(Lane &l, const Slab &s, const Books &b, i64 at) {
#pragma unroll
  for (int k = 0; k < MOMENTS; k++) {
    const float top = s.absmax[k][at / 256];
    const u8 *codes = static_cast<const u8 *>(s.state[k]) + at;
#pragma unroll
    for (int q = 0; q < GROUPS; q++) {
      const Pack<u8, WIDTH> c = load_pack<WIDTH>(codes + place(q * WIDTH));
#pragma unroll
      for (int i = 0; i < WIDTH; i++) l.m[k][q * WIDTH + i] = b.values[k == 1][c.v[i]] * top;
    }
  }
}

// encoded_moment and encoded_square are the code of a moment scaled to q, at most 1 in magnitude, by the whole table in memory: a cell, by the upper half of its
// bits, has the codes on both sides of a border.
INLINE u32 encoded_moment(float q) {
  const u32 *cells = moments_book::code_cells();
  const u32 b = __float_as_uint(q), m = b >> 16 & 0x7fff;
  const u32 cell = cells[(m > FIRST_A ? m - FIRST_A : 0) + (b >> 31) * (CODES_A / 2)];
  return ((b & 0xffff) > cell >> 16 ? cell >> 8 : cell) & 255;
}
INLINE u32 encoded_square(float q) {
  const u32 *cells = squares_book::code_cells();
  const u32 b = __float_as_uint(q), m = b >> 16 & 0x7fff;
  const u32 cell = cells[m > FIRST_B ? m - FIRST_B : 0];
  return ((b & 0xffff) > cell >> 16 ? cell >> 8 : cell) & 255;
}

// keep_plain encodes moment k of a full block whose largest magnitude is an ordinary number.
INLINE void keep_plain(const Lane &l, u8 *codes, const Books &b, int k, float top) {
  const float r = mul_ftz(rcp_approx(top), k == 1 ? SCALE_B : SCALE_A);
#pragma unroll
  for (int q = 0; q < GROUPS; q++) {
    Pack<u32, WIDTH / 4> words;
#pragma unroll
    for (int i = 0; i < WIDTH; i += 4) {
      const float *x = l.m[k] + q * WIDTH + i;
      u32 s[4];
#pragma unroll
      for (int j = 0; j < 4; j++) s[j] = k == 1 ? coded_square(mul_ftz(x[j], r), b.cells[1]) : coded_sum(mul_ftz(x[j], r), b.cells[0]);
      words.v[i / 4] = k == 1 ? third_bytes(s) : third_bytes(s) ^ sign_bytes(x[0], x[1], x[2], x[3]);
    }
    store_pack(reinterpret_cast<u32 *>(codes + place(q * WIDTH)), words);
  }
}

// keep_moments encodes them. Elements from `left` on are padding; there are none in a PLAIN block.
template <bool PLAIN> INLINE void keep_moments(Lane &l, const Slab &s, const Books &b, i64 at, int left) {
#pragma unroll
  for (int k = 0; k < MOMENTS; k++) {
    float top = 0;
#pragma unroll
    for (int j = 0; j < 8; j++)
      if (PLAIN || place(j) < left) top = fmaxf(top, fabsf(l.m[k][j]));
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) top = fmaxf(top, __shfl_xor_sync(FULL, top, d));
    if (lane() == 0) s.absmax[k][at / 256] = top;
    u8 *codes = static_cast<u8 *>(s.state[k]) + at;
    if (PLAIN && top >= 1.17549435e-38f && top <= (k == 1 ? MOST_B : MOST_A)) {
      keep_plain(l, codes, b, k, top);
      continue;
    }
    const bool none = !(top >= 1.17549435e-38f);  // zeros, or what counts as such: 0 times infinity has no place among the cells
    const float r = none ? 0.0f : rcp_approx(top);
#pragma unroll
    for (int q = 0; q < GROUPS; q++) {
      Pack<u8, WIDTH> c;
      if (!PLAIN) c = load_pack<WIDTH>(codes + place(q * WIDTH));  // padding stays
#pragma unroll
      for (int i = 0; i < WIDTH; i++) {
        const int j = q * WIDTH + i;
        const float x = l.m[k][j], y = mul_ftz(x, r);
        u32 code = k == 1 ? encoded_square(y) : encoded_moment(y);
        if (none) code = k == 1 ? 0 : __float_as_uint(x) >> 31 ? 0 : x > 0 ? 1 : 255;  // the sign of code 0 is negative
        if (PLAIN || place(j) < left) c.v[i] = (u8)code;
      }
      store_pack(codes + place(q * WIDTH), c);
    }
  }
}
#else
struct Books {};

INLINE void fetch_moments(Lane &l, const Slab &s, const Books &, i64 at) {
#pragma unroll
  for (int k = 0; k < MOMENTS; k++) load_lane(l.m[k], static_cast<const float *>(s.state[k]) + at);
}

template <bool PLAIN> INLINE void keep_moments(Lane &l, const Slab &s, const Books &, i64 at, int) {
#pragma unroll
  for (int k = 0; k < MOMENTS; k++)
#pragma unroll
    for (int q = 0; q < GROUPS; q++) {
      Pack<float, WIDTH> v;
#pragma unroll
      for (int i = 0; i < WIDTH; i++) v.v[i] = l.m[k][q * WIDTH + i];
      store_pack(static_cast<float *>(s.state[k]) + at + place(q * WIDTH), v);
    }
}
#endif

INLINE void fetch(Lane &l, const Slab &s, const Books &b, i64 at) {
  load_lane(l.p, s.p + at);
  load_lane(l.g, s.g + at);
#if ROUNDING == KAHAN && HALF
  load_lane(l.comp, s.comp + at);
#endif
  fetch_moments(l, s, b, at);
}

// call brings the lines of an address to the last cache; ahead those of the block that a warp takes after the one at `at`.
INLINE void call(const void *at) {
#ifndef BYES_EMULATE
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#endif
}
INLINE void ahead(const Slab &s, i64 at) {
  const int step = THREADS / WARP * 256;
#pragma unroll
  for (int q = 0; q < GROUPS; q++) {
    call(s.p + at + place(q * WIDTH) + step);
    call(s.g + at + place(q * WIDTH) + step);
#pragma unroll
    for (int k = 0; k < MOMENTS; k++) call(static_cast<const u8 *>(s.state[k]) + at + place(q * WIDTH) + step);
  }
}

// used tells whether an element is moved. Where its gradient is not finite 8-bit moments become zero.
INLINE bool used(float g, bool inside) {
#if SKIP
  inside = inside && g != 0;
#endif
#if EIGHT
  inside = inside && g - g == 0;
#endif
  return inside;
}

// odd is not 0 where a value is infinite or NaN: what was 0 before stays 0 by finite ones.
INLINE float odd(float before, float x) { return FMA(x, 0.0f, before); }

// held clears 8-bit moments that are not finite, all of an element's if one is not.
INLINE void held(Lane &l, int j) {
#if EIGHT
  bool finite = true;
#pragma unroll
  for (int k = 0; k < MOMENTS; k++) finite = finite && l.m[k][j] - l.m[k][j] == 0;
#pragma unroll
  for (int k = 0; k < MOMENTS; k++)
    if (!finite) l.m[k][j] = 0;
#endif
}

// advance steps element j of a lane, whose scaled gradient is g.
INLINE void advance(Lane &l, int j, float g, const Hyper &h, const Step &e, const Rate &r) {
  float m[3], p = l.p[j];
#pragma unroll
  for (int k = 0; k < MOMENTS; k++) m[k] = l.m[k][j];
#if ROUNDING == KAHAN && HALF
  p += l.comp[j];
#endif
  const float d = direction(m, COUPLED ? coupled(l.g[j], p, r, e, j) : g, h, e);
  l.p[j] = moved(p, d, r);
#pragma unroll
  for (int k = 0; k < MOMENTS; k++) l.m[k][j] = m[k];
}

// move steps the elements of a lane; bit j of the result tells that element j was moved. In a PLAIN block all are.
template <bool PLAIN> INLINE u32 move(Lane &l, const Hyper &h, const Step &e, const Rate &r, int left) {
  u32 touched = 0;
  float bad = 0;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const float g = scaled(l.g[j], e);
    const bool inside = PLAIN || place(j) < left;
    if (PLAIN || used(g, inside)) {
      touched |= 1u << j;
      advance(l, j, g, h, e, r);
#if EIGHT
    } else if (!inside || g - g != 0) {  // padding too: its codes stay, and what is encoded must not exceed the block's largest
#pragma unroll
      for (int k = 0; k < MOMENTS; k++) l.m[k][j] = 0;
#endif
    }
#if EIGHT
#pragma unroll
    for (int k = 0; k < MOMENTS; k++) bad = odd(bad, l.m[k][j]);
#endif
  }
  if (EIGHT && bad != 0)
#pragma unroll
    for (int j = 0; j < 8; j++) held(l, j);
  return touched;
}

// keep_parameters rounds and writes them.
INLINE void keep_parameters(Lane &l, const Slab &s, const Hyper &h, const Step &e, const Slot &slot, i64 at, u32 touched) {
#pragma unroll
  for (int q = 0; q < GROUPS; q++) {
#if ROUNDING == NEAREST && HALF
    Pack<u32, WIDTH / 2> two;
#pragma unroll
    for (int i = 0; i < WIDTH; i += 2) two.v[i / 2] = narrow_pair<P>(l.p[q * WIDTH + i], l.p[q * WIDTH + i + 1]);
    store_pack(reinterpret_cast<u32 *>(s.p + at + place(q * WIDTH)), two);
    continue;
#endif
    Pack<P, WIDTH> v;
#if ROUNDING == KAHAN && HALF
    Pack<P, WIDTH> c;
#endif
#if ROUNDING == STOCHASTIC && HALF
    const i64 inside = at - slot.offset + place(q * WIDTH);
    const Words w = rounding_words(h.seed, (u32)e.t, slot.site, (u32)(inside / 8));
#endif
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
      const int j = q * WIDTH + i;
#if ROUNDING == STOCHASTIC && HALF
      v.v[i] = touched >> j & 1 ? round_randomly(P(), l.p[j], rounding_bits(w, (int)(inside & 7) + i)) : narrow<P>(l.p[j]);
#else
      v.v[i] = narrow<P>(l.p[j]);
#endif
#if ROUNDING == KAHAN && HALF
      c.v[i] = narrow<P>(touched >> j & 1 ? l.p[j] - widen<P>(v.v[i]) : l.comp[j]);
#endif
    }
    store_pack(s.p + at + place(q * WIDTH), v);
#if ROUNDING == KAHAN && HALF
    store_pack(s.comp + at + place(q * WIDTH), c);
#endif
  }
}

template <bool PLAIN> INLINE void step_block(Lane &l, const Slab &s, const Hyper &h, const Books &b, const Step &e, const Slot &slot, const Rate &r, i64 at, int left) {
  const u32 touched = move<PLAIN>(l, h, e, r, left);
  keep_parameters(l, s, h, e, slot, at, touched);
  keep_moments<PLAIN>(l, s, b, at, left);
}

// plain tells whether all elements of a block are moved.
INLINE bool plain(const Lane &l, const Step &e, int left) {
  float bad = 0;
#if EIGHT
#pragma unroll
  for (int j = 0; j < 8; j++) bad = odd(bad, scaled(l.g[j], e));
#endif
  return !__any_sync(FULL, SKIP || left < 256 || bad != 0);
}

INLINE int elements_left(const Slot &slot, i64 at) {
  const i64 left = slot.offset + slot.size - at;
  return left < 256 ? (int)left : 256;
}

// Warps of a block share a chunk, each taking one block of 256 elements after another; blocks of threads stay and take chunk after chunk.
KERNEL __launch_bounds__(THREADS, MOMENTS == 3 ? 2 : (EIGHT && MOMENTS == 2) || ROUNDING != 0 ? 3 : 4) optimizer_step(Slab s, Hyper h) {
  if (!(s.ok[0] > 0)) return;
  Books books;
#if EIGHT
  SHARED_DYNAMIC(u32, table);
  float *values = reinterpret_cast<float *>(table + CELLS_A + CELLS_B);
  for (int i = threadIdx.x; i < CELLS_A; i += blockDim.x) table[i] = moments_book::plain_table()[i];
  for (int i = threadIdx.x; i < CELLS_B; i += blockDim.x) table[CELLS_A + i] = squares_book::plain_table()[i];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) {
    values[i] = moments_book::book_value(i);
    values[256 + i] = squares_book::book_value(i);
  }
  __syncthreads();
  books.cells[0] = table;
  books.cells[1] = table + CELLS_A;
  books.values[0] = values;
  books.values[1] = values + 256;
#endif
  const Step e = make_step(s, h);
  const int warp = threadIdx.x / WARP, warps = THREADS / WARP;
  Chunk chunk, next = s.chunks[blockIdx.x];  // read a chunk ahead
  Slot slot;
  Rate r;
  chunk.tensor = -1;
  for (i64 c = blockIdx.x; c < s.count; c += gridDim.x) {
    if (next.tensor != chunk.tensor) {
      slot = s.slots[next.tensor];
      r = make_rate(s, h, e, next.tensor);
    }
    chunk = next;
    if (c + gridDim.x < s.count) next = s.chunks[c + gridDim.x];
    for (int b = warp; b < chunk.blocks; b += warps) {
      const i64 at = chunk.start + (i64)b * 256;
      const int left = elements_left(slot, at);
      Lane l;
      fetch(l, s, books, at);
      if (b + warps < chunk.blocks) ahead(s, at);
      if (plain(l, e, left))
        step_block<true>(l, s, h, books, e, slot, r, at, left);
      else
        step_block<false>(l, s, h, books, e, slot, r, at, left);
    }
  }
}

// optimizer_norms adds up, for each chunk, the squares of the parameters and of the step over the rate without decay.
KERNEL __launch_bounds__(THREADS) optimizer_norms(Slab s, Hyper h, f64 *sums) {
  if (!(s.ok[0] > 0)) return;
  Books books;
#if EIGHT
  __shared__ float values[512];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) {
    values[i] = moments_book::book_value(i);
    values[256 + i] = squares_book::book_value(i);
  }
  __syncthreads();
  books.values[0] = values;
  books.values[1] = values + 256;
#endif
  const Step e = make_step(s, h);
  Rate r;
  r.wd = 0;
  const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  for (i64 c = blockIdx.x; c < s.count; c += gridDim.x) {
    const Chunk chunk = s.chunks[c];
    f64 p2 = 0, d2 = 0;
    for (int b = warp; b < chunk.blocks; b += warps) {
      const i64 at = chunk.start + (i64)b * 256;
      const int left = elements_left(s.slots[chunk.tensor], at);
      Lane l;
      fetch(l, s, books, at);
#pragma unroll
      for (int j = 0; j < 8; j++) {
        if (place(j) >= left) continue;
        float g = scaled(l.g[j], e), m[3];
        const bool finite = !EIGHT || g - g == 0;
        if (!finite) g = 0;
#pragma unroll
        for (int k = 0; k < MOMENTS; k++) m[k] = finite ? l.m[k][j] : 0;
        float p = l.p[j];
#if ROUNDING == KAHAN && HALF
        p += l.comp[j];
#endif
        float d = direction(m, g, h, e);
#if RULE == ADAM
        d = d * e.c2 * e.r1;
#else
        d = d * e.factor;
#endif
        p2 += (f64)p * p;
        d2 += (f64)d * d;
      }
    }
    p2 = block_reduce<Sum>(p2, 0.0);
    d2 = block_reduce<Sum>(d2, 0.0);
    if (threadIdx.x == 0) {
      sums[2 * c] = p2;
      sums[2 * c + 1] = d2;
    }
  }
}

// optimizer_bounds turns the sums of a tensor's chunks, which follow each other from first[i] on, into the factor that keeps its step within
// max_unorm times the norm of its parameters, and writes the squared norm of the step. One warp a tensor.
KERNEL optimizer_bounds(const f64 *sums, const i32 *first, const float *ok, float *unorm, float *bound, f64 most, f64 eps, i32 tensors) {
  if (!(ok[0] > 0)) return;
  const int i = (int)((blockIdx.x * blockDim.x + threadIdx.x) / WARP);
  if (i >= tensors) return;
  f64 p2 = 0, d2 = 0;
  for (int c = first[i] + lane(); c < first[i + 1]; c += WARP) {
    p2 += sums[2 * c];
    d2 += sums[2 * c + 1];
  }
  p2 = warp_reduce<Sum>(p2);
  d2 = warp_reduce<Sum>(d2);
  if (lane() != 0) return;
  const f64 limit = most * sqrt(p2) + eps, norm = sqrt(d2);
  unorm[i] = (float)d2;
  bound[i] = norm > limit && p2 > 0 ? (float)(limit / norm) : 1.0f;
}
