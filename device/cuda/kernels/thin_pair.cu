// Two thin products that share a large operand X (M, N), which is read once: T = alpha_t X B with B (N, R), and D = alpha_d Xᵀ S (+ C) with
// S (M, R): what an adapter's gradients read of the gradient of its layer's output. Compiled with T (the type of X, B, S and of the result T),
// TD (that of C and D), RANK (R: 8, 16, 24 or 32), WARPS (a multiple of 2), STAGES,
// TRANS_S (S is stored (R, M), M a multiple of 8), ALIGNED (X, B and S begin at multiples of 16 bytes) and ONCE (X is larger than the last cache).
//
// X is cut in groups of COLS columns, and those in units of ROWS rows, which are numbered group by group. Every block takes equally many units
// that follow each other, a ring of STAGES of them in shared memory; B of a group comes before its first unit, so that it isn't waited for behind
// units that were asked for earlier (which needs at least STAGES units a group). A warp adds 16 rows and 128 columns of a unit to the unit's part of T, which the
// warps then sum through shared memory; and it keeps D of 64 columns in registers until the group or the block's units end. Parts of T (one a group)
// and of D (one where a block meets a group: number block + group) go to memory in float32, and thin_pair_sum adds them up in their order. Both
// orientations of X are read by ldmatrix from the same 16-byte chunks, whose places are permuted by row against bank conflicts.

#define THREADS (WARPS * WARP)
#define ROWS 32
#define COLS (WARPS * 64)
#define CHUNKS (COLS / 8)   // of 16 bytes, of a row of a unit
#define TILES (RANK / 8)
#if TRANS_S
#define S_CHUNKS (ROWS / 8)  // of a row of S, which is a column of it
#define S_ROWS RANK
#else
#define S_CHUNKS TILES
#define S_ROWS ROWS
#endif
#define S_ROW ((S_CHUNKS == 2 ? 3 : S_CHUNKS) * 16)  // bytes of a row of S in shared memory, see s_at
#define PARTS (WARPS / 2)         // of a unit's columns, in T
#define X_BYTES (ROWS * COLS * 2)
#define STAGE_BYTES (X_BYTES + S_ROWS * S_ROW)
#define B_BYTES (COLS * RANK * 2)
#define UNIT_SUMS (WARPS * TILES * WARP * 4)  // what the warps leave of T of a unit

struct ThinPair {
  const T *x, *b, *s;
  const TD *c;
  T *t;
  TD *d;
  float *part_t, *part_d;
  int m, n, each, more;  // units of a block, and how many blocks have one more
  float alpha_t, alpha_d;
};

// first is the first unit of a block; block_of is the block that has a unit.
INLINE int first(const ThinPair &p, int block) { return block * p.each + min(block, p.more); }
INLINE int block_of(const ThinPair &p, int unit) {
  int longer = p.more * (p.each + 1);
  return unit < longer ? unit / (p.each + 1) : p.more + (unit - longer) / p.each;
}

// s_at is the place of a chunk of S. Eight rows meet all banks: those of four chunks permute them, those of others are an odd number of chunks apart.
INLINE int s_at(int row, int chunk) { return row * S_ROW + (S_CHUNKS == 4 ? chunk ^ (row >> 1 & 3) : chunk) * 16; }

// copy_chunk brings eight elements to shared memory, or zeros where there are none.
INLINE void copy_chunk(u8 *to, const T *from, bool there) {
#if ALIGNED
  copy_async(to, from, there ? 16 : 0);
#else
  u16 *e = (u16 *)to;
  for (int i = 0; i < 8; i++) e[i] = there ? from[i].bits : 0;
#endif
}

// copy_x is copy_chunk of X. With ONCE it leaves the last cache first, so that the parts stay there for thin_pair_sum.
#if !defined(BYES_EMULATE) && ALIGNED && ONCE && __CUDA_ARCH__ >= 800
INLINE u64 policy_x() {
  u64 policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
INLINE void copy_x(u8 *to, const T *from, bool there, u64 policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(shared_at(to)), "l"(from), "r"(there ? 16 : 0), "l"(policy) : "memory");
}
#else
INLINE u64 policy_x() { return 0; }
INLINE void copy_x(u8 *to, const T *from, bool there, u64) { copy_chunk(to, from, there); }
#endif

// stage_b starts copying B of a group.
INLINE void stage_b(const ThinPair &p, u8 *to, int group) {
  const int row = RANK * 2 / 16;  // chunks of a row
  int rows = p.n - group * COLS;
  const T *from = p.b + (i64)group * (COLS * RANK);
#pragma unroll
  for (int i = 0; i < COLS * row; i += THREADS) {
    int e = i + threadIdx.x;
    bool there = e / row < rows;
    copy_chunk(to + e * 16, there ? from + e * 8 : p.b, there);
  }
}

// stage starts copying a unit of X and its rows of S. A pass of the block is four rows of X.
INLINE void stage(const ThinPair &p, u8 *to, int group, int unit, u64 policy) {
  int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, col = group * COLS + chunk * 8, at = unit * ROWS;
  int rows = col < p.n ? p.m - at - row : 0, place = (chunk ^ row) * 16;
  const T *from = p.x + (i64)(at + row) * p.n + col;
  u8 *line = to + row * (COLS * 2);
#pragma unroll
  for (int i = 0; i < ROWS; i += 4, from += 4 * (i64)p.n) copy_x(line + i * (COLS * 2) + (place ^ i % 8 * 16), from, i < rows, policy);
#pragma unroll
  for (int i = 0; i < S_ROWS * S_CHUNKS; i += THREADS) {
    int e = i + threadIdx.x, r = e / S_CHUNKS, c = e % S_CHUNKS;
#if TRANS_S
    bool there = at + c * 8 < p.m;
    const T *s = p.s + (i64)r * p.m + at + c * 8;
#else
    bool there = at + r < p.m;
    const T *s = p.s + (i64)at * RANK + e * 8;
#endif
    if (e < S_ROWS * S_CHUNKS) copy_chunk(to + X_BYTES + s_at(r, c), s, there);
  }
}

// load_b reads the fragments of B that a warp multiplies by: 128 rows.
INLINE void load_b(SharedAt from, u32 (*b)[TILES][2]) {
  int r = lane() % 8, i = lane() / 8;
  SharedAt at = from + (threadIdx.x / WARP / 2 * 128 + i % 2 * 8 + r) * (RANK * 2);
#pragma unroll
  for (int k = 0; k < 8; k++)
#pragma unroll
    for (int n = 0; n < TILES; n += 2) {
      u32 two[4];  // of the last of an odd number the second half is not used
      load_matrices_transposed(two, at + k * 16 * (RANK * 2) + min(n + i / 2, TILES - 1) * 16);
#pragma unroll
      for (int q = 0; q < 4; q++)
        if (n + q / 2 < TILES) b[k][n + q / 2][q % 2] = two[q];
    }
}

// multiply_t computes 16 rows of T from 128 columns of a unit and leaves them in shared memory, by fragments.
INLINE void multiply_t(SharedAt x, const u32 (*b)[TILES][2], float *sums) {
  int warp = threadIdx.x / WARP, r = lane() % 8, i = lane() / 8;
  SharedAt at = x + (warp % 2 * 16 + i % 2 * 8 + r) * (COLS * 2) + warp / 2 * 256;
  float c[TILES][4] = {}, odd[TILES][4] = {};  // two chains of sums, so that products wait for each other less
#pragma unroll
  for (int k = 0; k < 8; k++) {
    u32 a[4];
    load_matrices(a, at + (k / 4 * 128 + ((k % 4 * 2 + i / 2) ^ r) * 16));
#pragma unroll
    for (int n = 0; n < TILES; n++) mma<T>(k % 2 ? odd[n] : c[n], a, b[k][n]);
  }
#pragma unroll
  for (int n = 0; n < TILES; n++) {
    Pack<float, 4> v;
#pragma unroll
    for (int q = 0; q < 4; q++) v.v[q] = c[n][q] + odd[n][q];
    store_pack(sums + ((warp * TILES + n) * WARP + lane()) * 4, v);
  }
}

// sum_t adds up what the warps left of T and writes it to the group's part.
INLINE void sum_t(const ThinPair &p, const float *sums, int group, int unit) {
#pragma unroll
  for (int first = 0; first < TILES * 128; first += THREADS) {
    int e = first + threadIdx.x;
    if (e >= TILES * 128) return;
    Pack<float, 2> v = load_pack<2>(sums + 2 * e);
#pragma unroll
    for (int k = 1; k < PARTS; k++) {
      Pack<float, 2> w = load_pack<2>(sums + 2 * (k * TILES * 128 + e));
      v.v[0] += w.v[0], v.v[1] += w.v[1];
    }
    int l = e / 2 % WARP, tile = e / 64, row = unit * ROWS + tile / TILES * 16 + e % 2 * 8 + l / 4;
    if (row < p.m) store_pack(p.part_t + ((i64)group * p.m + row) * RANK + tile % TILES * 8 + l % 4 * 2, v);
  }
}

// multiply_d adds a unit to D of a warp's 64 columns.
INLINE void multiply_d(SharedAt x, SharedAt s, float (*d)[TILES][4]) {
  int warp = threadIdx.x / WARP, r = lane() % 8, i = lane() / 8;
#pragma unroll
  for (int k = 0; k < ROWS; k += 16) {
    u32 b[TILES + 1][2];
#pragma unroll
    for (int n = 0; n < TILES; n += 2)  // of the last of an odd number the second half is not used
#if TRANS_S
      load_matrices(b[n], s + s_at(min(n + i / 2, TILES - 1) * 8 + r, k / 8 + i % 2));
#else
      load_matrices_transposed(b[n], s + s_at(k + i % 2 * 8 + r, min(n + i / 2, TILES - 1)));
#endif
    SharedAt at = x + (k + i / 2 * 8 + r) * (COLS * 2) + warp * 128;
#pragma unroll
    for (int m = 0; m < 4; m++) {
      u32 a[4];
      load_matrices_transposed(a, at + ((m * 2 + i % 2) ^ r) * 16);
#pragma unroll
      for (int n = 0; n < TILES; n++) mma<T>(d[m][n], a, b[n]);
    }
  }
}

// keep_d writes a warp's D to a part and clears it.
INLINE void keep_d(const ThinPair &p, float (*d)[TILES][4], int group) {
  int col = threadIdx.x / WARP * 64 + lane() / 4;
  float *to = p.part_d + (((i64)blockIdx.x + group) * COLS + col) * RANK + lane() % 4 * 2;
#pragma unroll
  for (int m = 0; m < 4; m++)
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        Pack<float, 2> v = {d[m][n][2 * h], d[m][n][2 * h + 1]};
        store_pack(to + (m * 16 + h * 8) * RANK + n * 8, v);
        d[m][n][2 * h] = d[m][n][2 * h + 1] = 0;
      }
}

KERNEL __launch_bounds__(THREADS, 1) thin_pair(ThinPair p) {
  SHARED_DYNAMIC(u8, ring);
  u8 *shared_b = ring + STAGES * STAGE_BYTES;
  float *sums = (float *)(shared_b + B_BYTES);  // as large as B of the block's first group, which comes here: the second group may come at once
  const u64 policy = policy_x();
  int per = (p.m + ROWS - 1) / ROWS, lo = first(p, blockIdx.x), count = first(p, blockIdx.x + 1) - lo;
  int group = lo / per, unit = lo % per, next_group = group, next_unit = unit;
  auto copy = [&](int i) {
    if (i < count) {
      if (i == 0 || next_unit == 0) stage_b(p, i == 0 ? (u8 *)sums : shared_b, next_group);
      stage(p, ring + i % STAGES * STAGE_BYTES, next_group, next_unit, policy);
      if (++next_unit == per) next_unit = 0, next_group++;
    }
    copy_commit();
  };
  for (int i = 0; i < STAGES - 1; i++) copy(i);
  u32 b[8][TILES][2];
  float d[4][TILES][4] = {};
  int old_group = group, old_unit = unit;
  for (int i = 0; i < count; i++) {
    copy_wait<STAGES - 2>();
    __syncthreads();  // the unit is there, all are done with the one before it, and that one's T lies in shared memory
    if (i == 0 || unit == 0) load_b(shared_at(i == 0 ? (u8 *)sums : shared_b), b);
    if (i == 0) __syncthreads();
    copy(i + STAGES - 1);
    if (i > 0) sum_t(p, sums + (i - 1) % 2 * UNIT_SUMS, old_group, old_unit);
    SharedAt x = shared_at(ring + i % STAGES * STAGE_BYTES);
    multiply_t(x, b, sums + i % 2 * UNIT_SUMS);
    multiply_d(x, x + X_BYTES, d);
    old_group = group, old_unit = unit;
    if (++unit == per || i + 1 == count) {
      keep_d(p, d, group);
      if (unit == per) unit = 0, group++;
    }
  }
  __syncthreads();
  if (count > 0) sum_t(p, sums + (count - 1) % 2 * UNIT_SUMS, old_group, old_unit);
}

#define WARPS_SUM 4  // among which a block of thin_pair_sum shares the parts
#define DEEP 8       // parts that a thread has in flight

// thin_pair_sum adds up 128 elements a block: of T in the first blocks_t blocks, of D in the others.
KERNEL __launch_bounds__(WARP * WARPS_SUM, 4) thin_pair_sum(ThinPair p, int blocks_t) {
  __shared__ float sums[WARPS_SUM][WARP * 4];
  const int per = (p.m + ROWS - 1) / ROWS, warp = threadIdx.x / WARP;
  const bool of_t = (int)blockIdx.x < blocks_t;
  const i64 begin = (i64)(of_t ? blockIdx.x : blockIdx.x - blocks_t) * (WARP * 4), at = begin + lane() * 4, size = (i64)(of_t ? p.m : p.n) * RANK;
  const float *from = p.part_t + at;
  i64 step = size;
  int parts = (p.n + COLS - 1) / COLS;
  if (!of_t) {
    int group = (int)(at / (COLS * RANK)), block = at < size ? block_of(p, group * per) : 0;
    step = COLS * RANK;
    parts = at < size ? block_of(p, (group + 1) * per - 1) + 1 - block : 0;
    from = p.part_d + ((i64)block * (COLS * RANK) + at);  // part block + group, and begins there with element group * COLS * RANK
  }
  if (at >= size) parts = 0;
  const int end = parts * (warp + 1) / WARPS_SUM;
  float sum[4] = {};
  for (int g = parts * warp / WARPS_SUM; g < end; g += DEEP) {
    Pack<float, 4> v[DEEP];
#pragma unroll
    for (int i = 0; i < DEEP; i++) v[i] = load_pack<4>(from + min(g + i, end - 1) * step);
#pragma unroll
    for (int i = 0; i < DEEP; i++)
#pragma unroll
      for (int q = 0; q < 4; q++) sum[q] += g + i < end ? v[i].v[q] : 0.0f;
  }
#pragma unroll
  for (int q = 0; q < 4; q++) sums[warp][lane() * 4 + q] = sum[q];
  __syncthreads();
  const i64 mine = begin + threadIdx.x;
  if (mine >= size) return;
  float all = sums[0][threadIdx.x];
#pragma unroll
  for (int w = 1; w < WARPS_SUM; w++) all += sums[w][threadIdx.x];
  if (of_t) p.t[mine] = narrow<T>(p.alpha_t * all);
  else p.d[mine] = narrow<TD>(p.alpha_d * all + (p.c ? (float)widen(p.c[mine]) : 0.0f));
}
