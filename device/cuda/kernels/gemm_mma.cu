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

#define PASSES (EDGE * CHUNKS / THREADS)  // chunks of a tile that a thread copies

// Side copies the tiles of an operand: `outer` is where they begin on the outer axis of extent `limit`, `lo` on the inner one, which ends at hi.
// The matrix lies with the inner axis contiguous, or the outer one if ACROSS. A thread copies the same chunk of every so-manieth row: what it
// needs for that is worked out once.
template <bool ACROSS> struct Side {
  static const int columns = ACROSS ? EDGE / PER : CHUNKS, rows = THREADS / columns;  // of chunks; rows of a pass
  const T *at;
  int place, valid, left;  // bytes into the tile; elements of the chunk, or rows as bits; of the inner axis, from the first chunk or row

  __device__ __forceinline__ Side(const T *src, i64 ld, int outer, int limit, int lo, int hi) {
    int row = threadIdx.x / columns, chunk = threadIdx.x % columns;
    if (ACROSS) {
      at = src + (lo + row) * ld + outer + chunk * PER;
      place = place_outer(row, chunk) * 16, left = hi - lo - row, valid = min(max(limit - outer - chunk * PER, 0), PER);
    } else {
      at = src + (outer + row) * ld + lo + chunk * PER;
      place = place_inner(row, chunk) * 16, left = hi - lo - chunk * PER, valid = 0;
#pragma unroll
      for (int i = 0; i < PASSES; i++) valid |= (outer + row + i * rows < limit) << i;
    }
  }

  // elements of a pass that exist.
  __device__ __forceinline__ int count(int pass) const {
    if (ACROSS) return pass * rows < left ? valid : 0;
    return valid >> pass & 1 ? min(max(left, 0), PER) : 0;
  }

  // fetch starts copying the next tile.
  __device__ __forceinline__ void fetch(SharedAt to, i64 ld, bool aligned) {
    if (aligned) {
#pragma unroll
      for (int i = 0; i < PASSES; i++) copy_async(to + place + i * rows * columns * 16, at + i * rows * ld, count(i) * (int)sizeof(T));
    } else {
#pragma unroll 1
      for (int i = 0; i < PASSES; i++) {
        Pack<T, PER> x;
        const T *from = at + i * rows * ld;
        int n = count(i);
#pragma unroll
        for (int j = 0; j < PER; j++) x.v[j] = j < n ? from[j] : T();
        store_shared(to + place + i * rows * columns * 16, *(Pack<u32, 4> *)&x);
      }
    }
    at += ACROSS ? DEEP * ld : DEEP;
    left -= DEEP;
  }
};

KERNEL __launch_bounds__(THREADS, 2) gemm_mma(const Product p) {
  SHARED_DYNAMIC(u8, memory);  // A and B of each stage
  const int tile = EDGE * CHUNKS * 16;
  SharedAt sides = shared_at(memory);
  Tile t;
  if (!find_tile<EDGE, EDGE>(p, t)) return;
  Side<TRANS_A> a((const T *)p.a + t.a, p.lda, t.row, t.m, t.lo, t.hi);
  Side<!TRANS_B> b((const T *)p.b + t.b, p.ldb, t.column, p.n, t.lo, t.hi);
  int warp = threadIdx.x / WARP, row0 = warp / 4 * 64, column0 = warp % 4 * 32;  // of the warp's 64 x 32
  SUM acc[4][4][4];
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0;

  int steps = (t.hi - t.lo + DEEP - 1) / DEEP;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) a.fetch(sides + 2 * s * tile, p.lda, p.aligned & 1), b.fetch(sides + (2 * s + 1) * tile, p.ldb, p.aligned & 2);
    copy_commit();
  }
  int now = 0, next = STAGES - 1;  // stages
  int r = lane() % 8, which = lane() / 8;
  for (int s = 0; s < steps; s++) {
    copy_wait<STAGES - 2>();
    __syncthreads();
    if (s + STAGES - 1 < steps) a.fetch(sides + 2 * next * tile, p.lda, p.aligned & 1), b.fetch(sides + (2 * next + 1) * tile, p.ldb, p.aligned & 2);
    copy_commit();
    SharedAt ta = sides + 2 * now * tile, tb = ta + tile;
    now = now + 1 == STAGES ? 0 : now + 1, next = next + 1 == STAGES ? 0 : next + 1;
#pragma unroll
    for (int half = 0; half < CHUNKS / 2; half++) {  // 32 bytes of the inner axis each
      u32 fa[4][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        // Matrices in order: rows 0-7, rows 8-15, then the same of the second chunk.
        if (TRANS_A) {
          load_matrices_transposed(fa[i], ta + 16 * place_outer(half * 16 + which / 2 * 8 + r, (row0 + i * 16) / PER + which % 2));
        } else {
          load_matrices(fa[i], ta + 16 * place_inner(row0 + i * 16 + which % 2 * 8 + r, half * 2 + which / 2));
        }
      }
#pragma unroll
      for (int j = 0; j < 2; j++) {
        // Columns 0-7, first and second chunk, then columns 8-15.
        if (TRANS_B) {
          load_matrices(fb[j], tb + 16 * place_inner(column0 + j * 16 + which / 2 * 8 + r, half * 2 + which % 2));
        } else {
          load_matrices_transposed(fb[j], tb + 16 * place_outer(half * 16 + which % 2 * 8 + r, (column0 + j * 16) / PER + which / 2));
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
