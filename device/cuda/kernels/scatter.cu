// Rows added to, or combined with, the rows of a table at given indices, in the order of the indices: the first row (of ScatterSet the
// last) that goes to a place does the work of all of them, so that no order depends on time.

// Carry is what values are combined in: float for the half types, else the type itself.
template <class A> struct CarryOf { typedef A type; };
template <> struct CarryOf<bf16> { typedef float type; };
template <> struct CarryOf<f16> { typedef float type; };
typedef typename CarryOf<T>::type C;

INLINE C carry(T x) { return (C)widen<T>(x); }

INLINE C meet(C a, C b) {
#if KIND == 1
  return (C)(a + b);
#elif KIND == 2
  return (C)(a * b);
#elif KIND == 3
  return a != a || a > b ? a : b;
#elif KIND == 4
  return a != a || a < b ? a : b;
#else
  return b;
#endif
}

// taken says whether one of the indices [from, to) is `at`; all threads get the answer.
INLINE bool taken(const INDEX *__restrict__ index, i64 from, i64 to, i64 at) {
  for (i64 base = from; base < to; base += blockDim.x) {
    const i64 i = base + threadIdx.x;
    if (__syncthreads_or(i < to && index[i] == at)) return true;
  }
  return false;
}

// scatter: a block is one index k and a stretch of columns. Its threads look through the other indices together, and each then
// combines its columns. Where FRESH, places start at zero and are not read. y (outer, n, width), u (outer, m, width).
KERNEL __launch_bounds__(256) scatter(T *__restrict__ y, const T *__restrict__ u, const INDEX *__restrict__ index, i64 outer, i64 m, i64 n, i64 width) {
  __shared__ int hits[256];
  __shared__ int found;
  for (i64 k = blockIdx.x; k < m; k += gridDim.x) {
    const i64 at = index[k];
    if (at < 0 || at >= n) continue;
#if KIND == 0
    if (taken(index, k + 1, m, at)) continue;
#else
    if (taken(index, 0, k, at)) continue;
#endif
    for (i64 o = blockIdx.z; o < outer; o += gridDim.z) {
      T *__restrict__ out = y + (o * n + at) * width;
      const T *__restrict__ from = u + o * m * width;
      for (i64 c0 = (i64)blockIdx.y * blockDim.x; c0 < width; c0 += (i64)gridDim.y * blockDim.x) {
        const i64 c = c0 + threadIdx.x;
        C sum = 0;
#if KIND == 0
        if (c < width) out[c] = from[k * width + c];
        (void)sum;
#else
        if (!FRESH && c < width) sum = carry(out[c]);
        for (i64 base = k; base < m; base += blockDim.x) {
          const bool mine = base + threadIdx.x < m && index[base + threadIdx.x] == at;
          if (!__syncthreads_or(mine)) continue;
          if (threadIdx.x == 0) found = 0;
          __syncthreads();
          // The places of the hits among the block's indices, in order: warps one after another.
          const u32 warp = __ballot_sync(FULL, mine);
          for (int w = 0; w < (int)blockDim.x / WARP; w++) {
            if ((int)threadIdx.x / WARP == w) {
              const int first = found;
              __syncwarp();
              if (mine) hits[first + __popc(warp & ((1u << lane()) - 1))] = (int)threadIdx.x;
              if (lane() == 0) found = first + __popc(warp);
            }
            __syncthreads();
          }
          const int count = found;
          if (c < width)
            for (int i = 0; i < count; i++) sum = meet(sum, carry(from[(base + hits[i]) * width + c]));
          __syncthreads();
        }
        if (c < width) out[c] = narrow<T>(sum);
#endif
      }
    }
  }
}
