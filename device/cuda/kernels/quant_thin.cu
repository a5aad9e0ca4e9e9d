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
// prefetch asks for bytes that are read soon.
INLINE void prefetch(const void *at, i32 bytes) {
#ifndef BYES_EMULATE
  for (i32 i = 0; i < bytes; i += 128) asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const u8 *>(at) + i));
#endif
}

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
// quant_thin: m <= 8*COLUMNS, k a multiple of 32, x and codes aligned to 16 bytes, blocks of a power of two of at least 32. A block of WARPS warps
// takes 16 rows of one weight, its warps share k in steps of 128; BLOCKS of them fit a multiprocessor. Within a step lane 4g + t has the
// 32 elements from 32t on of rows g and g + 8 of the weight, and of row g of x: products of a tensor-core step may be summed in any order
// as long as both operands are permuted alike, so each lane reads whole 16-byte words.
//
// Codes, and x where it has up to eight rows, come through shared memory, STAGES steps of a warp on their way by cp.async: a load to registers would hold one
// of a warp's six scoreboards, which the shuffles that decode take in turns and would wait for. Scales are restored once for the whole block before its first step.
#define STEP 128
// DECODE is how codes become values. 0: by shuffles; 1: those of row g by permutations and those of row g + 8 by shuffles, so that the pipes of both are at work; 2: by
// pairs of levels in shared memory, of which 16 lanes have a table each.
#ifndef EVEN
#define EVEN 0  // k is a multiple of STEP
#endif
#define CODE_BYTES (STEP / 2 * 16)  // of a step
#define ROW_BYTES 320               // of a step of a row of x: 256, and 64 so that lanes of two rows read different banks
#if COLUMNS == 1
#define STAGE (CODE_BYTES + X_ROWS * ROW_BYTES)  // X_ROWS >= m
#else
#define STAGE CODE_BYTES
#endif
static_assert(STAGES * STAGE >= 16 * (8 * COLUMNS + 1) * 4, "sums take the place of the stages");

// kept is a value that the compiler has in a register: it would rather compute those of lanes in each step again.
INLINE i32 kept(i32 x) {
#ifndef BYES_EMULATE
  asm volatile("" : "+r"(x));
#endif
  return x;
}

// Feed is what a lane asks for of the next step: codes of two rows and, of every second row of x from row lane/16 on, eight elements. In shared memory codes of the 16 rows come
// first, then rows of x, of which the words at 8q of four lanes stand side by side.
struct Feed {
  const u8 *codes[2];
  const T *x;
  i32 from;  // of the warp
};

// feed copies to the places of the lane in a stage.
INLINE void feed(Feed &f, SharedAt codes, SharedAt rows, i32 m, i32 k) {
#pragma unroll
  for (int h = 0; h < 2; h++) copy_async(codes + CODE_BYTES / 2 * h, f.codes[h], f.from + (EVEN ? 0 : 32 * (lane() % 4)) < k ? 16 : 0);
#if COLUMNS == 1
#pragma unroll
  for (int i = 0; i < (X_ROWS + 1) / 2; i++)
    if (lane() / 16 + 2 * i < m) copy_async(rows + 2 * ROW_BYTES * i, f.x + (i64)(2 * i) * k, f.from + (EVEN ? 0 : 8 * (lane() % 16)) < k ? 16 : 0);
#endif
  copy_commit();
#pragma unroll
  for (int h = 0; h < 2; h++) f.codes[h] += WARPS * STEP / 2;
  f.x += WARPS * STEP, f.from += WARPS * STEP;
}

// restore_rows writes the scales of a block's 16 rows, `stride` apart, from the one on that holds the first element of each.
INLINE void restore_rows(float *to, i32 stride, const Scales &s, i32 first, i32 n, i32 k, i32 shift) {
  const float offset = offset_of(s);
#pragma unroll 1
  for (int r = threadIdx.x / WARP; r < 16; r += WARPS) {
    const i64 start = (i64)min(first + r, n - 1) * k, base = start >> shift;
    const i32 last = (i32)(((start + k - 1) >> shift) - base);
#pragma unroll 1
    for (i32 i = lane(); i <= last; i += 4 * WARP) {
      RawScale raw[4];
#pragma unroll
      for (int j = 0; j < 4; j++) raw[j] = raw_scale(s, base + min(i + j * WARP, last));  // the last one again is written again
#pragma unroll
      for (int j = 0; j < 4; j++) to[r * stride + min(i + j * WARP, last)] = scale_in(raw[j], offset);
    }
  }
}

// part_of is the product that a block of the launch belongs to.
INLINE int part_of(const Parts &parts) {
  int at = 0;
#pragma unroll
  for (int i = 1; i < PARTS; i++)
    if ((i32)blockIdx.x >= parts.of[i].first) at = i;
  return at;
}

#if DECODE == 2
struct __align__(8) Levels { float of[2]; };
__shared__ Levels pairs[256][16];

// fill_pairs writes the levels of two codes, the one of the upper half of a byte first.
INLINE void fill_pairs(float mine) {
  for (int i = threadIdx.x; i < 256 * 16; i += WARPS * WARP) {
    const int byte = i / 16;
    pairs[byte][i % 16] = {{shuffled_level(mine, byte >> 4), shuffled_level(mine, byte)}};
  }
}

// decode_pairs is for the lane whose table begins `mine` bytes after the first.
INLINE void decode_pairs(u32 (&v)[4], u32 word, float scale, u32 mine) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const u32 at = ((i == 0 ? word << 7 : word >> (8 * i - 7)) & 255 << 7) | mine;
    const Levels p = *reinterpret_cast<const Levels *>(reinterpret_cast<const u8 *>(pairs) + at);
    v[i] = narrow_pair<T>(__fmul_rn(p.of[0], scale), __fmul_rn(p.of[1], scale));
  }
}
#endif

// weights_of gives the fragments of tensor-core steps 2q and 2q + 1 of a lane's words of codes, by its level, its table of pairs, or its values of the upper row.
INLINE void weights_of(u32 (&a)[2][4], const u32 (&word)[2], const float (&scale)[2], float mine, u32 table, const Sixteen &upper) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    u32 w[4];
#if DECODE == 2
    decode_pairs(w, word[h], scale[h], table);
#else
    if (DECODE == 1 && h == 0) {
      values_of(w, word[0], upper);
    } else {
      float v[8];
      decode_eight(v, word[h], mine, scale[h]);
#pragma unroll
      for (int i = 0; i < 4; i++) w[i] = narrow_pair<T>(v[2 * i], v[2 * i + 1]);
    }
#endif
#pragma unroll
    for (int i = 0; i < 4; i++) a[i / 2][h + 2 * (i % 2)] = w[i];
  }
}

KERNEL __launch_bounds__(WARPS * WARP, BLOCKS) quant_thin(const T *__restrict__ x, const __grid_constant__ Parts parts, i32 m, i32 k) {
  SHARED_DYNAMIC(u8, space);
  const Part &p = parts.of[part_of(parts)];
  const i32 n = p.n, first = ((i32)blockIdx.x - p.first) * 16;
#ifdef SHIFT
  const i32 shift = SHIFT;
#else
  const i32 shift = p.shift;
#endif
  const int warp = threadIdx.x / WARP, g = lane() / 4, t = lane() % 4;
  const i32 stride = ((k - 1) >> shift) + 2;
  u8 *const ring = space + warp * STAGES * STAGE;
  float *const scales = reinterpret_cast<float *>(space + WARPS * STAGES * STAGE);
  Feed f = {{}, x + (i64)(lane() / 16) * k + warp * STEP + 8 * (lane() % 16), warp * STEP};
  i32 place[2];  // in the row, from the start of its first block on
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const i64 start = (i64)min(first + g + 8 * h, n - 1) * k;
    f.codes[h] = p.codes + (start + warp * STEP) / 2 + 16 * t;
    place[h] = (i32)(start & ((1 << shift) - 1)) + warp * STEP + 32 * t;
  }
  const SharedAt to = shared_at(ring) + 16 * lane();
  const i32 to_x = kept(CODE_BYTES + ROW_BYTES * (lane() / 16) + 16 * (lane() % 4 * 4 + lane() % 16 / 4 - lane()));
#pragma unroll
  for (int u = 0; u < STAGES; u++) feed(f, to + u * STAGE, to + u * STAGE + to_x, m, k);
#ifdef LOW
  if (p.s && threadIdx.x < 16 && first + (i32)threadIdx.x < n) prefetch(static_cast<const LOW *>(p.b) + (i64)(first + threadIdx.x) * p.rank, p.rank * (i32)sizeof(LOW));
#endif
  const float mine = level(lane() & 15);
#if DECODE == 2
  fill_pairs(mine);
#endif
  restore_rows(scales, stride, p.scales, first, n, k, shift);
  __syncthreads();
#ifdef LOW
  __shared__ float added[16 * 8 * COLUMNS];  // while codes are on their way
  for (int i = threadIdx.x; i < 16 * m; i += WARPS * WARP) added[i] = p.s && first + i % 16 < n ? low(p, i / 16, first + i % 16) : 0;  // read by the same thread
#endif
  float acc[COLUMNS][2][4] = {};  // two sums, as each step of one waits for the step before
  Pack<u32, 4> b = {};            // columns of tiles beyond m are not stored
  const T *const from_x = x + (i64)g * k;
  const float *const of_row = scales + g * stride;
  const i32 in_x = kept(CODE_BYTES + ROW_BYTES * g + 16 * t - 16 * lane());
  const u32 table = kept(8 * (lane() & 15));  // bytes, as is stage
  i32 stage = 0;
  i32 at = warp * STEP + 32 * t;
  for (i32 steps = (k - warp * STEP + WARPS * STEP - 1) / (WARPS * STEP); steps > 0; steps--, at += WARPS * STEP) {
    copy_wait<STAGES - 1>();
    __syncwarp();
    const u8 *const here = ring + 16 * lane() + stage;
    Pack<u32, 4> code[2];
    float scale[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      code[h] = load_pack<4>(reinterpret_cast<const u32 *>(here + CODE_BYTES / 2 * h));
      scale[h] = of_row[8 * h * stride + ((EVEN ? place[h] : place[h] + min(0, k - 32 - at)) >> shift)];
      place[h] += WARPS * STEP;
    }
    const Sixteen upper = DECODE == 1 ? sixteen<T>(scale[0]) : Sixteen{};
#pragma unroll
    for (int q = 0; q < 4; q++) {
      u32 a[2][4];
      const u32 word[2] = {code[0].v[q], code[1].v[q]};
      weights_of(a, word, scale, mine, table, upper);
#pragma unroll
      for (int j = 0; j < COLUMNS; j++) {
#if COLUMNS == 1
        if (g < m) b = load_pack<4>(reinterpret_cast<const u32 *>(here + in_x + 64 * q));
#else
        b = {};
        if ((EVEN || at < k) && g + 8 * j < m) b = load_pack<4>(reinterpret_cast<const u32 *>(from_x + (i64)j * 8 * k + at + 8 * q));
#endif
        mma<T>(acc[j][0], a[0], &b.v[0]);
        mma<T>(acc[j][1], a[1], &b.v[2]);
      }
    }
    __syncwarp();
    feed(f, to + stage, to + stage + to_x, m, k);
    stage = stage == (STAGES - 1) * STAGE ? 0 : stage + STAGE;
  }
  __syncthreads();
  typedef float Sums[16][8 * COLUMNS + 1];
  Sums *sums = reinterpret_cast<Sums *>(space);
#pragma unroll
  for (int j = 0; j < COLUMNS; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) sums[warp][g + 8 * (i / 2)][8 * j + 2 * t + i % 2] = acc[j][0][i] + acc[j][1][i];
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
