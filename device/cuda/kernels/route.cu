// Assignments sorted by expert, and rows written into a cache.

INLINE int bin_of(i32 e, int experts) { return e < 0 || e >= experts ? experts : e; }

// route_count gives the assignments of each bin, the last of which is no expert's. A block is a bin.
KERNEL __launch_bounds__(256) route_count(i32 *__restrict__ counts, const i32 *__restrict__ expert, i64 n, i32 experts) {
  const int bin = blockIdx.x;
  int mine = 0;
  for (i64 i = threadIdx.x; i < n; i += blockDim.x) mine += bin_of(expert[i], experts) == bin;
  mine = block_reduce<Sum>(mine, 0);
  if (threadIdx.x == 0) counts[bin] = mine;
}

// route_place puts the assignments of a block's bin in their own order behind those of the bins before.
KERNEL __launch_bounds__(256) route_place(i32 *__restrict__ order, i32 *__restrict__ inverse, i32 *__restrict__ offsets,
                                          const i32 *__restrict__ counts, const i32 *__restrict__ expert, i64 n, i32 experts) {
  __shared__ int part[8];
  const int bin = blockIdx.x;
  int at = 0;
  for (int e = threadIdx.x; e < bin; e += blockDim.x) at += counts[e];
  at = block_reduce<Sum>(at, 0);
  if (threadIdx.x == 0) offsets[bin] = at;
  for (i64 base = 0; base < n; base += blockDim.x) {
    const i64 i = base + threadIdx.x;
    const bool mine = i < n && bin_of(expert[i], experts) == bin;
    const u32 votes = __ballot_sync(FULL, mine);
    if (lane() == 0) part[threadIdx.x / WARP] = __popc(votes);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < (int)blockDim.x / WARP; w++) {
      if (w < (int)threadIdx.x / WARP) before += part[w];
      all += part[w];
    }
    if (mine) {
      const int to = at + before + __popc(votes & ((1u << lane()) - 1));
      order[to] = (i32)i;
      inverse[i] = to;
    }
    at += all;
    __syncthreads();
  }
}

// cache_rows copies x (b, t, h, width) into y (b, h, size, width) at the positions pos[b] + t. A row of the batch that does not fit
// is left out. width counts units.
KERNEL cache_rows(UNIT *__restrict__ y, const UNIT *__restrict__ x, const i32 *__restrict__ pos, i64 rows, i64 t, i64 h, i64 size, i64 width) {
  for (i64 r = (i64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += (i64)gridDim.x * blockDim.y) {
    const i64 head = r % h, k = r / h % t, b = r / h / t;
    const i64 p = pos[b];
    if (p < 0 || p + t > size) continue;
    UNIT *__restrict__ out = y + ((b * h + head) * size + p + k) * width;
    for (i64 i = (i64)blockIdx.y * blockDim.x + threadIdx.x; i < width; i += (i64)gridDim.y * blockDim.x) out[i] = x[r * width + i];
  }
}

// recur is h_t = a_t·h_{t-1} + b_t along lanes of n elements, carried in float64; with LATE the factor is that of the element before.
KERNEL recur(T *y, const T *a, const T *b, i64 lanes, i64 n, i64 inner) {
  for (i64 l = global_thread(); l < lanes; l += global_threads()) {
    i64 at = l / inner * n * inner + l % inner, step = inner;
    if (REVERSE) at += (n - 1) * inner, step = -inner;
    double state = 0, late = 0;
    for (i64 i = 0; i < n; i++, at += step) {
      const double factor = (double)widen<T>(a[at]);
      state = (i == 0 ? 0.0 : (LATE ? late : factor) * state) + (double)widen<T>(b[at]);
      late = factor;
      y[at] = narrow<T>(state);
    }
  }
}
