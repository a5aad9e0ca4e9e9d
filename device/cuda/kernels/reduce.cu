// Reductions of T to OUT, after walk.cuh. RED is one of the structs below and A what it computes in. A result is the merger of what
// threads took in order, in an order that follows from the shape.

template <class V> struct Numbers {
  static __device__ __forceinline__ V least() { return (V)-1 < 0 ? (V)0x8000000000000000ull : (V)0; }
  static __device__ __forceinline__ V most() { return (V)-1 < 0 ? (V)0x7fffffffffffffffull : (V)0xffffffffffffffffull; }
};
template <> struct Numbers<f32> {
  static __device__ __forceinline__ f32 least() { return -INF; }
  static __device__ __forceinline__ f32 most() { return INF; }
};
template <> struct Numbers<f64> {
  static __device__ __forceinline__ f64 least() { return -(f64)INF; }
  static __device__ __forceinline__ f64 most() { return (f64)INF; }
};

template <class V> INLINE V from_lane(V x, int d) { return __shfl_xor_sync(FULL, x, d); }

template <class V> struct RedSum {
  typedef V Acc;
  static __device__ __forceinline__ V none() { return 0; }
  static __device__ __forceinline__ void add(V &a, V x, i64) { a += x; }
  static __device__ __forceinline__ void merge(V &a, V b) { a += b; }
  static __device__ __forceinline__ V lane(V x, int d) { return from_lane(x, d); }
  static __device__ __forceinline__ V result(V a) { return a; }
};
template <class V> struct RedProd : RedSum<V> {
  static __device__ __forceinline__ V none() { return 1; }
  static __device__ __forceinline__ void add(V &a, V x, i64) { a *= x; }
  static __device__ __forceinline__ void merge(V &a, V b) { a *= b; }
};
template <class V> struct RedMax : RedSum<V> {
  static __device__ __forceinline__ V none() { return Numbers<V>::least(); }
  static __device__ __forceinline__ void add(V &a, V x, i64) { a = Max::of(a, x); }
  static __device__ __forceinline__ void merge(V &a, V b) { a = Max::of(a, b); }
};
template <class V> struct RedMin : RedSum<V> {
  static __device__ __forceinline__ V none() { return Numbers<V>::most(); }
  static __device__ __forceinline__ void add(V &a, V x, i64) { a = Min::of(a, x); }
  static __device__ __forceinline__ void merge(V &a, V b) { a = Min::of(a, b); }
};

// Found is an element and where it is, at < 0 for none yet.
template <class V> struct Found { V x; i64 at; };

// RedArg finds the first of the elements that no other beats; NaN beats all numbers.
template <class V, bool MOST> struct RedArg {
  typedef Found<V> Acc;
  static __device__ __forceinline__ Acc none() { Acc a; a.x = 0; a.at = -1; return a; }
  static __device__ __forceinline__ void add(Acc &a, V x, i64 at) { Acc b; b.x = x; b.at = at; merge(a, b); }
  static __device__ __forceinline__ void merge(Acc &a, const Acc &b) {
    if (b.at < 0) return;
    bool better = MOST ? b.x > a.x : b.x < a.x;
    bool nan = b.x != b.x, held = a.x != a.x;
    if (nan || held) better = nan && (!held || b.at < a.at);
    else if (b.x == a.x) better = b.at < a.at;
    if (a.at < 0 || better) a = b;
  }
  static __device__ __forceinline__ Acc lane(const Acc &a, int d) { Acc b; b.x = from_lane(a.x, d); b.at = from_lane(a.at, d); return b; }
  static __device__ __forceinline__ i64 result(const Acc &a) { return a.at; }
};
template <class V> struct RedArgMax : RedArg<V, true> {};
template <class V> struct RedArgMin : RedArg<V, false> {};

typedef RED<A> Red;
typedef Red::Acc Acc_;
enum { N = sizeof(T) >= 2 ? 16 / sizeof(T) : 8 };

INLINE A widened(f64 x) { return (A)x; }
INLINE A widened(f32 x) { return (A)x; }
INLINE A widened(bf16 x) { return (A)to_float(x); }
INLINE A widened(f16 x) { return (A)to_float(x); }
template <class V> INLINE A widened(V x) { return (A)x; }

// stored rounds a float, and saturates an integer that is narrower than 64 bits.
template <class O> struct Stored {
  template <class V> static __device__ __forceinline__ O of(V x) {
    if (sizeof(O) == 8) return (O)x;
    const i64 top = (O)-1 < (O)0 ? ((i64)1 << (8 * sizeof(O) - 1)) - 1 : ((i64)1 << (8 * sizeof(O) % 64)) - 1;
    const i64 low = (O)-1 < (O)0 ? -top - 1 : 0;
    i64 v = (i64)x;
    return (O)(v < low ? low : v > top ? top : v);
  }
};
template <> struct Stored<f64> { static __device__ __forceinline__ f64 of(f64 x) { return x; } };
template <> struct Stored<f32> { template <class V> static __device__ __forceinline__ f32 of(V x) { return (f32)x; } };
template <> struct Stored<bf16> { template <class V> static __device__ __forceinline__ bf16 of(V x) { return narrow<bf16>((f32)x); } };
template <> struct Stored<f16> { template <class V> static __device__ __forceinline__ f16 of(V x) { return narrow<f16>((f32)x); } };

// Sink is where results go: finished to y, or as they are to `part` where an output's elements were cut into chunks.
struct Sink { OUT *y; Acc_ *part; };
INLINE void drain(const Sink &s, i64 at, const Acc_ &a) {
  if (s.part) s.part[at] = a;
  else s.y[at] = Stored<OUT>::of(Red::result(a));
}

// gather merges the accumulators of a group of G threads of a block, in a fixed order; the group's first thread has the result.
template <int G> INLINE Acc_ gather(Acc_ a) {
#pragma unroll
  for (int d = (G < WARP ? G : WARP) / 2; d > 0; d /= 2) {
    Acc_ b = Red::lane(a, d);
    Red::merge(a, b);
  }
  if (G <= WARP) return a;
  __shared__ Acc_ part[32];
  __syncthreads();
  if (lane() == 0) part[threadIdx.x / WARP] = a;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 1; w < G / WARP; w++) Red::merge(a, part[w]);
  return a;
}

// rows reduces (outer, red) along the second axis, in chunks of `each`: a group of G threads takes a chunk of a row.
template <int G, int W> INLINE void rows(const Sink &s, const T *x, i64 outer, i64 red, i64 chunks, i64 each) {
  const int member = threadIdx.x % G, groups = blockDim.x / G;
  for (i64 item = (i64)blockIdx.x * groups + threadIdx.x / G; item < outer * chunks; item += (i64)gridDim.x * groups) {
    const i64 o = item / chunks, lo = item % chunks * each, hi = lo + each < red ? lo + each : red;
    const T *row = x + o * red;
    Acc_ a[W];
#pragma unroll
    for (int j = 0; j < W; j++) a[j] = Red::none();
#pragma unroll 4
    for (i64 i = lo + (i64)member * W; i < hi; i += G * W) {
      Pack<T, W> p = load_pack<W>(row + i);
#pragma unroll
      for (int j = 0; j < W; j++) Red::add(a[j], widened(p.v[j]), i + j);
    }
#pragma unroll
    for (int j = 1; j < W; j++) Red::merge(a[0], a[j]);
    Acc_ r = gather<G>(a[0]);
    if (member == 0) drain(s, item, r);
  }
}

KERNEL rows_thread(OUT *y, Acc_ *part, const T *x, i64 outer, i64 red, i64 chunks, i64 each) {
  Sink s = {y, part};
  rows<1, 1>(s, x, outer, red, chunks, each);
}
KERNEL rows_warp(OUT *y, Acc_ *part, const T *x, i64 outer, i64 red, i64 chunks, i64 each) {
  Sink s = {y, part};
  rows<WARP, 1>(s, x, outer, red, chunks, each);
}
KERNEL rows_warp_packs(OUT *y, Acc_ *part, const T *x, i64 outer, i64 red, i64 chunks, i64 each) {
  Sink s = {y, part};
  rows<WARP, N>(s, x, outer, red, chunks, each);
}
KERNEL rows_block(OUT *y, Acc_ *part, const T *x, i64 outer, i64 red, i64 chunks, i64 each) {
  Sink s = {y, part};
  rows<256, 1>(s, x, outer, red, chunks, each);
}
KERNEL rows_block_packs(OUT *y, Acc_ *part, const T *x, i64 outer, i64 red, i64 chunks, i64 each) {
  Sink s = {y, part};
  rows<256, N>(s, x, outer, red, chunks, each);
}

// pile merges the accumulators of a block's rows of `wide` threads, in a fixed order; those of row 0 have the results. part is 256 * W.
template <int W> INLINE void pile(Acc_ (&a)[W], Acc_ *part, int wide) {
  const int row = threadIdx.x / wide;
  for (int half = 256 / wide / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row >= half && row < 2 * half) {
#pragma unroll
      for (int j = 0; j < W; j++) part[j * 256 + threadIdx.x] = a[j];
    }
    __syncthreads();
    if (row < half) {
#pragma unroll
      for (int j = 0; j < W; j++) Red::merge(a[j], part[j * 256 + threadIdx.x + half * wide]);
    }
  }
}

// columns reduces (outer, red, inner) along the second axis, in chunks of `each` rows. A block of 256 threads takes `wide` packs of W
// neighbours, a power of two up to 32, and 256/wide rows at a time.
template <int W> INLINE void columns(const Sink &s, const T *x, i64 outer, i64 red, i64 inner, i64 chunks, i64 each, int wide) {
  __shared__ Acc_ part[256 * W];
  const int column = threadIdx.x % wide, row = threadIdx.x / wide, rows_at_once = 256 / wide;
  const i64 packs = inner / W, strips = (packs + wide - 1) / wide;
  for (i64 item = blockIdx.x; item < outer * chunks * strips; item += gridDim.x) {
    const i64 c = item % strips * wide + column, k = item / strips % chunks, o = item / strips / chunks;
    const i64 lo = k * each, hi = lo + each < red ? lo + each : red;
    Acc_ a[W];
#pragma unroll
    for (int j = 0; j < W; j++) a[j] = Red::none();
    if (c < packs) {
#pragma unroll 4
      for (i64 r = lo + row; r < hi; r += rows_at_once) {
        Pack<T, W> p = load_pack<W>(x + (o * red + r) * inner + c * W);
#pragma unroll
        for (int j = 0; j < W; j++) Red::add(a[j], widened(p.v[j]), r);
      }
    }
    pile<W>(a, part, wide);
    if (row == 0 && c < packs) {
#pragma unroll
      for (int j = 0; j < W; j++) drain(s, (o * chunks + k) * inner + c * W + j, a[j]);
    }
    __syncthreads();
  }
}

KERNEL columns_one(OUT *y, Acc_ *part, const T *x, i64 outer, i64 red, i64 inner, i64 chunks, i64 each, i32 wide) {
  Sink s = {y, part};
  columns<1>(s, x, outer, red, inner, chunks, each, wide);
}
KERNEL columns_packs(OUT *y, Acc_ *part, const T *x, i64 outer, i64 red, i64 inner, i64 chunks, i64 each, i32 wide) {
  Sink s = {y, part};
  columns<N>(s, x, outer, red, inner, chunks, each, wide);
}

// apart reduces elements that no run of axes holds: output o begins at walk(kept, o), its element i lies walk(reduced, i) further. A block
// takes a chunk of an output.
KERNEL apart(OUT *y, Acc_ *part, const T *x, i64 outputs, i64 red, i64 chunks, i64 each, Axes kept, Steps kept_at, Axes reduced, Steps reduced_at) {
  Sink s = {y, part};
  for (i64 item = blockIdx.x; item < outputs * chunks; item += gridDim.x) {
    const i64 lo = item % chunks * each, hi = lo + each < red ? lo + each : red;
    const T *base = x + walk_all(kept, kept_at, item / chunks);
    Acc_ a = Red::none();
    for (i64 i = lo + threadIdx.x; i < hi; i += 256) Red::add(a, widened(base[walk_all(reduced, reduced_at, i)]), i);
    a = gather<256>(a);
    if (threadIdx.x == 0) drain(s, item, a);
  }
}

#define NEIGHBOURS 8  // outputs of a block of finish_columns: 32 bytes of float32, as little as memory reads

// finish_columns merges the chunks of (outer, chunks, inner): a block of 256 threads takes neighbours, and 32 chunks of each at once.
KERNEL finish_columns(OUT *y, const Acc_ *part, i64 outer, i64 chunks, i64 inner) {
  __shared__ Acc_ held[256];
  Sink s = {y, 0};
  const i64 strips = (inner + NEIGHBOURS - 1) / NEIGHBOURS;
  for (i64 item = blockIdx.x; item < outer * strips; item += gridDim.x) {
    const i64 o = item / strips, c = item % strips * NEIGHBOURS + threadIdx.x % NEIGHBOURS;
    Acc_ a[1] = {Red::none()};
    if (c < inner) {
#pragma unroll 8
      for (i64 k = threadIdx.x / NEIGHBOURS; k < chunks; k += 256 / NEIGHBOURS) Red::merge(a[0], part[(o * chunks + k) * inner + c]);
    }
    pile<1>(a, held, NEIGHBOURS);
    if (threadIdx.x < NEIGHBOURS && c < inner) drain(s, o * inner + c, a[0]);
    __syncthreads();
  }
}

// finish merges the chunks of (outer, chunks, inner): a warp takes an output.
KERNEL finish(OUT *y, const Acc_ *part, i64 outer, i64 chunks, i64 inner) {
  Sink s = {y, 0};
  const int warps = blockDim.x / WARP;
  for (i64 o = (i64)blockIdx.x * warps + threadIdx.x / WARP; o < outer * inner; o += (i64)gridDim.x * warps) {
    const Acc_ *from = part + o / inner * chunks * inner + o % inner;
    Acc_ a = Red::none();
    for (i64 k = lane(); k < chunks; k += WARP) Red::merge(a, from[k * inner]);
    a = gather<WARP>(a);
    if (lane() == 0) drain(s, o, a);
  }
}
