// Tiles of matrices in shared memory for products on tensor cores: how they are copied there, multiplied and written. Chunks of 16 bytes are
// stored in an order that lets eight rows be read at once without bank conflicts. Defined by the program: T, TC, SUM (type of the sums), TRANS_A, TRANS_B,
// CHUNKS (4 or 8; 8 reads whole lines of the cache).

#define THREADS 256
#define PER ((int)(16 / sizeof(T)))  // elements of a chunk
#define DEEP (CHUNKS * PER)          // inner indices of a step

// A tile with the inner axis contiguous is EDGE rows of CHUNKS chunks; one with the outer axis contiguous is DEEP rows of EDGE / PER chunks.
INLINE int place_inner(int row, int chunk) { return row * CHUNKS + (chunk ^ (CHUNKS == 8 ? row & 7 : row >> 1 & 3)); }
template <int EDGE> INLINE int place_outer(int row, int chunk) { return row * (EDGE / PER) + (chunk ^ (row & 7)); }

// Side copies the tiles of an operand: `outer` is where they begin on the outer axis of extent `limit`, `lo` on the inner one, which ends at hi.
// The matrix lies with the inner axis contiguous, or the outer one if ACROSS. A thread copies the same chunk of every so-manieth row: what it
// needs for that is worked out once.
template <bool ACROSS, int EDGE> struct Side {
  static const int columns = ACROSS ? EDGE / PER : CHUNKS, rows = THREADS / columns;  // of chunks; rows of a pass
  static const int passes = EDGE * CHUNKS / THREADS;                                  // chunks of a tile that a thread copies
  const T *at;
  int place, valid, left;  // bytes into the tile; elements of the chunk, or rows as bits; of the inner axis, from the first chunk or row

  __device__ __forceinline__ Side(const T *src, i64 ld, int outer, int limit, int lo, int hi) {
    int row = threadIdx.x / columns, chunk = threadIdx.x % columns;
    if (ACROSS) {
      at = src + (lo + row) * ld + outer + chunk * PER;
      place = place_outer<EDGE>(row, chunk) * 16, left = hi - lo - row, valid = min(max(limit - outer - chunk * PER, 0), PER);
    } else {
      at = src + (outer + row) * ld + lo + chunk * PER;
      place = place_inner(row, chunk) * 16, left = hi - lo - chunk * PER, valid = 0;
#pragma unroll
      for (int i = 0; i < passes; i++) valid |= (outer + row + i * rows < limit) << i;
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
      for (int i = 0; i < passes; i++) copy_async(to + place + i * rows * columns * 16, at + i * rows * ld, count(i) * (int)sizeof(T));
    } else {
#pragma unroll 1
      for (int i = 0; i < passes; i++) {
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

#define PARTS (CHUNKS / 2)  // of a step, 32 bytes of the inner axis each

// multiply adds to a warp's sums, 16·ROWS rows by 32 columns from row0 and column0 on, a part of what the tiles at ta and tb of shared memory hold.
template <int EDGE_A, int EDGE_B, int ROWS> INLINE void multiply(SUM (&acc)[ROWS][4][4], SharedAt ta, SharedAt tb, int row0, int column0, int half) {
  int r = lane() % 8, which = lane() / 8;
  u32 fa[ROWS][4], fb[2][4];
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    // Matrices in order: rows 0-7, rows 8-15, then the same of the second chunk.
    if (TRANS_A) {
      load_matrices_transposed(fa[i], ta + 16 * place_outer<EDGE_A>(half * 16 + which / 2 * 8 + r, (row0 + i * 16) / PER + which % 2));
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
      load_matrices_transposed(fb[j], tb + 16 * place_outer<EDGE_B>(half * 16 + which % 2 * 8 + r, (column0 + j * 16) / PER + which / 2));
    }
  }
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) mma<T>(acc[i][j], fa[i], &fb[j / 2][j % 2 * 2]);
}

// write_sums writes a warp's sums.
template <int ROWS> INLINE void write_sums(const Product &p, const Tile &t, const SUM (&acc)[ROWS][4][4], int row0, int column0) {
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        write_pair<TC>(p, t, t.row + row0 + i * 16 + lane() / 4 + e / 2 * 8, t.column + column0 + j * 8 + lane() % 4 * 2, acc[i][j][e], acc[i][j][e + 1]);
}
