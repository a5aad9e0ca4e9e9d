// The sum of rows u (m, width) at the rows of a table y (n, width) that an index names, zeros where it names none: scatter.cu's KIND 1 where it is FRESH,
// for up to 65536 rows. width counts packs. Three launches: table_order fills the table with zeros and beside it sorts positions by the row that they
// name, table_pieces sums up to PIECE positions of a row, and table_rest adds the sums of rows that have more. No sum depends on time or on the GPU.
//
// Rows belong to OWNERS blocks in turn. The sorted positions of a block begin in `order` behind those of the blocks before it. plan[i] says what begins
// at order[i]: bits 0 to 5 how many positions a piece has (0: none begins here), bit 6 that its row has more than one piece, bit 7 that it is the first of
// them, and from bit 8 on how many there are then.

#define OWNERS 256
#define TABLE_WARPS 16
#define TABLE_FILL 8      // packs that a thread clears at a time
#define TABLE_COLUMNS 4   // packs of a lane in a piece
#define PIECE WARP
#define SEVERAL 0x40u
#define FIRST 0x80u
#define NO_ROW 0xffffffffu

// owned is the row at among the block's, of which there are fewer than 65536, NO_ROW if it is another's or none. before: it is an earlier block's.
INLINE u32 owned(i64 at, i64 n, bool &before) {
  const u32 owner = (u32)at & (OWNERS - 1);
  const bool there = at >= 0 && at < n;
  before = there && owner < blockIdx.x;
  return there && owner == blockIdx.x ? (u32)(at / OWNERS) : NO_ROW;
}

// Listed is the block's list in shared memory and where it begins among all.
struct Listed { int count, before; };

// list_positions fills the list with row << 16 | position, in the order of the index. Each warp has a stretch of it.
INLINE Listed list_positions(u32 *list, const INDEX *__restrict__ index, int m, i64 n) {
  __shared__ int counts[TABLE_WARPS], earlier[TABLE_WARPS];
  const int warp = threadIdx.x / WARP, each = (m + TABLE_WARPS * WARP - 1) / (TABLE_WARPS * WARP) * WARP, from = warp * each, to = min(m, from + each);
  int sum = 0, others = 0;
  bool before;
#pragma unroll 8
  for (int i = from; i < to; i += WARP) {
    const u32 row = owned(i + lane() < to ? (i64)index[i + lane()] : -1, n, before);
    sum += __popc(__ballot_sync(FULL, row != NO_ROW)), others += __popc(__ballot_sync(FULL, before));
  }
  if (lane() == 0) counts[warp] = sum, earlier[warp] = others;
  __syncthreads();
  Listed all = {0, 0};
  int next = 0;
  for (int w = 0; w < TABLE_WARPS; w++) {
    next = w == warp ? all.count : next;
    all.count += counts[w], all.before += earlier[w];
  }
#pragma unroll 8
  for (int i = from; i < to; i += WARP) {
    const u32 row = owned(i + lane() < to ? (i64)index[i + lane()] : -1, n, before), hits = __ballot_sync(FULL, row != NO_ROW);
    if (row != NO_ROW) list[next + __popc(hits & ((1u << lane()) - 1))] = row << 16 | (u32)(i + lane());
    next += __popc(hits);
  }
  __syncthreads();
  return all;
}

INLINE void exchange(u32 *list, int count, int low, int high) {
  if (high >= count) return;  // what is behind the end is larger
  const u32 a = list[low], b = list[high];
  if (a > b) list[low] = b, list[high] = a;
}

// sort_list sorts different words upwards (Batcher 1968): each merge begins with a stretch against the next one reversed, so all steps go one way and
// there may be any number of words.
INLINE void sort_list(u32 *list, int count) {
  bool wrong = false;
  for (int i = threadIdx.x; i + 1 < count; i += blockDim.x) wrong |= list[i] > list[i + 1];
  if (!__syncthreads_or(wrong)) return;
  for (int merge = 1; 1 << (merge - 1) < count; merge++) {  // makes stretches of 2^merge
    for (int t = threadIdx.x; t >> (merge - 1) << merge < count; t += blockDim.x) {
      const int base = t >> (merge - 1) << merge, at = t & ((1 << (merge - 1)) - 1);
      exchange(list, count, base + at, base + (1 << merge) - 1 - at);
    }
    __syncthreads();
    for (int step = merge - 2; step >= 0; step--) {
      for (int t = threadIdx.x; t >> step << (step + 1) < count; t += blockDim.x) {
        const int low = (t >> step << (step + 1)) | (t & ((1 << step) - 1));
        exchange(list, count, low, low + (1 << step));
      }
      __syncthreads();
    }
  }
}

// first_from is how many of the sorted words are below `least`.
INLINE int first_from(const u32 *list, int count, u32 least) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (list[middle] < least) low = middle + 1;
    else high = middle;
  }
  return low;
}

// table_order: OWNERS blocks of 512 threads, and as many more as help to clear the table. Dynamic shared memory: the list, m words.
KERNEL __launch_bounds__(TABLE_WARPS * WARP, 2) table_order(P *__restrict__ y, const INDEX *__restrict__ index, u32 *__restrict__ order, u32 *__restrict__ plan, i32 m,
                                                            i64 n, i32 width) {
  SHARED_DYNAMIC(u32, list);
  if (blockIdx.x >= OWNERS) {
    const P zero = {};
    const i64 packs = n * width, each = (i64)blockDim.x * TABLE_FILL;
    for (i64 i = (blockIdx.x - OWNERS) * each + threadIdx.x; i < packs; i += (gridDim.x - OWNERS) * each)
#pragma unroll
      for (int k = 0; k < TABLE_FILL; k++)
        if (i + k * (int)blockDim.x < packs) y[i + k * (int)blockDim.x] = zero;
    return;
  }
  const Listed all = list_positions(list, index, m, n);
  const int count = all.count;
  sort_list(list, count);
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const u32 row = list[i] >> 16;
    const int start = first_from(list, count, row << 16), rank = i - start;
    u32 piece = 0;
    if (rank % PIECE == 0) {
      const int end = row == 0xffff ? count : first_from(list, count, (row + 1) << 16), many = end - start;
      piece = min(end - i, PIECE);
      if (many > PIECE) piece |= SEVERAL | (rank == 0 ? FIRST | (u32)((many + PIECE - 1) / PIECE) << 8 : 0);
    }
    order[all.before + i] = list[i] & 0xffffu;
    plan[all.before + i] = piece;
  }
  if (blockIdx.x == OWNERS - 1)  // positions that name no row
    for (int i = all.before + count + threadIdx.x; i < m; i += blockDim.x) plan[i] = 0;
}

typedef Pack<C, V> Sums;

// sum_place is where a piece of a row with several leaves its sums: of WARP places of the order, at most one begins a row with several pieces and one goes on with one.
INLINE i64 sum_place(int place, bool first) { return 2 * (i64)(place / PIECE) + first; }

INLINE P rounded(const Sums &sum) {
  P x;
#pragma unroll
  for (int v = 0; v < V; v++) x.v[v] = narrow<T>(sum.v[v]);
  return x;
}

// table_pieces: a warp for a place of the order; the grid's second axis goes over stretches of columns.
KERNEL __launch_bounds__(256) table_pieces(P *__restrict__ y, const P *__restrict__ u, const INDEX *__restrict__ index, const u32 *__restrict__ order,
                                           const u32 *__restrict__ plan, Sums *__restrict__ sums, i32 m, i32 width) {
  const int place = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (place >= m) return;
  const u32 piece = plan[place];
  const int count = piece & 0x3f;
  if (count == 0) return;
  const u32 held = lane() < count ? order[place + lane()] : 0;
  const i64 row = (i64)index[__shfl_sync(FULL, held, 0)];
  for (i32 c0 = blockIdx.y * (WARP * TABLE_COLUMNS) + lane(); c0 - lane() < width; c0 += gridDim.y * (WARP * TABLE_COLUMNS)) {
    Sums sum[TABLE_COLUMNS] = {};
#pragma unroll 2
    for (int i = 0; i < count; i++) {
      const P *__restrict__ in = u + (i64)__shfl_sync(FULL, held, i) * width;
      P x[TABLE_COLUMNS];
#pragma unroll
      for (int k = 0; k < TABLE_COLUMNS; k++)
        if (c0 + k * WARP < width) x[k] = in[c0 + k * WARP];
#pragma unroll
      for (int k = 0; k < TABLE_COLUMNS; k++)
        if (c0 + k * WARP < width) {
          keep_packed(x[k]);
#pragma unroll
          for (int v = 0; v < V; v++) sum[k].v[v] = meet(sum[k].v[v], carry(x[k].v[v]));
        }
    }
#pragma unroll
    for (int k = 0; k < TABLE_COLUMNS; k++) {
      const i32 c = c0 + k * WARP;
      if (c >= width) continue;
      if (piece & SEVERAL) sums[sum_place(place, piece & FIRST) * width + c] = sum[k];
      else y[row * width + c] = rounded(sum[k]);
    }
  }
}

// table_rest: a block for PIECE places of the order, of which at most one begins a row with several pieces, and for stretches of columns.
KERNEL __launch_bounds__(128) table_rest(P *__restrict__ y, const INDEX *__restrict__ index, const u32 *__restrict__ order, const u32 *__restrict__ plan,
                                         const Sums *__restrict__ sums, i32 m, i32 width) {
  const int mine = blockIdx.x * PIECE + lane();
  const u32 piece = mine < m ? plan[mine] : 0, hits = __ballot_sync(FULL, piece & FIRST);
  if (hits == 0) return;
  const int at = __ffs(hits) - 1, pieces = __shfl_sync(FULL, piece, at) >> 8, place = blockIdx.x * PIECE + at;
  const i64 row = (i64)index[order[place]];
  for (i32 c = blockIdx.y * blockDim.x + threadIdx.x; c < width; c += gridDim.y * blockDim.x) {
    Sums sum = sums[sum_place(place, true) * width + c];
#pragma unroll 4
    for (int k = 1; k < pieces; k++) {
      const Sums more = sums[sum_place(place + k * PIECE, false) * width + c];
#pragma unroll
      for (int v = 0; v < V; v++) sum.v[v] = meet(sum.v[v], more.v[v]);
    }
    y[row * width + c] = rounded(sum);
  }
}
