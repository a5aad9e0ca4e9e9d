// Attention by warpgroups (compute capability 9.0), after Shah et al. 2024: a block takes BM queries of a head, 64 a warpgroup, and goes over the keys that they
// see BK at a time. While the scores of a tile become weights, the products of the tile before go on, and those of the other group. D (64 or 128), T, BM, BK,
// M (tiles of keys in memory at a time; of values there is one more), APART and CAPPED are defined outside.

#define THREADS (BM * 2)
#define TILE_BYTES (BK * D * 2)

// scores begins s = queries x keys, the queries held in registers.
INLINE void scores(float (*s)[4], const u32 (*queries)[4], const u8 *keys) {
  Operand b = row_operand(keys);
#pragma unroll
  for (int k = 0; k < D; k += 16) group_held<BK, 0>(s[0], queries[k / 16], ahead(b, column_step(BK, k)), k > 0);
}

// outputs begins sum += weights x values.
INLINE void outputs(float (*sum)[4], const u32 (*weights)[4], const u8 *values) {
  Operand b = turned_operand(values, BK);
#pragma unroll
  for (int k = 0; k < BK; k += 16) group_held<D, 1>(sum[0], weights[k / 16], ahead(b, k * 128), 1);
}

// Ring is what a block reads of keys and values. Tile i of the values comes with tile i + 1 of the keys. Where groups meet before the scores of tile i, one of
// them may still multiply weights by the values of tile i - 2; it is done with the keys of i - 1.
struct Ring {
  u8 *keys, *values;
  const T *k, *v;
  i64 step;
  int lo, hi, n;  // keys that are seen, in n tiles
  __device__ __forceinline__ u8 *key_tile(int i) const { return keys + i % M * TILE_BYTES; }
  __device__ __forceinline__ u8 *value_tile(int i) const { return values + i % (M + 1) * TILE_BYTES; }
  __device__ __forceinline__ void begin(int i) const {
    if (i < n) fetch_swizzled<BK, THREADS>(key_tile(i), k, step, lo + i * BK, hi);
    if (i > 0 && i <= n) fetch_swizzled<BK, THREADS>(value_tile(i - 1), v, step, lo + (i - 1) * BK, hi);
    copy_commit();
  }
  // next waits for tile i of the keys and i - 1 of the values, and begins what takes the place of those before.
  __device__ __forceinline__ void next(int i) const {
    arrived<M - 2, THREADS>();
    begin(i + M - 1);
  }
};

// Tile is what a lane has of its queries: operands, scores or weights of a tile of keys, weights as operands, and sums.
struct Tile {
  u32 held[D / 16][4], weights[BK / 16][4];
  float s[BK / 8][4], sum[D / 8][4], shrinks[2];
  FlashRow rows[2];

  // rate turns scores of keys from j0 on into weights.
  template <int MASKED> __device__ __forceinline__ void rate(const Attention &a, float unit, int j0) {
    settle<BK>(s);
    if (CAPPED) {
#pragma unroll
      for (int n = 0; n < BK / 8; n++)
#pragma unroll
        for (int c = 0; c < 4; c++) s[n][c] = soft(s[n][c] * a.scale, a.cap);
    }
    if (MASKED) hide(s, rows, j0);
    weigh(s, rows, unit, shrinks);
  }
  // done waits for the products that are under way.
  __device__ __forceinline__ void done() {
    groups_wait<0>();
    settle<D>(sum);
#pragma unroll
    for (int n = 0; n < BK; n += 16) pack(weights[n / 16], s + n / 8);
  }
  // first begins and waits for the scores of the group's first tile, next for those of another, beside the products of the values of the one before, which
  // done waits for. There is no branch between the beginning of a product and its wait, and the last wait comes after one: else the compiler would
  // wait at once.
  __device__ __forceinline__ void first(const Ring &ring, int i) {
    groups_begin();
    scores(s, held, ring.key_tile(i));
    groups_commit();
    groups_wait<0>();
  }
  __device__ __forceinline__ void next(const Ring &ring, int i) {
    rescale(sum, shrinks);
    groups_begin();
    scores(s, held, ring.key_tile(i));
    groups_commit();
    outputs(sum, weights, ring.value_tile(i - 1));
    groups_commit();
    groups_wait<1>();
  }
  __device__ __forceinline__ void last(const Ring &ring, int i) {
    rescale(sum, shrinks);
    groups_begin();
    outputs(sum, weights, ring.value_tile(i));
    groups_commit();
    groups_wait<0>();
    settle<D>(sum);
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attend_group(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, T *__restrict__ o, float *__restrict__ lse) {
  SHARED_DYNAMIC(u8, dynamic);
  __shared__ int low[BM], high[BM];
  u8 *memory = first_tile(dynamic);
  T *queries = (T *)(memory + (2 * M + 1) * TILE_BYTES);
  int heads = a.b * a.hq, tile = (a.tq + BM - 1) / BM - 1 - (int)blockIdx.x / heads, mine = threadIdx.x / WARP * 16, group = threadIdx.x / GROUP * (GROUP / 2);
  int h = (int)blockIdx.x % heads % a.hq, b = (int)blockIdx.x % heads / a.hq, t0 = tile * BM;
  i64 step = (i64)a.hq * a.d, base = ((i64)b * a.tq * a.hq + h) * a.d, at = b * a.key_batch + h / a.rep * a.key_head;

  fetch<BM, THREADS>(queries, q + base, step, t0, a.tq, a.d);
  for (int i = threadIdx.x; i < BM; i += THREADS) {
    low[i] = 1, high[i] = 0;
    if (t0 + i < a.tq) sees(a, b, t0 + i, low[i], high[i]);
  }
  __syncthreads();
  Span all = span_of(low, high, BM), own = span_of(low + group, high + group, GROUP / 2);
  Ring ring = {memory, memory + M * TILE_BYTES, k + at, v + at, a.key_row, all.lo, all.hi, (all.hi - all.lo + BK - 1) / BK};
#pragma unroll
  for (int i = 0; i < M - 1; i++) ring.begin(i);
  Tile x = {};
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int r = mine + i * 8 + lane() / 4;
    x.rows[i].lo = low[r], x.rows[i].hi = high[r], x.rows[i].top = -INF;
  }
  float unit = LOG2E * (CAPPED ? 1 : a.scale);
  auto whole = [&](int i) { return own.full_lo <= ring.lo + i * BK && ring.lo + (i + 1) * BK <= own.full_hi; };
  Turns mine_of = turns_of(own.lo, own.hi, ring.lo, BK);
  int met = 0;  // groups meet n + 1 times, before tiles 0 to n
  auto meet = [&](int upto) {
    while (met <= upto) ring.next(met++);
  };
  if (mine_of.first < mine_of.last) {
    meet(mine_of.first);
    Spot left = left_spot(queries + mine * STRIDE);
#pragma unroll
    for (int c = 0; c < D; c += 16) load_at(x.held[c / 16], ahead(left, c));
    x.first(ring, mine_of.first);
    for (int i = mine_of.first;; i++) {
      if (late()) meet(i + 1);
      whole(i) ? x.rate<0>(a, unit, ring.lo + i * BK) : x.rate<1>(a, unit, ring.lo + i * BK);
      x.done();
      if (!late()) meet(i + 1);
      if (i + 1 == mine_of.last) break;
      x.next(ring, i + 1);
    }
    x.last(ring, mine_of.last - 1);
  }
  if (ring.n > 0) meet(ring.n);
  copy_wait<0>();
  __syncthreads();  // where no key is seen, the copies of the queries may still be under way
  float f[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float end;
    f[half] = finish(x.rows[half], unit, end);
    int t = t0 + mine + 8 * half + lane() / 4;
    if (lane() % 4 == 0 && t < a.tq) lse[((i64)b * a.hq + h) * a.tq + t] = end;
  }
  deliver(o + base, step, t0 + mine, a.tq, a.d, queries + mine * STRIDE, x.sum, f[0], f[1]);
}
