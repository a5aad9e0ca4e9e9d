// The gradient of attention by warpgroups (compute capability 9.0), in the two passes of attention_flash_grad.cu: every sum is made by one warpgroup
// in one order. While the elements of a tile are computed, the products of the tile before go on, and those of the other group. D (64 or 128), T, APART and CAPPED
// are defined outside; blocks have BM = 128 rows, queries or keys, 64 a warpgroup, and go over tiles of BK = 64 of the others, M of which are in
// memory at a time. PASS is that of attention_flash_grad.cu.

#define THREADS (BM * 2)
#define TILE_BYTES (BK * D * 2)

// Pairs are two tensors whose tiles of BK rows come together: keys and values, or queries and their gradients.
struct Pairs {
  u8 *memory;
  __device__ __forceinline__ u8 *first(int i) const { return memory + i % M * (2 * TILE_BYTES); }
  __device__ __forceinline__ u8 *second(int i) const { return first(i) + TILE_BYTES; }
  __device__ __forceinline__ void fetch(int i, const T *x, const T *y, i64 step, int from, int to) const {
    fetch_swizzled<BK, THREADS>(first(i), x, step, from, to);
    fetch_swizzled<BK, THREADS>(second(i), y, step, from, to);
  }
};

// add begins sum += weights x a tile's rows.
INLINE void add(float (*sum)[4], const u32 (*weights)[4], const u8 *tile) {
  Operand b = turned_operand(tile, BK);
#pragma unroll
  for (int k = 0; k < BK; k += 16) group_held<D, 1>(sum[0], weights[k / 16], ahead(b, k * 128), 1);
}

INLINE void pack_tile(u32 (*weights)[4], const float (*x)[4]) {
#pragma unroll
  for (int n = 0; n < BK; n += 16) pack(weights[n / 16], x + n / 8);
}

INLINE void hold(u32 (*held)[4], const T *rows) {
  Spot left = left_spot(rows);
#pragma unroll
  for (int c = 0; c < D; c += 16) load_at(held[c / 16], ahead(left, c));
}

// Query is what a lane has of its queries: both left operands, products, weights as operands, and the gradient.
struct Query {
  u32 held[D / 16][4], held_dout[D / 16][4], weights[BK / 16][4];
  float s[BK / 8][4], dp[BK / 8][4], sum[D / 8][4], top[2], shift[2];
  int lo[2], hi[2];

  __device__ __forceinline__ void multiply(const Pairs &tiles, int i) {
    Operand keys = row_operand(tiles.first(i)), values = row_operand(tiles.second(i));
    groups_begin();
#pragma unroll
    for (int k = 0; k < D; k += 16) group_held<BK, 0>(s[0], held[k / 16], ahead(keys, column_step(BK, k)), k > 0);
#pragma unroll
    for (int k = 0; k < D; k += 16) group_held<BK, 0>(dp[0], held_dout[k / 16], ahead(values, column_step(BK, k)), k > 0);
    groups_commit();
  }
  template <int MASKED> __device__ __forceinline__ void rate(const Attention &a, int j0) {
    settle<BK>(s), settle<BK>(dp);
    auto seen = [&](int n, int i) {
      int j = j0 + 8 * n + lane() % 4 * 2 + i % 2;
      return lo[i / 2] <= j && j < hi[i / 2];
    };
    auto base = [&](int, int i) { return top[i / 2]; };
    auto less = [&](int, int i) { return shift[i / 2]; };
    differentiate_tile<BK>(a, s, dp, base, less, !MASKED, seen);
  }
  // first and next make the products of tiles, as in attention_group.cu; done waits for the last product.
  __device__ __forceinline__ void first(const Pairs &tiles, int i) {
    multiply(tiles, i);
    groups_wait<0>();
  }
  __device__ __forceinline__ void next(const Pairs &tiles, int i) {
    multiply(tiles, i);
    add(sum, weights, tiles.first(i - 1));
    groups_commit();
    groups_wait<1>();
  }
  __device__ __forceinline__ void done() {
    groups_wait<0>();
    settle<D>(sum);
    pack_tile(weights, dp);
  }
};

#if !defined(PASS) || PASS == 1
// attend_group_dq takes BM queries of a head and goes over the keys that they see.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
attend_group_dq(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const T *__restrict__ dout,
                const float *__restrict__ lse, const float *__restrict__ delta, T *__restrict__ dq) {
  SHARED_DYNAMIC(u8, dynamic);
  __shared__ int low[BM], high[BM];
  Pairs tiles = {first_tile(dynamic)};
  T *queries = (T *)(tiles.memory + 2 * M * TILE_BYTES), *douts = queries + BM * STRIDE;
  int heads = a.b * a.hq, tile = (a.tq + BM - 1) / BM - 1 - (int)blockIdx.x / heads, mine = threadIdx.x / WARP * 16, group = threadIdx.x / GROUP * (GROUP / 2);
  int h = (int)blockIdx.x % heads % a.hq, b = (int)blockIdx.x % heads / a.hq, t0 = tile * BM;
  i64 step = (i64)a.hq * a.d, base = ((i64)b * a.tq * a.hq + h) * a.d, numbers = ((i64)b * a.hq + h) * a.tq;
  k += b * a.key_batch + h / a.rep * a.key_head, v += b * a.key_batch + h / a.rep * a.key_head;
  fetch<BM, THREADS>(queries, q + base, step, t0, a.tq, a.d);
  fetch<BM, THREADS>(douts, dout + base, step, t0, a.tq, a.d);
  for (int i = threadIdx.x; i < BM; i += THREADS) {
    low[i] = 1, high[i] = 0;
    if (t0 + i < a.tq) sees(a, b, t0 + i, low[i], high[i]);
  }
  __syncthreads();
  Span all = span_of(low, high, BM), own = span_of(low + group, high + group, GROUP / 2);
  int n = (all.hi - all.lo + BK - 1) / BK;
  auto begin = [&](int i) {
    if (i < n) tiles.fetch(i, k, v, a.key_row, all.lo + i * BK, all.hi);
    copy_commit();
  };
  auto whole = [&](int i) { return own.full_lo <= all.lo + i * BK && all.lo + (i + 1) * BK <= own.full_hi; };
#pragma unroll
  for (int i = 0; i < M - 3; i++) begin(i);
  Query x = {};
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int r = mine + 8 * i + lane() / 4;
    bool there = t0 + r < a.tq;
    x.lo[i] = low[r], x.hi[i] = high[r];
    x.top[i] = there ? lse[numbers + t0 + r] * LOG2E : 0, x.shift[i] = there ? delta[numbers + t0 + r] : 0;
  }
  Turns turns = turns_of(own.lo, own.hi, all.lo, BK);
  int met = 0;
  // Where groups meet before tile i, one of them may still have tile i - 1 to come and add with i - 2.
  auto meet = [&](int upto) {
    for (; met <= upto; met++) {
      arrived<M - 4, THREADS>();
      begin(met + M - 3);
    }
  };
  if (turns.first < turns.last) {
    meet(turns.first);
    hold(x.held, queries + mine * STRIDE), hold(x.held_dout, douts + mine * STRIDE);
    x.first(tiles, turns.first);
    for (int i = turns.first;; i++) {
      if (late()) meet(min(i + 1, n - 1));
      whole(i) ? x.rate<0>(a, all.lo + i * BK) : x.rate<1>(a, all.lo + i * BK);
      x.done();
      if (!late()) meet(min(i + 1, n - 1));
      if (i + 1 == turns.last) break;
      x.next(tiles, i + 1);
    }
    groups_begin();
    add(x.sum, x.weights, tiles.first(turns.last - 1));
    groups_commit();
    groups_wait<0>();
    settle<D>(x.sum);
  }
  meet(n - 1);
  copy_wait<0>();
  __syncthreads();
  deliver(dq + base, step, t0 + mine, a.tq, a.d, queries + mine * STRIDE, x.sum, a.scale, a.scale);
}
#endif

// Beside are the numbers of a tile's queries: the first key that each sees, how many, its lse times log2 e and delta.
struct alignas(8) Beside {
  int low[BK];
  u32 count[BK];
  float top[BK], shift[BK];
};

// Steps are the tiles of queries that a block of keys goes over: those of [from, to) for each head.
struct Steps {
  const T *q, *dout;
  const float *lse, *delta;
  int b, h0, from, to, each, n;
  int lo, hi;  // of this thread's query, for Beside
  float top, shift;

  // begin starts copying tile number i.
  __device__ __forceinline__ void begin(const Attention &a, const Pairs &tiles, int i) const {
    if (i < n) {
      i64 base = ((i64)b * a.tq * a.hq + h0 + i / each) * a.d;
      tiles.fetch(i, q + base, dout + base, (i64)a.hq * a.d, from + i % each * BK, to);
    }
    copy_commit();
  }
  // read reads the numbers of tile i, which put writes long after.
  __device__ __forceinline__ void read(const Attention &a, int i) {
    int h = h0 + i / each, t = from + i % each * BK + threadIdx.x;
    lo = hi = 0, top = shift = 0;
    if (threadIdx.x < BK && i < n && t < to) {
      sees(a, b, t, lo, hi);
      i64 number = ((i64)b * a.hq + h) * a.tq + t;
      top = lse[number] * LOG2E, shift = delta[number];
    }
  }
  __device__ __forceinline__ void put(Beside &x) const {
    if (threadIdx.x < BK) x.low[threadIdx.x] = lo, x.count[threadIdx.x] = hi - lo, x.top[threadIdx.x] = top, x.shift[threadIdx.x] = shift;
  }
};

// ranges_of sets range[2g], range[2g + 1] to the queries that see one of the keys of group g, of those [j0, end) of row b.
INLINE void ranges_of(const Attention &a, int b, int j0, int end, int *range) {
  int from, to, skip, second = j0 + GROUP / 2;
  seen_by(a, b, j0, from, skip), seen_by(a, b, end - 1, skip, to);
  if (threadIdx.x < 4) range[threadIdx.x] = threadIdx.x % 2 ? 0 : a.tq;
  __syncthreads();
  for (int t = from + threadIdx.x; t < to; t += THREADS) {
    int lo, hi;
    sees(a, b, t, lo, hi);
    if (lo >= hi) continue;
    if (lo < min(second, end) && hi > j0) atomicMin(&range[0], t), atomicMax(&range[1], t + 1);
    if (lo < end && hi > second) atomicMin(&range[2], t), atomicMax(&range[3], t + 1);
  }
  __syncthreads();
}

// barrier keeps the compiler from reading the numbers of all columns first, which takes registers.
INLINE void barrier() {
#ifndef BYES_EMULATE
  asm volatile("" ::: "memory");
#endif
}

// Key is what a lane has of its keys: products, whose rows are keys, weights as operands, and both gradients.
struct Key {
  Operand keys, values;
  u32 weights[BK / 16][4], weights_dp[BK / 16][4];
  float s[BK / 8][4], dp[BK / 8][4], sum_k[D / 8][4], sum_v[D / 8][4];

  __device__ __forceinline__ void multiply(const Pairs &tiles, int i) {
    Operand queries = row_operand(tiles.first(i)), douts = row_operand(tiles.second(i));
    groups_begin();
#pragma unroll
    for (int k = 0; k < D; k += 16) group_lying<BK>(s[0], ahead(keys, column_step(BM, k)), ahead(queries, column_step(BK, k)), k > 0);
#pragma unroll
    for (int k = 0; k < D; k += 16) group_lying<BK>(dp[0], ahead(values, column_step(BM, k)), ahead(douts, column_step(BK, k)), k > 0);
    groups_commit();
  }
  // rate has j as the key of a lane's first row. It looks at all masks: a way without them would take registers.
  __device__ __forceinline__ void rate(const Attention &a, const Beside &x, int j) {
    settle<BK>(s), settle<BK>(dp);
#pragma unroll
    for (int n = 0; n < BK / 8; n++) {
      int t = 8 * n + lane() % 4 * 2;
      Pack<float, 2> top = load_pack<2>(x.top + t), shift = load_pack<2>(x.shift + t);
      Pack<int, 2> low = load_pack<2>(x.low + t);
      Pack<u32, 2> count = load_pack<2>(x.count + t);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int c = i % 2;
        bool out = (u32)(j + i / 2 * 8 - low.v[c]) >= count.v[c];
        differentiate(a, s[n][i], dp[n][i], top.v[c], shift.v[c], out);
      }
      if (n % 2) pack(weights[n / 2], s + n - 1), pack(weights_dp[n / 2], dp + n - 1);
      barrier();
    }
  }
  // begun makes the products of a tile of queries, added the sums. Neither is left under way: beside two sums there are no registers to compute
  // elements meanwhile, which the other warpgroup does.
  __device__ __forceinline__ void begun(const Pairs &tiles, int i) {
    multiply(tiles, i);
    groups_wait<0>();
  }
  __device__ __forceinline__ void added(const Attention &a, const Pairs &tiles, const Beside &x, int i, int j) {
    rate(a, x, j);
    groups_begin();
    add(sum_v, weights, tiles.second(i));
    add(sum_k, weights_dp, tiles.first(i));
    groups_commit();
  }
  __device__ __forceinline__ void done() {
    groups_wait<0>();
    settle<D>(sum_k), settle<D>(sum_v);
  }
};

#if !defined(PASS) || PASS == 2
// attend_group_dkv takes BM keys of a key head and goes over the queries that see them, of all heads that share it.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
attend_group_dkv(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const T *__restrict__ dout,
                 const float *__restrict__ lse, const float *__restrict__ delta, T *__restrict__ dk, T *__restrict__ dv) {
  SHARED_DYNAMIC(u8, dynamic);
  __shared__ Beside beside[4];  // of the tile that comes, and of those that the groups work on
  __shared__ int range[4];
  u8 *keys = first_tile(dynamic), *values = keys + BM * D * 2;
  Pairs tiles = {values + BM * D * 2};
  int heads = a.b * a.hkv, j0 = (int)blockIdx.x / heads * BM, g = (int)blockIdx.x % heads % a.hkv, b = (int)blockIdx.x % heads / a.hkv;
  int mine = threadIdx.x / WARP * 16, end = min(j0 + BM, a.tk), from, to;
  i64 at = b * a.key_batch + g * a.key_head;
  fetch_swizzled<BM, THREADS>(keys, k + at, a.key_row, j0, a.tk);
  fetch_swizzled<BM, THREADS>(values, v + at, a.key_row, j0, a.tk);
  ranges_of(a, b, j0, end, range);
  from = min(range[0], range[2]), to = max(range[1], range[3]);
  Turns turns = turns_of(range[threadIdx.x / GROUP * 2], range[threadIdx.x / GROUP * 2 + 1], from, BK);
  int each = (max(to - from, 0) + BK - 1) / BK, j = j0 + mine + lane() / 4;
  Steps steps = {q, dout, lse, delta, b, g * a.rep, from, to, each, each * a.rep};
  Key x = {};
  int group = threadIdx.x / GROUP * (GROUP / 2) * 128;  // bytes of a column of the rows before
  x.keys = row_operand(keys + group), x.values = row_operand(values + group);
#pragma unroll
  for (int i = 0; i < M - 2; i++) steps.begin(a, tiles, i);
  steps.read(a, 0);
  // Where groups meet before tile i, one of them may still have the sums of tile i - 1 to make.
  auto meet = [&](int i) {
    if (i >= steps.n) return;
    steps.put(beside[i % 4]);
    arrived<M - 3, THREADS>();
    steps.begin(a, tiles, i + M - 2);
    steps.read(a, i + 1);
  };
  meet(0);
  for (int i = 0; i < steps.n; i++) {
    int at = i % each;
    if (at < turns.first || at >= turns.last) {
      meet(i + 1);
      continue;
    }
    x.begun(tiles, i);
    if (late()) meet(i + 1);
    x.added(a, tiles, beside[i % 4], i, j);
    x.done();
    if (!late()) meet(i + 1);
  }
  copy_wait<0>();
  __syncthreads();
  T *stage = (T *)tiles.memory + mine * STRIDE;
  deliver(dk + at, a.key_row, j0 + mine, end, a.d, stage, x.sum_k, a.scale, a.scale);
  deliver(dv + at, a.key_row, j0 + mine, end, a.d, stage, x.sum_v, 1, 1);
}
#endif
