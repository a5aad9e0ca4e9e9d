// Rows added to, or combined with, the rows of a table at given indices, those of one place in the order of the indices. The indices were
// sorted before (sort.cu), so that equal ones lie together, the earlier first; no order depends on time. A thread has V columns.

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

typedef Pack<T, V> P;

// scatter: a block is a position in the order of the indices and a stretch of columns. The first of equal indices does the work of all of them; the
// others have none. Where FRESH, places start at zero and are not read. y (outer, n, width), u (outer, m, width); width counts packs.
KERNEL __launch_bounds__(256) scatter(P *__restrict__ y, const P *__restrict__ u, const INDEX *__restrict__ index, const u32 *__restrict__ order,
                                      i64 outer, i64 m, i64 n, i64 width) {
  __shared__ u32 from[256];
  for (i64 j = blockIdx.x; j < m; j += gridDim.x) {
    const i64 at = index[order[j]];
    if (at < 0 || at >= n || (j > 0 && index[order[j - 1]] == at)) continue;
    for (i64 o = blockIdx.z; o < outer; o += gridDim.z)
      for (i64 c0 = (i64)blockIdx.y * blockDim.x; c0 < width; c0 += (i64)gridDim.y * blockDim.x) {
        const i64 c = c0 + threadIdx.x;
        P *__restrict__ out = y + (o * n + at) * width + c;
        const P *__restrict__ in = u + o * m * width + c;
        C sum[V];
#pragma unroll
        for (int v = 0; v < V; v++) sum[v] = 0;
        if (!FRESH && c < width) {
          const P old = *out;
#pragma unroll
          for (int v = 0; v < V; v++) sum[v] = carry(old.v[v]);
        }
        int count = blockDim.x;
        for (i64 base = j; count == (int)blockDim.x; base += blockDim.x) {
          const i64 k = base + threadIdx.x;
          const u32 mine = k < m ? order[k] : 0u;
          count = __syncthreads_count(k < m && index[mine] == at);  // equal indices lie together: the first `count` threads have them
          from[threadIdx.x] = mine;
          __syncthreads();
          if (c < width) {
#pragma unroll 4
            for (int i = 0; i < count; i++) {
              const P x = in[(i64)from[i] * width];
#pragma unroll
              for (int v = 0; v < V; v++) sum[v] = meet(sum[v], carry(x.v[v]));
            }
          }
          __syncthreads();
        }
        if (c < width) {
          P x;
#pragma unroll
          for (int v = 0; v < V; v++) x.v[v] = narrow<T>(sum[v]);
          *out = x;
        }
      }
  }
}
