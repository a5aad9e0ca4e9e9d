// Attention of few queries over many keys, as in generation: the keys that are seen are cut into parts, one a block, and the parts are
// joined in order. A group of LANES lanes takes a key at a time, each lane VEC columns of it, for ROWS queries (positions times the heads
// that share a key head) at once. T, ROWS, LANES, AHEAD (keys that a group asks for at once) and RESIDENT (blocks of a multiprocessor that registers are bounded
// for) are defined outside.

#define VEC (16 / (int)sizeof(T))
#define THREADS 128
#define GROUPS (THREADS / LANES)
#define LEAST 32  // keys of a part, at least: with few keys some of the 64 or fewer parts stay empty

struct Few { float top[ROWS], total[ROWS], sum[ROWS][VEC]; };

// Taken are keys and values under way.
struct Taken { Pack<T, VEC> key[AHEAD], value[AHEAD]; };

// ask starts reading the keys at j, j + GROUPS, ... below `to`, AHEAD of them.
INLINE void ask(Taken &x, const Attention &a, const T *k, const T *v, int j, int to, bool column) {
#pragma unroll
  for (int i = 0; i < AHEAD; i++) {
    x.key[i] = Pack<T, VEC>(), x.value[i] = Pack<T, VEC>();
    if (column && j + i * GROUPS < to) {
      x.key[i] = load_pack<VEC>(k + (j + i * GROUPS) * a.key_row);
      x.value[i] = load_pack<VEC>(v + (j + i * GROUPS) * a.key_row);
    }
  }
}

// take adds them.
INLINE void take(Few &f, const Taken &x, const Attention &a, const float (*q)[VEC], int j, int to, const int *low, const int *high) {
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    float s[AHEAD], high_score = f.top[r];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      s[i] = 0;
#pragma unroll
      for (int c = 0; c < VEC; c++) s[i] += q[r][c] * widen(x.key[i].v[c]);
      for (int d = LANES / 2; d > 0; d >>= 1) s[i] += __shfl_xor_sync(FULL, s[i], d);
      int at = j + i * GROUPS;
      s[i] = at < to && low[r] <= at && at < high[r] ? capped(a, s[i] * a.scale) * 1.4426950408889634f : -INF;
      high_score = Max::of(high_score, s[i]);
    }
    float base = high_score == -INF ? 0.f : high_score, shrink = exp2f(f.top[r] - base);
    f.total[r] *= shrink, f.top[r] = high_score;
#pragma unroll
    for (int c = 0; c < VEC; c++) f.sum[r][c] *= shrink;
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      float p = exp2f(s[i] - base);
      f.total[r] += p;
#pragma unroll
      for (int c = 0; c < VEC; c++) f.sum[r][c] += p * widen(x.value[i].v[c]);
    }
  }
}

// finish writes a query's output and lse from its parts' sum, total and greatest score (times log2 e).
INLINE void finish(const Attention &a, T *o, Acc<T> *lse, int b, int t, int h, int column, float sum, float total, float top) {
  bool none = total == 0;
  o[(((i64)b * a.tq + t) * a.hq + h) * a.d + column] = narrow<T>(none ? 0.f : sum / total);
  if (column == 0) lse[((i64)b * a.hq + h) * a.tq + t] = none ? NO_KEYS : top * 0.6931471805599453f + logf(total);
}

// attend_few: block ((b, key head, rows / ROWS), part). sums are (block, ROWS, d), tops (block, ROWS, 2): greatest score and total, which is
// -1 for parts that are not used, whose sums are not written. With a single part o and lse are written instead.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
attend_few(Attention a, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, T *__restrict__ o, Acc<T> *__restrict__ lse,
           float *__restrict__ sums, float *__restrict__ tops) {
  __shared__ int low[ROWS], high[ROWS];
  __shared__ float all[GROUPS][ROWS][LANES * VEC], marks[GROUPS][ROWS][2];
  int n = a.tq * a.rep, slices = (n + ROWS - 1) / ROWS, part = blockIdx.x % a.parts, slice = blockIdx.x / a.parts % slices;
  int g = blockIdx.x / a.parts / slices % a.hkv, b = blockIdx.x / a.parts / slices / a.hkv, r0 = slice * ROWS;
  int group = threadIdx.x / LANES, at = threadIdx.x % LANES * VEC;
  bool column = at < a.d;
  Pack<T, VEC> loaded[ROWS] = {};  // asked for first: everything below waits for memory too
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    int t = (r0 + r) / a.rep, h = g * a.rep + (r0 + r) % a.rep;
    if (column && r0 + r < n) loaded[r] = load_pack<VEC>(q + (((i64)b * a.tq + t) * a.hq + h) * a.d + at);
  }
  if (threadIdx.x < ROWS) {
    low[threadIdx.x] = high[threadIdx.x] = 0;
    if (r0 + threadIdx.x < n) sees(a, b, (r0 + threadIdx.x) / a.rep, low[threadIdx.x], high[threadIdx.x]);
  }
  __syncthreads();
  int lo = a.tk, hi = 0;
  for (int r = 0; r < ROWS; r++)
    if (low[r] < high[r]) lo = min(lo, low[r]), hi = max(hi, high[r]);
  lo = min(lo, hi);
  int used = max(min(a.parts, (hi - lo) / LEAST), 1);
  if (part >= used) {
    if (threadIdx.x < ROWS) tops[((i64)blockIdx.x * ROWS + threadIdx.x) * 2 + 1] = -1;
    return;
  }
  int from = lo + (int)((i64)(hi - lo) * part / used), to = lo + (int)((i64)(hi - lo) * (part + 1) / used);
  float query[ROWS][VEC];
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int c = 0; c < VEC; c++) query[r][c] = widen(loaded[r].v[c]);
  i64 head = b * a.key_batch + g * a.key_head + at;
  Few f = {};
#pragma unroll
  for (int r = 0; r < ROWS; r++) f.top[r] = -INF;
  Taken now, then;
  ask(now, a, k + head, v + head, from + group, to, column);
  for (int j = from + group; j - group < to; j += GROUPS * AHEAD) {
    ask(then, a, k + head, v + head, j + GROUPS * AHEAD, to, column);
    take(f, now, a, query, j, to, low, high);
    now = then;
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (at == 0) marks[group][r][0] = f.top[r], marks[group][r][1] = f.total[r];
#pragma unroll
    for (int c = 0; c < VEC; c++) all[group][r][at + c] = f.sum[r][c];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < ROWS * a.d; i += THREADS) {
    int r = i / a.d, c = i % a.d;
    float top = -INF, total = 0, sum = 0;
    for (int s = 0; s < GROUPS; s++) top = Max::of(top, marks[s][r][0]);
    for (int s = 0; s < GROUPS; s++) {
      float w = marks[s][r][0] == -INF ? 0.f : exp2f(marks[s][r][0] - top);
      total += w * marks[s][r][1], sum += w * all[s][r][c];
    }
    if (a.parts > 1) {
      i64 row = (i64)blockIdx.x * ROWS + r;
      sums[row * a.d + c] = sum;
      if (c == 0) tops[row * 2] = top, tops[row * 2 + 1] = total;
    } else if (r0 + r < n) {
      finish(a, o, lse, b, (r0 + r) / a.rep, g * a.rep + (r0 + r) % a.rep, c, sum, total, top);
    }
  }
}

// attend_join: a block of THREADS a (b, key head, row); every warp weighs the parts, two a lane.
KERNEL attend_join(Attention a, const float *__restrict__ sums, const float *__restrict__ tops, T *__restrict__ o, Acc<T> *__restrict__ lse) {
  int n = a.tq * a.rep, slices = (n + ROWS - 1) / ROWS, r = blockIdx.x % n, g = blockIdx.x / n % a.hkv, b = blockIdx.x / n / a.hkv;
  i64 first = ((((i64)b * a.hkv + g) * slices + r / ROWS) * a.parts) * ROWS + r % ROWS;
  float top[2], total[2], high = -INF, all = 0;
  int used = 0;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int p = lane() + i * WARP;
    bool there = p < a.parts;
    i64 row = first + (i64)(there ? p : 0) * ROWS;
    top[i] = there ? tops[row * 2] : -INF, total[i] = there ? tops[row * 2 + 1] : -1.f;
    if (total[i] == -1) top[i] = -INF, total[i] = 0;  // not used: top was not written
    else used++;
    high = Max::of(high, top[i]);
  }
  used = warp_reduce<Sum>(used), high = warp_reduce<Max>(high);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    top[i] = top[i] == -INF ? 0.f : exp2f(top[i] - high);
    all += top[i] * total[i];
  }
  all = warp_reduce<Sum>(all);
  for (int c0 = threadIdx.x - lane(); c0 < a.d; c0 += blockDim.x) {
    int c = c0 + lane();
    float sum = 0;
#pragma unroll 8
    for (int p = 0; p < used; p++) {
      float w = __shfl_sync(FULL, p < WARP ? top[0] : top[1], p % WARP);
      if (c < a.d) sum += w * sums[(first + (i64)p * ROWS) * a.d + c];
    }
    if (c < a.d) finish(a, o, lse, b, r / a.rep, g * a.rep + r % a.rep, c, sum, all, high);
  }
}
