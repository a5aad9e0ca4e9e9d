// The sum of rows u (m, width) at the rows of a table y (n, width) that an index names, zeros where it names none, in one pass over the table:
// scatter.cu's KIND 1 where it is FRESH, for up to 65536 rows. width counts packs.
//
// Groups of 2^shift neighbouring rows of the table belong to OWNERS blocks in turn. A block lists, in shared memory, the positions of its rows in
// the order of the index: (row << 16 | position), rows counted among its own. Then each warp takes a row, finds its positions by ballots, and writes
// the row once. A row with many positions is summed by all warps, every 16th each, and their sums are added in order: no sum depends on time or on the GPU.

#define OWNERS 256
#define TABLE_WARPS 16
#define TABLE_AHEAD 6  // rows of u under way in a warp
#define TABLE_FEW 8    // positions of a row that a warp takes alone
#define TABLE_FULL (65536 / (TABLE_FEW + 1) + 1)  // rows with more, at most
#define NO_ROW 0xffffu

// Positions are the block's, in its list.
struct Positions {
  const u32 *list;
  int count;

  // at is position i of the list, of no row behind its end.
  __device__ __forceinline__ u32 at(int i) const { return i < count ? list[i] : NO_ROW << 16; }
  // many is how many are the row's. The warp calls it together.
  __device__ __forceinline__ int many(u32 row) const {
    int sum = 0;
#pragma unroll 1
    for (int i = 0; i < count; i += WARP) sum += __popc(__ballot_sync(FULL, at(i + lane()) >> 16 == row));
    return sum;
  }
};

// add_rows adds `count` rows of u whose positions the first lanes hold, a pack of each.
INLINE void add_rows(C (&sum)[V], const P *__restrict__ u, i32 width, i32 c, u32 held, int count) {
  P x[TABLE_AHEAD];
#pragma unroll
  for (int i = 0; i < TABLE_AHEAD; i++) {
    const u32 position = __shfl_sync(FULL, held, i);
    if (i < count && c < width) x[i] = u[(i64)position * width + c];
  }
#pragma unroll
  for (int i = 0; i < TABLE_AHEAD; i++)
    if (i < count && c < width) {
      keep_packed(x[i]);
#pragma unroll
      for (int v = 0; v < V; v++) sum[v] = meet(sum[v], carry(x[i].v[v]));
    }
}

// add_positions adds those of a row's `many` positions whose number is `first` modulo `step`, a power of two.
INLINE void add_positions(C (&sum)[V], const Positions &p, u32 row, int many, int first, int step, const P *__restrict__ u, i32 width, i32 c) {
  u32 held = 0;
  int seen = 0, have = 0;
#pragma unroll 1
  for (int i = 0; seen < many; i += WARP) {
    const u32 item = p.at(i + lane());
    u32 hits = __ballot_sync(FULL, item >> 16 == row);
    const bool last = seen + __popc(hits) >= many;
#pragma unroll 1
    while (hits != 0 || (last && have > 0)) {
      if (hits != 0) {
        const int from = __ffs(hits) - 1;
        hits &= hits - 1;
        if ((seen++ & (step - 1)) == first) {
          const u32 position = __shfl_sync(FULL, item, from) & 0xffffu;
          if (lane() == have) held = position;
          have++;
        }
      }
      if (have == TABLE_AHEAD || (last && hits == 0 && have > 0)) add_rows(sum, u, width, c, held, have), have = 0;
    }
  }
}

INLINE void write_pack(P *to, const C (&sum)[V]) {
  P x;
#pragma unroll
  for (int v = 0; v < V; v++) x.v[v] = narrow<T>(sum[v]);
  *to = x;
}

// owned is the row of the table at[i] among the block's, NO_ROW if it is another's or none.
INLINE u32 owned(i64 at, i64 n, int shift) {
  const i64 group = at >> shift;
  if (at < 0 || at >= n || (group & (OWNERS - 1)) != blockIdx.x) return NO_ROW;
  return (u32)(group / OWNERS << shift) | (u32)(at & ((1 << shift) - 1));
}

// list_positions fills the list, in the order of the index, and returns how many there are. Each warp has a stretch of the index.
INLINE int list_positions(u32 *list, const INDEX *__restrict__ index, int m, i64 n, int shift) {
  __shared__ int counts[TABLE_WARPS];
  const int warp = threadIdx.x / WARP, each = (m + TABLE_WARPS * WARP - 1) / (TABLE_WARPS * WARP) * WARP, from = warp * each, to = min(m, from + each);
  int sum = 0;
#pragma unroll 4
  for (int i = from; i < to; i += WARP) sum += __popc(__ballot_sync(FULL, i + lane() < to && owned(index[i + lane()], n, shift) != NO_ROW));
  if (lane() == 0) counts[warp] = sum;
  __syncthreads();
  int next = 0, all = 0;
  for (int w = 0; w < TABLE_WARPS; w++) {
    next = w == warp ? all : next;
    all += counts[w];
  }
#pragma unroll 4
  for (int i = from; i < to; i += WARP) {
    const u32 row = i + lane() < to ? owned(index[i + lane()], n, shift) : NO_ROW, hits = __ballot_sync(FULL, row != NO_ROW);
    if (row != NO_ROW) list[next + __popc(hits & ((1u << lane()) - 1))] = row << 16 | (u32)(i + lane());
    next += __popc(hits);
  }
  __syncthreads();
  return all;
}

// scatter_table: blocks of 512 threads, as many as there are owners with groups. Dynamic shared memory: the list, m words.
KERNEL __launch_bounds__(TABLE_WARPS * WARP, 2) scatter_table(P *__restrict__ y, const P *__restrict__ u, const INDEX *__restrict__ index, i32 m, i64 n, i32 width,
                                                              i32 shift) {
  SHARED_DYNAMIC(u32, list);
  __shared__ C part[TABLE_WARPS][V][WARP];
  __shared__ u16 full[TABLE_FULL];  // rows with many positions, in any order: a row's sum does not depend on it
  __shared__ int fulls;
  const int warp = threadIdx.x / WARP;
  if (threadIdx.x == 0) fulls = 0;
  const Positions p = {list, list_positions(list, index, m, n, shift)};
  const i64 groups = ((n + (1 << shift) - 1) >> shift) - blockIdx.x;
  const int rows = (int)((groups + OWNERS - 1) / OWNERS) << shift;
  for (int r = warp; r < rows && p.count > TABLE_FEW; r += TABLE_WARPS)
    if (p.many(r) > TABLE_FEW && lane() == 0) full[atomicAdd(&fulls, 1)] = (u16)r;
  __syncthreads();

  const int together = fulls;  // turns that all warps have together; then each has its own rows
  for (int t = 0;; t++) {
    const bool all = t < together;
    const int r = all ? full[t] : warp + (t - together) * TABLE_WARPS;
    if (r >= rows) break;
    const i64 place = ((i64)(r >> shift) * OWNERS + blockIdx.x) << shift | (r & ((1 << shift) - 1));
    const int many = p.many(r);
    if (place >= n || (!all && many > TABLE_FEW)) continue;
    for (i32 c = lane(); c - lane() < width; c += WARP) {
      C sum[V] = {};
      add_positions(sum, p, r, many, all ? warp : 0, all ? TABLE_WARPS : 1, u, width, c);
      if (all) {
#pragma unroll
        for (int v = 0; v < V; v++) part[warp][v][lane()] = sum[v];
        __syncthreads();
        for (int w = 1; w < TABLE_WARPS && warp == 0; w++)
#pragma unroll
          for (int v = 0; v < V; v++) sum[v] = meet(sum[v], part[w][v][lane()]);
        __syncthreads();
      }
      if (c < width && (!all || warp == 0)) write_pack(y + place * width + c, sum);
    }
  }
}
