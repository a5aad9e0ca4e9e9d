// y (m, n) = c + x (m, k)·Wᵀ for few rows of x and weights (n, k) in 4 bits, read once as they are stored. Values are rounded to T and products
// summed in float32. c is null or where y is or apart from it. With LOW, the type of B, c may be s·Bᵀ instead, of an adapter, with s (m, rank) in T and the
// values of B (n, rank) times alpha in float32, rounded to T. With BIAS, the type of n values that may be added to each row, those are rounded to T, too.

#define PARTS_MOST 4
#ifndef PARTS
#define PARTS 1  // products of x that a launch of quant_thin has
#endif

// Part is one product. Its blocks of weights hold 1 << shift; SHIFT, if it is defined, is that of all. It begins with block `first` of the launch.
struct Part {
  const u8 *codes;
  Scales scales;
  const void *s, *b;  // s is null where there is no adapter
  const T *c;
  const void *bias;  // null where there is none
  T *y;
  float alpha;
  i32 rank, n, first, shift, blocksize;
};
struct Parts { Part of[PARTS_MOST]; };

#ifdef LOW
template <class A> INLINE float low_eight(float sum, const T *s, const A *b, float alpha) {
  const Eight<T> u = load_eight(s);
  const Eight<A> v = load_eight(b);
#pragma unroll
  for (int i = 0; i < 8; i++) sum += u.at(i) * widen<T>(narrow<T>(__fmul_rn(alpha, v.at(i))));
  return sum;
}

// low is row r of s times row `column` of B.
INLINE float low(const Part &p, i32 r, i32 column) {
  const T *s = static_cast<const T *>(p.s) + (i64)r * p.rank;
  const LOW *b = static_cast<const LOW *>(p.b) + (i64)column * p.rank;
  float sum = 0;
  if (p.rank % 8 == 0 && ((size_t)p.s | (size_t)p.b) % 16 == 0) {
    for (int i = 0; i < p.rank; i += 8) sum = low_eight(sum, s + i, b + i, p.alpha);
    return sum;
  }
  for (int i = 0; i < p.rank; i++) sum += widen<T>(s[i]) * widen<T>(narrow<T>(__fmul_rn(p.alpha, widen<LOW>(b[i]))));
  return sum;
}
#endif

// biased is a sum with the bias of a column.
INLINE float biased(const Part &p, float sum, i32 column) {
#ifdef BIAS
  if (p.bias) sum += widen<T>(narrow<T>(widen<BIAS>(static_cast<const BIAS *>(p.bias)[column])));
#endif
  return sum;
}

#ifdef TENSOR_CORES
// quant_thin: m <= 8*COLUMNS, k a multiple of 32, x aligned to 16 bytes, blocks of a power of two of at least 32. A block of WARPS warps
// takes 16 rows of one weight, its warps share k in steps of 128; BLOCKS of them fit a multiprocessor. Within a step lane 4g + t has the
// 32 elements from 32t on of rows g and g + 8 of the weight, and of row g of x: products of a tensor-core step may be summed in any order
// as long as both operands are permuted alike, so each lane reads whole 16-byte words.
#define STEP 128
#ifndef PERMUTED
#define PERMUTED (COLUMNS > 1)  // row g is decoded by permutations and row g + 8 by shuffles, so that the pipes of both are at work; 0: both by shuffles
#endif
// LEAN has fewer loads, for m <= 2 and rows of up to 256 blocks: the map of nested scales lies in shared memory, the two scales of scales that a row may have are read once, and
// a lane reads an eighth of its columns of x in each step, those of one of four sums: in sum q columns q and 4 + q are of use.
#ifndef LEAN
#define LEAN 0
#endif
#ifndef EVEN
#define EVEN 0  // k is a multiple of STEP
#endif

// load_codes leaves the first cache to what is read again: x, scales and their map.
INLINE Pack<u32, 4> load_codes(const u8 *p) {
#if defined(BYES_EMULATE)
  return load_pack<4>(reinterpret_cast<const u32 *>(p));
#else
  Pack<u32, 4> r;
  asm("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.v[0]), "=r"(r.v[1]), "=r"(r.v[2]), "=r"(r.v[3]) : "l"(p));
  return r;
#endif
}

// Rows are the codes and scales of a lane in one step.
struct Rows {
  Pack<u32, 4> code[2];
  Scale scale[2];
#ifdef NESTED
  float outer[2];
#endif
};

// Outer are the scales of scales of a lane's rows: of the columns before an edge, and of the others.
struct Outer {
  i32 edge[2];
  float before[2], after[2];
};

INLINE void load_rows(Rows &r, const u8 *codes, const Scales &s, const i64 *row, i32 at, i32 k, i32 shift, const Outer &outer) {
  if (at >= k) return;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    i64 i = row[h] + at, block = i >> shift;
    r.code[h] = load_codes(codes + i / 2);
    r.scale[h] = __ldg(s.absmax + block);
#ifdef NESTED
    r.outer[h] = !LEAN ? __ldg(s.nested + (block >> 8)) : at < outer.edge[h] ? outer.before[h] : outer.after[h];
#endif
  }
}

INLINE float scale_in(const Rows &r, int h, float offset, const float *book) {
#if defined(NESTED) && LEAN
  return __fadd_rn(__fmul_rn(book[r.scale[h]], r.outer[h]), offset);
#elif defined(NESTED)
  return restored(r.scale[h], r.outer[h], offset);
#else
  return r.scale[h];
#endif
}

// part_of is the product that a block of the launch belongs to.
INLINE int part_of(const Parts &parts) {
  int at = 0;
#pragma unroll
  for (int i = 1; i < PARTS; i++)
    if ((i32)blockIdx.x >= parts.of[i].first) at = i;
  return at;
}

KERNEL __launch_bounds__(WARPS * WARP, BLOCKS) quant_thin(const T *__restrict__ x, const __grid_constant__ Parts parts, i32 m, i32 k) {
  __shared__ float sums[WARPS][16][8 * COLUMNS + 1];
  const Part &p = parts.of[part_of(parts)];
  const u8 *__restrict__ codes = p.codes;
  const Scales s = p.scales;
  const i32 n = p.n, first = ((i32)blockIdx.x - p.first) * 16;
#ifdef SHIFT
  const i32 shift = SHIFT;
#else
  const i32 shift = p.shift;
#endif
  int warp = threadIdx.x / WARP, g = lane() / 4, t = lane() % 4;
  float mine = level(lane() & 15), offset = offset_of(s), acc[LEAN ? 4 : COLUMNS][2][4] = {};  // two sums, as each step of one waits for the step before
  i64 row[2];
#pragma unroll
  for (int h = 0; h < 2; h++) row[h] = (i64)min(first + g + 8 * h, n - 1) * k;
  const T *from_x[COLUMNS];
#pragma unroll
  for (int j = 0; j < COLUMNS; j++) from_x[j] = x + (LEAN ? (i64)min(g / 4, m - 1) * k + 8 * (g % 4) : (i64)min(g + 8 * j, m - 1) * k);
  Outer outer = {};
#if defined(NESTED) && LEAN
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const i64 group = row[h] >> shift >> 8;
    outer.edge[h] = (i32)min(((group + 1) << 8 << shift) - row[h], (i64)k);
    outer.before[h] = __ldg(s.nested + group), outer.after[h] = __ldg(s.nested + ((row[h] + k - 1) >> shift >> 8));
  }
#endif
  Rows held = {};
  load_rows(held, codes, s, row, warp * STEP + 32 * t, k, shift, outer);
  const float *map = nullptr;
#if defined(NESTED) && LEAN
  __shared__ float book[256];
  for (int i = threadIdx.x; i < 256; i += WARPS * WARP) book[i] = book_value(i);
  __syncthreads();
  map = book;
#endif
#ifdef LOW
  __shared__ float added[16 * 8 * COLUMNS];  // while the first codes are on their way
  for (int i = threadIdx.x; i < 16 * m; i += WARPS * WARP) added[i] = p.s && first + i % 16 < n ? low(p, i / 16, first + i % 16) : 0;  // read by the same thread
#endif
  for (i32 start = warp * STEP; start < k; start += WARPS * STEP) {
    const i32 at = start + 32 * t;
    const float scale[2] = {scale_in(held, 0, offset, map), scale_in(held, 1, offset, map)};
#if PERMUTED
    const Sixteen upper = sixteen<T>(scale[0]);
#endif
#if LEAN
    Pack<u32, 4> eighth = {};
    if ((EVEN || at < k) && g / 4 < m) eighth = load_pack<4>(reinterpret_cast<const u32 *>(from_x[0] + at));
#endif
#pragma unroll
    for (int q = 0; q < 4; q++) {
      u32 a[2][4];
#pragma unroll
      for (int h = 0; h < 2; h++) {
#if PERMUTED
        if (h == 0) {
          u32 w[4];
          values_of(w, held.code[0].v[q], upper);
#pragma unroll
          for (int i = 0; i < 4; i++) a[i / 2][2 * (i % 2)] = w[i];
          continue;
        }
#endif
        float v[8];
        decode_eight(v, held.code[h].v[q], mine, scale[h]);
#pragma unroll
        for (int i = 0; i < 4; i++) a[i / 2][h + 2 * (i % 2)] = narrow_pair<T>(v[2 * i], v[2 * i + 1]);
      }
      if (q == 3) load_rows(held, codes, s, row, at + WARPS * STEP, k, shift, outer);
#if LEAN
      mma<T>(acc[q][0], a[0], &eighth.v[0]);
      mma<T>(acc[q][0], a[1], &eighth.v[2]);
      continue;
#endif
#pragma unroll
      for (int j = 0; j < COLUMNS; j++) {
        Pack<u32, 4> b = {};  // columns beyond m are not stored, and what lanes read for them would take the way of what others read
        if ((EVEN || at < k) && g + 8 * j < m) b = load_pack<4>(reinterpret_cast<const u32 *>(from_x[j] + at + 8 * q));
        mma<T>(acc[j][0], a[0], &b.v[0]);
        mma<T>(acc[j][1], a[1], &b.v[2]);
      }
    }
  }
#if LEAN
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float part = t % 2 == 0 ? acc[0][0][2 * h] + acc[1][0][2 * h + 1] : acc[2][0][2 * h] + acc[3][0][2 * h + 1];
    part += __shfl_xor_sync(FULL, part, 1);
    if (t % 2 == 0) sums[warp][g + 8 * h][t / 2] = part;
  }
#else
#pragma unroll
  for (int j = 0; j < COLUMNS; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) sums[warp][g + 8 * (i / 2)][8 * j + 2 * t + i % 2] = acc[j][0][i] + acc[j][1][i];
#endif
  __syncthreads();
  for (int i = threadIdx.x; i < 16 * m; i += WARPS * WARP) {
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += sums[w][i % 16][i / 16];
    i64 at = (i64)(i / 16) * n + first + i % 16;
    if (first + i % 16 >= n) continue;
#ifdef LOW
    if (p.s) sum += added[i];
#else
    if (p.c) sum += widen<T>(p.c[at]);
#endif
    p.y[at] = narrow<T>(biased(p, sum, first + i % 16));
  }
}
#endif

// quant_thin_any: a warp takes a row of the weight, for up to ROWS rows of x, any k, block size and alignment.
#define ROWS 4
KERNEL __launch_bounds__(128) quant_thin_any(const T *__restrict__ x, const __grid_constant__ Part p, i32 m, i32 k) {
  i64 row = global_thread() / WARP;
  if (row >= p.n) return;
  float sum[ROWS] = {}, offset = offset_of(p.scales);
  for (i32 at = lane(); at < k; at += WARP) {
    i64 i = row * k + at, block = i / p.blocksize;
    float v = __fmul_rn(level(p.codes[i / 2] >> (i & 1 ? 0 : 4) & 15), scale_of(p.scales, block, p.scales.absmax[block], offset));
    v = widen<T>(narrow<T>(v));
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      if (r < m) sum[r] += v * widen<T>(x[(i64)r * k + at]);
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    float total = warp_reduce<Sum>(sum[r]);
    i64 at = (i64)r * p.n + row;
    if (r >= m || lane() != 0) continue;
#ifdef LOW
    if (p.s) total += low(p, r, (i32)row);
#else
    if (p.c) total += widen<T>(p.c[at]);
#endif
    p.y[at] = narrow<T>(biased(p, total, (i32)row));
  }
}
