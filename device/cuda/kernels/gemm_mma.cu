// Products of bf16, f16 (into TC, summed in float) and i8 (into i32) on tensor cores. A block of 8 warps computes 128 x 128 of C in steps of
// CHUNKS·16 bytes of the inner axis, whose tiles are copied to shared memory STAGES - 1 steps ahead. Chunks of 16 bytes are stored in an order
// that lets eight rows be read at once without bank conflicts.
// Defined by the program: T, TC, SUM (type of the sums), TRANS_A, TRANS_B, CHUNKS (4 or 8; 8 reads whole lines of the cache), STAGES; i8 wants an
// inner axis that is contiguous on both sides. Dynamic shared memory: STAGES · 2 · EDGE · CHUNKS · 16 bytes.

#define EDGE 128
#define THREADS 256
#define PER ((int)(16 / sizeof(T)))  // elements of a chunk
#define DEEP (CHUNKS * PER)          // inner indices of a step

// A tile with the inner axis contiguous is EDGE rows of CHUNKS chunks; one with the outer axis contiguous is DEEP rows of EDGE / PER chunks.
INLINE int place_inner(int row, int chunk) { return row * CHUNKS + (chunk ^ (CHUNKS == 8 ? row & 7 : row >> 1 & 3)); }
INLINE int place_outer(int row, int chunk) { return row * (EDGE / PER) + (chunk ^ (row & 7)); }

// fetch starts copying a tile: `outer` is where it begins on the outer axis of extent `limit`, `inner` on the inner one, which ends at `hi`.
// The matrix lies at src with the inner axis contiguous, or the outer one if ACROSS.
template <bool ACROSS> INLINE void fetch(Pack<u32, 4> *to, const T *src, i64 ld, int outer, int limit, int inner, int hi, bool aligned) {
  for (int i = threadIdx.x; i < EDGE * CHUNKS; i += THREADS) {
    int row, chunk, r, c, end, at;
    if (ACROSS) {
      row = i / (EDGE / PER), chunk = i % (EDGE / PER), r = inner + row, c = outer + chunk * PER, end = r < hi ? limit : 0, at = place_outer(row, chunk);
    } else {
      row = i / CHUNKS, chunk = i % CHUNKS, r = outer + row, c = inner + chunk * PER, end = r < limit ? hi : 0, at = place_inner(row, chunk);
    }
    int n = min(max(end - c, 0), PER);
    const T *from = n > 0 ? src + r * ld + c : src;
    if (aligned) {
      copy_async(&to[at], from, n * (int)sizeof(T));
    } else {
      Pack<T, PER> x;
      for (int j = 0; j < PER; j++) x.v[j] = j < n ? from[j] : T();
      *(Pack<T, PER> *)&to[at] = x;
    }
  }
}

KERNEL __launch_bounds__(THREADS, 2) gemm_mma(const Product p) {
  typedef Pack<u32, 4> Side[EDGE * CHUNKS];
  SHARED_DYNAMIC(Side, sides);  // A and B of each stage
  Tile t;
  if (!find_tile<EDGE, EDGE>(p, t)) return;
  const T *a = (const T *)p.a + t.a, *b = (const T *)p.b + t.b;
  int warp = threadIdx.x / WARP, row0 = warp / 4 * 64, column0 = warp % 4 * 32;  // of the warp's 64 x 32
  SUM acc[4][4][4];
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0;

  int steps = (t.hi - t.lo + DEEP - 1) / DEEP;
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) {
      fetch<TRANS_A>(sides[2 * s], a, p.lda, t.row, t.m, t.lo + s * DEEP, t.hi, p.aligned & 1);
      fetch<!TRANS_B>(sides[2 * s + 1], b, p.ldb, t.column, p.n, t.lo + s * DEEP, t.hi, p.aligned & 2);
    }
    copy_commit();
  }
  for (int s = 0; s < steps; s++) {
    copy_wait<STAGES - 2>();
    __syncthreads();
    if (int next = s + STAGES - 1; next < steps) {
      fetch<TRANS_A>(sides[next % STAGES * 2], a, p.lda, t.row, t.m, t.lo + next * DEEP, t.hi, p.aligned & 1);
      fetch<!TRANS_B>(sides[next % STAGES * 2 + 1], b, p.ldb, t.column, p.n, t.lo + next * DEEP, t.hi, p.aligned & 2);
    }
    copy_commit();
    const Pack<u32, 4> *ta = sides[s % STAGES * 2], *tb = sides[s % STAGES * 2 + 1];
#pragma unroll
    for (int half = 0; half < CHUNKS / 2; half++) {  // 32 bytes of the inner axis each
      u32 fa[4][4], fb[2][4];
      int r = lane() % 8, which = lane() / 8;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        // Matrices in order: rows 0-7, rows 8-15, then the same of the second chunk.
        if (TRANS_A) {
          load_matrices_transposed(fa[i], &ta[place_outer(half * 16 + which / 2 * 8 + r, (row0 + i * 16) / PER + which % 2)]);
        } else {
          load_matrices(fa[i], &ta[place_inner(row0 + i * 16 + which % 2 * 8 + r, half * 2 + which / 2)]);
        }
      }
#pragma unroll
      for (int j = 0; j < 2; j++) {
        // Columns 0-7, first and second chunk, then columns 8-15.
        if (TRANS_B) {
          load_matrices(fb[j], &tb[place_inner(column0 + j * 16 + which / 2 * 8 + r, half * 2 + which % 2)]);
        } else {
          load_matrices_transposed(fb[j], &tb[place_outer(half * 16 + which % 2 * 8 + r, (column0 + j * 16) / PER + which / 2)]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma<T>(acc[i][j], fa[i], &fb[j / 2][j % 2 * 2]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        write_pair<TC>(p, t, t.row + row0 + i * 16 + lane() / 4 + e / 2 * 8, t.column + column0 + j * 8 + lane() % 4 * 2, acc[i][j][e], acc[i][j][e + 1]);
}
