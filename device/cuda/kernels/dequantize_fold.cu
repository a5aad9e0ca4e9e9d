// A weight in 4 bits and an adapter to values of T: level(code)*absmax + alpha*(B·A) in float32, rounded once. Defined by the program: T, SHIFT (blocks of 32
// or more), COLS (64, 128 or 256, which divides the weight's columns), DEEP (the rank by 16, rounded up), ALIGNED (A is read by 16 bytes, B and codes by 4).
//
// A block of 8 warps has COLS columns of A in shared memory; a warp makes 16 rows of them at a time. B·A is a product of tensor cores, 32 columns a step, whose
// columns are numbered so that lane 4g + t is left with eight that follow each other, from 8t on, of rows g and g + 8: it reads one word of codes for each
// row and writes 16 bytes. Column 8q + 2j + p of 32 is number 2q + p of tile j, and A lies in shared memory in that order. What is to be read from memory is asked for
// before A is there.

#define STEPS (COLS / 32)
#define RANKS (16 * DEEP)
#define STRIDE (COLS + 8)  // elements from one row of A to the next in shared memory: eight rows of a matrix then lie in different banks
#define BLOCKS (COLS >> SHIFT > 1 ? COLS >> SHIFT : 1)  // of scales, of a row of the strip
#define HELD ((BLOCKS + 3) / 4)
#if DEEP > 1
#define RESIDENT 3  // blocks of a multiprocessor that registers suffice for
#else
#define RESIDENT 4
#endif

struct Folding {
  const u8 *codes;
  const T *a, *b;  // (rank, cols), (rows, rank)
  T *y;
  i64 rows, cols;
  i32 rank;
  float alpha;
};

// Strip is what a lane needs of 16 rows: codes, scales and B. Of the scales of a row lane t of its four has numbers t, t + 4.
struct Strip {
  u32 word[2][STEPS], b[DEEP][4];
  Scale scale[2][HELD];
#ifdef NESTED
  float outer[2][HELD];
#endif
};

INLINE u32 word_of(const u8 *from) {
  if (ALIGNED) return __ldg(reinterpret_cast<const u32 *>(from));
  return from[0] | (u32)from[1] << 8 | (u32)from[2] << 16 | (u32)from[3] << 24;
}

// pair_of is elements k and k + 1 of a row of B, zeros beyond the rank. ALIGNED, the rank is even.
INLINE u32 pair_of(const T *row, int k, int rank) {
  if (ALIGNED) return k < rank ? __ldg(reinterpret_cast<const u32 *>(row + k)) : 0;
  return (k < rank ? (u32)row[k].bits : 0) | (k + 1 < rank ? (u32)row[k + 1].bits << 16 : 0);
}

// load reads what belongs to rows first to first + 15, those of the last one beyond the weight.
INLINE void load(Strip &x, const Folding &p, const Scales &s, i64 first, i64 column) {
  int g = lane() / 4, t = lane() % 4;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    i64 row = first + g + 8 * h;
    row = row < p.rows ? row : p.rows - 1;
    i64 at = row * p.cols + column;
#pragma unroll
    for (int i = 0; i < STEPS; i++) x.word[h][i] = word_of(p.codes + (at + 32 * i + 8 * t) / 2);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      i64 block = (at >> SHIFT) + (t + 4 * i < BLOCKS ? t + 4 * i : BLOCKS - 1);
      x.scale[h][i] = __ldg(s.absmax + block);
#ifdef NESTED
      x.outer[h][i] = __ldg(s.nested + (block >> 8));
#endif
    }
#pragma unroll
    for (int d = 0; d < DEEP; d++) {
      x.b[d][h] = pair_of(p.b + row * p.rank, 16 * d + 2 * t, p.rank);
      x.b[d][2 + h] = pair_of(p.b + row * p.rank, 16 * d + 2 * t + 8, p.rank);
    }
  }
}

// place_adapter copies COLS columns of A to shared memory in the order of tiles, zeros below it.
INLINE void place_adapter(T *tile, const Folding &p, i64 column) {
  for (int i = threadIdx.x; i < RANKS * (COLS / 8); i += blockDim.x) {
    int k = i / (COLS / 8), c = i % (COLS / 8) * 8;
    Pack<u32, 4> x = {0, 0, 0, 0};
    if (k < p.rank) {
      const T *from = p.a + k * p.cols + column + c;
      if (ALIGNED) {
        x = load_pack<4>(reinterpret_cast<const u32 *>(from));
      } else {
#pragma unroll
        for (int e = 0; e < 8; e++) x.v[e / 2] |= (u32)from[e].bits << e % 2 * 16;
      }
    }
    u32 *to = reinterpret_cast<u32 *>(tile + k * STRIDE + c / 32 * 32 + c % 32 / 4);
#pragma unroll
    for (int j = 0; j < 4; j++) to[4 * j] = x.v[j];
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

// write makes the values of a strip. All lanes call it.
INLINE void write(const Strip &x, const Folding &p, const float (&scale)[2][HELD], SharedAt tile, float mine, i64 first, i64 column) {
  int g = lane() / 4, t = lane() % 4;
  // Of four matrices of ldmatrix two are ranks 0 to 7 and 8 to 15 of one tile, two of the next.
  SharedAt from = tile + 2 * (lane() % 16 * STRIDE + lane() / 16 * 8);
#pragma unroll
  for (int i = 0; i < STEPS; i++) {
    float sum[4][4] = {};
#pragma unroll
    for (int d = 0; d < DEEP; d++)
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        u32 a[4];
        load_matrices_transposed(a, from + 2 * (16 * d * STRIDE + 32 * i + 8 * j));
        mma<T>(sum[j], x.b[d], a), mma<T>(sum[j + 1], x.b[d], a + 2);
      }
    __syncwarp();  // or compilers begin so much ahead that registers do not suffice
    const int block = 32 * i >> SHIFT;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float v[8];
      decode_eight(v, x.word[h][i], mine, __shfl_sync(FULL, scale[h][block / 4], block % 4, 4));
#pragma unroll
      for (int e = 0; e < 8; e++) v[e] = __fmaf_rn(p.alpha, sum[e / 2][2 * h + e % 2], v[e]);
      i64 row = first + g + 8 * h;
      store_where(row < p.rows, p.y + row * p.cols + column + 32 * i + 8 * t, v);
    }
  }
}

KERNEL __launch_bounds__(256, RESIDENT) dequantize_fold(const Folding p, const Scales s) {
  __shared__ __align__(16) T tile[RANKS * STRIDE];
  const int height = 16 * 8;  // rows of a block at a time
  float mine = level(lane() & 15), offset = offset_of(s);
  i64 column = (i64)blockIdx.x * COLS, first = (i64)blockIdx.y * height + threadIdx.x / WARP * 16;
  Strip x;
  load(x, p, s, first, column);
  place_adapter(tile, p, column);
  __syncthreads();
  for (i64 step = (i64)gridDim.y * height;;) {
    float scale[2][HELD];
#pragma unroll
    for (int i = 0; i < 2 * HELD; i++) {
#ifdef NESTED
      scale[i / HELD][i % HELD] = restored(x.scale[i / HELD][i % HELD], x.outer[i / HELD][i % HELD], offset);
#else
      scale[i / HELD][i % HELD] = x.scale[i / HELD][i % HELD];
#endif
    }
    write(x, p, scale, shared_at(tile), mine, first, column);
    first += step;
    if (first >= p.rows) break;
    load(x, p, s, first, column);
  }
}
