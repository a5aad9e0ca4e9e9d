// What the matrix products share: their arguments, the tile that a block computes, and how it is written.

// Product is one batched product C = alpha·op(A)·op(B) (+ add): row-major, A (m, k) or (k, m) where TRANS_A, B (k, n) or (n, k) where
// TRANS_B, of leading dimensions ld_* and batch strides stride_*, in elements. The inner axis is cut into `splits` parts of `part`; with
// more than one, each writes its sums to `partial` (splits, batch, m, n), and reduce_splits adds them up in order.
// Grouped products take the rows of expert e from offsets[e] to offsets[e + 1] - 1.
struct Product {
  const void *a, *b, *add, *offsets;
  void *c, *partial;
  i64 lda, ldb, ldc, stride_a, stride_b, stride_c;
  f64 alpha;
  i32 m, n, k, batch, splits, part, experts, aligned;
};

// Tile is what a block computes: rows row.. of C and the inner indices lo to hi - 1 of one matrix.
struct Tile {
  i64 a, b, c;  // where the matrices begin
  i32 row, column, m, lo, hi, split, matrix;
};

#ifndef GROUPED
#define GROUPED 0  // 1: GroupedMatMul, a tile of rows of an expert; 2: GroupedOuter, a matrix for each expert
#endif

// find_tile gives the block its tile of ROWS x COLUMNS; false: there is none. Blocks are (rows, columns, batch · splits).
template <int ROWS, int COLUMNS> INLINE bool find_tile(const Product &p, Tile &t) {
  t.a = t.b = t.c = 0;
  t.split = 0, t.matrix = 0, t.lo = 0, t.hi = p.k, t.m = p.m;
  t.column = blockIdx.y * COLUMNS;
#if GROUPED == 0
  t.matrix = blockIdx.z / p.splits, t.split = blockIdx.z % p.splits;
  t.a = t.matrix * p.stride_a, t.b = t.matrix * p.stride_b, t.c = t.matrix * p.stride_c;
  t.lo = t.split * p.part, t.hi = min(p.k, t.lo + p.part);
  t.row = blockIdx.x * ROWS;
  return true;
#else
  const i32 *at = (const i32 *)p.offsets;
#if GROUPED == 1
  // Rows before the first expert's and after the last one's are groups too, 0 and experts + 1, whose products are empty. Each warp goes
  // through the groups, 32 at a time, and finds the one whose tiles this block's number falls in.
  int slot = blockIdx.x, rows = p.m;
  for (int first = 0; first < p.experts + 2; first += WARP) {
    int g = first + lane(), lo = 0, hi = 0;
    if (g < p.experts + 2) {
      lo = g == 0 ? 0 : min(max(at[g - 1], 0), rows);
      hi = g > p.experts ? rows : min(max(at[g], 0), rows);
    }
    int tiles = hi > lo ? (hi - lo + ROWS - 1) / ROWS : 0, sum = tiles;
    for (int d = 1; d < WARP; d <<= 1) {
      int below = __shfl_up_sync(FULL, sum, d);
      if (lane() >= d) sum += below;
    }
    u32 here = __ballot_sync(FULL, slot >= sum - tiles && slot < sum);
    if (here) {
      int owner = __ffs(here) - 1;
      lo = __shfl_sync(FULL, lo, owner), hi = __shfl_sync(FULL, hi, owner), sum = __shfl_sync(FULL, sum - tiles, owner);
      int expert = first + owner - 1;
      t.row = lo + (slot - sum) * ROWS, t.m = hi;
      if (expert < 0 || expert >= p.experts) {
        t.hi = 0;
      } else {
        t.b = expert * p.stride_b, t.matrix = expert;
      }
      return true;
    }
    slot -= __shfl_sync(FULL, sum, WARP - 1);
  }
  return false;
#else
  int lo = min(max(at[blockIdx.z], 0), p.k), hi = min(max(at[blockIdx.z + 1], lo), p.k);
  t.lo = lo, t.hi = hi, t.matrix = blockIdx.z;
  t.c = blockIdx.z * p.stride_c;
  t.row = blockIdx.x * ROWS;
  return true;
#endif
#endif
}

// write_sum stores one sum: times alpha, added to, rounded once; or as a partial sum.
template <class TC, class A> INLINE void write_sum(const Product &p, const Tile &t, int row, int column, A sum) {
  if (row >= t.m || column >= p.n) return;
  if (p.splits > 1) {
    ((A *)p.partial)[((i64)(t.split * p.batch + t.matrix) * p.m + row) * p.n + column] = sum;
    return;
  }
  i64 at = t.c + row * p.ldc + column;
  sum = (A)p.alpha * sum;
  if (p.add) sum += widen(((const TC *)p.add)[at]);
  ((TC *)p.c)[at] = narrow<TC>(sum);
}

// write_pair is write_sum of two columns, the first of them even, in one access where that can be.
template <class TC, class A> INLINE void write_pair(const Product &p, const Tile &t, int row, int column, A x, A y) {
  i64 at = t.c + row * p.ldc + column;
  TC *c = (TC *)p.c + at;
  if (p.splits > 1 || p.add || column + 1 >= p.n || ((u64)c & (2 * sizeof(TC) - 1)) != 0) {
    write_sum<TC>(p, t, row, column, x);
    write_sum<TC>(p, t, row, column + 1, y);
    return;
  }
  if (row >= t.m) return;
  Pack<TC, 2> out;
  out.v[0] = narrow<TC>((A)p.alpha * x), out.v[1] = narrow<TC>((A)p.alpha * y);
  store_pack(c, out);
}
