// Two thin products that share a large operand X (M, N), which is read once: T = alpha_t X B with B (N, R), and D = alpha_d Xᵀ S (+ C) with
// S (M, R): what an adapter's gradients read of the gradient of its layer's output. Compiled with T (the type of X, B, S and of the result T),
// TD (that of C and D), RANK (R: 8, 16, 24 or 32), WARPS (a multiple of 2), STAGES,
// TRANS_S (S is stored (R, M), M a multiple of 8) and ALIGNED (X and S begin at multiples of 16 bytes).
//
// X is cut in groups of COLS columns, and those in units of ROWS rows, which are numbered group by group. Every block takes equally many units
// that follow each other, a ring of STAGES of them in shared memory. A warp adds 16 rows and 128 columns of a unit to the unit's part of T, which the
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
#define S_ROW ((S_CHUNKS | 1) * 16)  // bytes of a row of S in shared memory: an odd number of chunks, so that eight rows meet all banks
#define PARTS (WARPS / 2)         // of a unit's columns, in T
#define X_BYTES (ROWS * COLS * 2)
#define STAGE_BYTES (X_BYTES + S_ROWS * S_ROW)

struct ThinPair {
  const T *x, *b, *s;
  const TD *c;
  T *t;
  TD *d;
  float *part_t, *part_d;
  i64 units;
  int m, n, blocks, reserved;
  float alpha_t, alpha_d;
};

// first is the first unit of a block.
INLINE i64 first(const ThinPair &p, i64 block) { return block * p.units / p.blocks; }

// copy_chunk brings eight elements to shared memory, or zeros where there are none.
INLINE void copy_chunk(u8 *to, const T *from, bool there) {
#if ALIGNED
  copy_async(to, from, there ? 16 : 0);
#else
  u16 *e = (u16 *)to;
  for (int i = 0; i < 8; i++) e[i] = there ? from[i].bits : 0;
#endif
}

// stage starts copying a unit of X and its rows of S. A pass of the block is four rows of X.
INLINE void stage(const ThinPair &p, u8 *to, int group, int unit) {
  int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, col = group * COLS + chunk * 8, at = unit * ROWS;
  int rows = col < p.n ? p.m - at - row : 0, place = (chunk ^ row) * 16;
  const T *from = p.x + (i64)(at + row) * p.n + col;
  u8 *line = to + row * (COLS * 2);
#pragma unroll
  for (int i = 0; i < ROWS; i += 4, from += 4 * (i64)p.n) copy_chunk(line + i * (COLS * 2) + (place ^ i % 8 * 16), from, i < rows);
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
    if (e < S_ROWS * S_CHUNKS) copy_chunk(to + X_BYTES + r * S_ROW + c * 16, s, there);
  }
}

// load_b reads the fragments of B that a warp multiplies by: 128 rows.
INLINE void load_b(const ThinPair &p, u32 (*b)[TILES][2], int group) {
  int row = group * COLS + threadIdx.x / WARP / 2 * 128 + lane() % 4 * 2;
  const u16 *from = (const u16 *)p.b + (i64)row * RANK + lane() / 4;
#pragma unroll
  for (int k = 0; k < 8; k++)
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        int r = k * 16 + h * 8;
        u32 lo = row + r < p.n ? from[r * RANK + n * 8] : 0, hi = row + r + 1 < p.n ? from[(r + 1) * RANK + n * 8] : 0;
        b[k][n][h] = lo | hi << 16;
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
      load_matrices(b[n], s + (min(n + i / 2, TILES - 1) * 8 + r) * S_ROW + (k / 8 + i % 2) * 16);
#else
      load_matrices_transposed(b[n], s + (k + i % 2 * 8 + r) * S_ROW + min(n + i / 2, TILES - 1) * 16);
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
  float *sums = (float *)(ring + STAGES * STAGE_BYTES);
  const int each = PARTS * 2 * TILES * WARP * 4;  // of two
  int per = (p.m + ROWS - 1) / ROWS;
  i64 lo = first(p, blockIdx.x);
  int count = (int)(first(p, (i64)blockIdx.x + 1) - lo);
  int group = (int)(lo / per), unit = (int)(lo % per), next_group = group, next_unit = unit;
  auto copy = [&](int i) {
    if (i < count) {
      stage(p, ring + i % STAGES * STAGE_BYTES, next_group, next_unit);
      if (++next_unit == per) next_unit = 0, next_group++;
    }
    copy_commit();
  };
  for (int i = 0; i < STAGES - 1; i++) copy(i);
  u32 b[8][TILES][2];
  float d[4][TILES][4] = {};
  load_b(p, b, group);
  int old_group = group, old_unit = unit;
  for (int i = 0; i < count; i++) {
    copy_wait<STAGES - 2>();
    __syncthreads();  // the unit is there, all are done with the one before it, and that one's T lies in shared memory
    copy(i + STAGES - 1);
    if (i > 0) sum_t(p, sums + (i - 1) % 2 * each, old_group, old_unit);
    SharedAt x = shared_at(ring + i % STAGES * STAGE_BYTES);
    multiply_t(x, b, sums + i % 2 * each);
    multiply_d(x, x + X_BYTES, d);
    old_group = group, old_unit = unit;
    if (++unit == per || i + 1 == count) {
      keep_d(p, d, group);
      if (unit == per) unit = 0, group++;
      if (i + 1 < count) load_b(p, b, group);
    }
  }
  __syncthreads();
  if (count > 0) sum_t(p, sums + (count - 1) % 2 * each, old_group, old_unit);
}

// block_of is the block that has a unit.
INLINE int block_of(const ThinPair &p, i64 unit) {
  i64 b = unit * p.blocks / p.units;
  while (first(p, b + 1) <= unit) b++;
  return (int)b;
}

// thin_pair_sum adds up four elements a thread: of T in the first blocks_t blocks, of D in the others.
KERNEL thin_pair_sum(ThinPair p, int blocks_t) {
  int per = (p.m + ROWS - 1) / ROWS;
  float sum[4] = {};
  if (blockIdx.x < blocks_t) {
    i64 at = global_thread() * 4, size = (i64)p.m * RANK;
    if (at >= size) return;
    int groups = (p.n + COLS - 1) / COLS;
#pragma unroll 16
    for (int g = 0; g < groups; g++) {
      Pack<float, 4> v = load_pack<4>(p.part_t + g * size + at);
      for (int i = 0; i < 4; i++) sum[i] += v.v[i];
    }
    for (int i = 0; i < 4; i++) p.t[at + i] = narrow<T>(p.alpha_t * sum[i]);
    return;
  }
  i64 at = ((i64)(blockIdx.x - blocks_t) * blockDim.x + threadIdx.x) * 4;
  if (at >= (i64)p.n * RANK) return;
  int group = (int)(at / (COLS * RANK)), last = block_of(p, (i64)(group + 1) * per - 1);
  const float *from = p.part_d + at - (i64)group * (COLS * RANK);
#pragma unroll 16  // of a narrow X there are many, and few threads
  for (int b = block_of(p, (i64)group * per); b <= last; b++) {
    Pack<float, 4> v = load_pack<4>(from + ((i64)b + group) * (COLS * RANK));
    for (int i = 0; i < 4; i++) sum[i] += v.v[i];
  }
  for (int i = 0; i < 4; i++) p.d[at + i] = narrow<TD>(p.alpha_d * sum[i] + (p.c ? (float)widen(p.c[at + i]) : 0.0f));
}
