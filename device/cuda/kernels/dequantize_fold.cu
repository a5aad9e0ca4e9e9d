// A weight in 4 bits and an adapter to values of T: level(code)*absmax + alpha*(B·A) in float32, rounded once. Defined by the program: T, SHIFT (blocks of 32
// or more), STRIPS (8, 4, 2 or 1: strips of 64 columns of a block), DEEP (the rank by 16, rounded up), ALIGNED (A is read by 16 bytes, B by 8, codes by 4, and the
// rank is a multiple of 4). Columns of the weight are a multiple of 64·STRIPS. Dynamic shared memory: p.chunk · UNITS · STRIPS floats.
//
// A warp goes down a strip of 64 columns, eight rows a step, of which it reads codes and B AHEAD steps before. The transpose of B·A is a product of tensor cores:
// columns of the weight are its rows. Column 8g + 2j + p is row g + 8p of tile j, so lane 4g + t is left with eight columns that follow each other, from 8g on, of rows 2t and 2t + 1 of
// the weight, for each of which it reads one word of codes and writes 16 bytes: a warp writes whole lines of 128 bytes. Columns of A stay in registers as the fragments that they are.
// Ranks are numbered in any order too: those of lane t are 4t to 4t + 3 of 16, one access of B. Scales of all rows of a block are made first, in shared memory.

#define UNITS (SHIFT == 5 ? 2 : 1)  // of scales, of a row of a strip
#define PER (UNITS * STRIPS)        // of a row of the block
#define APART (8 / STRIPS)          // warps of a strip, which take turns
#if DEEP == 1
#define RESIDENT 3  // blocks of a multiprocessor that registers suffice for
#else
#define RESIDENT 2
#endif
#define AHEAD (DEEP > 2 ? 2 : 4)

struct Folding {
  const u8 *codes;
  const T *a, *b;  // (rank, cols), (rows, rank)
  T *y;
  i64 rows;
  i32 cols, rank, chunk;  // chunk: rows of a block
  float alpha;
};

// Eighth is what a lane needs of eight rows: codes of two, and its part of B of one.
struct Eighth { u32 word[2], b[DEEP][2]; };

// Strip is a warp's part of a block: rows are counted from the block's first, and those beyond its last are read as the last.
struct Strip {
  const u8 *codes;
  const T *b;
  T *y;
  int rows, cols, rank;

  __device__ __forceinline__ Strip(const Folding &p, i64 first, i64 column) : cols(p.cols), rank(p.rank) {
    const i64 at = first * cols + column + lane() / 4 * 8;
    codes = p.codes + at / 2, b = p.b + first * rank, y = p.y + at;
    rows = p.rows - first < p.chunk ? (int)(p.rows - first) : p.chunk;
  }

  __device__ __forceinline__ void load(Eighth &x, int row) const {
    const int t = lane() % 4, last = rows - 1;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int r = row + 2 * t + h < rows ? row + 2 * t + h : last;
      const u8 *from = codes + (i64)r * (cols >> 1);
      x.word[h] = ALIGNED ? __ldg(reinterpret_cast<const u32 *>(from)) : from[0] | (u32)from[1] << 8 | (u32)from[2] << 16 | (u32)from[3] << 24;
    }
    const T *of = b + (i64)(row + lane() / 4 < rows ? row + lane() / 4 : last) * rank;
#pragma unroll
    for (int d = 0; d < DEEP; d++) {
      const int k = 16 * d + 4 * t;
      if (ALIGNED) {
        Pack<u32, 2> two = {0, 0};
        if (k < rank) two = load_pack<2>(reinterpret_cast<const u32 *>(of + k));
        x.b[d][0] = two.v[0], x.b[d][1] = two.v[1];
      } else {
#pragma unroll
        for (int e = 0; e < 2; e++) x.b[d][e] = (k + 2 * e < rank ? (u32)of[k + 2 * e].bits : 0) | (k + 2 * e + 1 < rank ? (u32)of[k + 2 * e + 1].bits << 16 : 0);
      }
    }
  }
};

// load_adapter reads a strip of A: of tile j, columns 8g + 2j and the next, ranks 4t to 4t + 3.
INLINE void load_adapter(u32 (&a)[DEEP][4][4], const Folding &p, i64 column) {
#pragma unroll
  for (int d = 0; d < DEEP; d++) {
    Pack<u32, 4> x[4];
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int k = 16 * d + lane() % 4 * 4 + e;
      const T *from = p.a + (i64)k * p.cols + column + lane() / 4 * 8;
      x[e] = Pack<u32, 4>{0, 0, 0, 0};
      if (k < p.rank) {
        if (ALIGNED) {
          x[e] = load_pack<4>(reinterpret_cast<const u32 *>(from));
        } else {
#pragma unroll
          for (int c = 0; c < 8; c++) x[e].v[c / 2] |= (u32)from[c].bits << c % 2 * 16;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) a[d][j][i] = permute(x[i / 2 * 2].v[j], x[i / 2 * 2 + 1].v[j], i % 2 ? 0x7632 : 0x5410);
  }
}

// make_scales writes the scales of a block's rows to shared memory, UNITS for each strip.
INLINE void make_scales(float *table, const Scales &s, i64 at, int cols, int rows) {
  const float offset = offset_of(s);
#pragma unroll 4
  for (int i = threadIdx.x; i < rows * PER; i += 256) {
    const i64 block = (at + (i64)(i / PER) * cols + i % PER * (64 / UNITS)) >> SHIFT;
    table[i] = scale_of(s, block, __ldg(s.absmax + block), offset);
  }
}

// store_where rounds eight values and writes them in one access if `here`. As a branch it keeps steps from overlapping, and compilers cut the access up.
INLINE void store_where(bool here, T *y, const float (&v)[8]) {
#ifdef BYES_EMULATE
  if (here) store_eight(y, v);
#else
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p st.global.v4.u32 [%1], {%2,%3,%4,%5}; }" ::"r"((u32)here), "l"(y), "r"(narrow_pair<T>(v[0], v[1])),
               "r"(narrow_pair<T>(v[2], v[3])), "r"(narrow_pair<T>(v[4], v[5])), "r"(narrow_pair<T>(v[6], v[7])) : "memory");
#endif
}

KERNEL __launch_bounds__(256, RESIDENT) dequantize_fold(const Folding p, const Scales s) {
  SHARED_DYNAMIC(float, table);
  const int warp = threadIdx.x / WARP, strip = warp % STRIPS, t = lane() % 4;
  const i64 first = (i64)blockIdx.y * p.chunk, column = (i64)blockIdx.x * (64 * STRIPS);
  const Strip x(p, first, column + 64 * strip);
  const float mine = level(lane() & 15);
  Eighth ring[AHEAD];
  int row = 8 * (warp / STRIPS);
#pragma unroll
  for (int u = 0; u < AHEAD; u++) x.load(ring[u], row + u * 8 * APART);
  u32 a[DEEP][4][4];
  load_adapter(a, p, column + 64 * strip);
  make_scales(table, s, first * p.cols + column, p.cols, x.rows);
  __syncthreads();
  const float *scales = table + strip * UNITS + (UNITS == 2 ? lane() / 16 : 0);
  while (row < x.rows) {
#pragma unroll
    for (int u = 0; u < AHEAD; u++, row += 8 * APART) {
      if (row >= x.rows) break;
      float sum[4][4] = {};
#pragma unroll
      for (int d = 0; d < DEEP; d++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma<T>(sum[j], a[d][j], ring[u].b[d]);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int r = row + 2 * t + h;
        float v[8];
        decode_eight(v, ring[u].word[h], mine, scales[(r < x.rows ? r : x.rows - 1) * PER]);
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] = __fmaf_rn(p.alpha, sum[e / 2][e % 2 * 2 + h], v[e]);
        store_where(r < x.rows, x.y + (i64)r * x.cols, v);
      }
      x.load(ring[u], row + AHEAD * 8 * APART);
    }
  }
}
