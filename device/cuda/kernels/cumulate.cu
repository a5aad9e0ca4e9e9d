// Running sums and products along the middle axis of (outer, n, inner). Defined before: T; A, what they are carried in; MUL, 1 for products;
// REVERSE, 1 from the end. y may be x: a thread writes what only it has read.

INLINE A combine(A a, A b) { return MUL ? a * b : a + b; }
INLINE A carried(f64 x) { return (A)x; }
INLINE A carried(f32 x) { return (A)x; }
INLINE A carried(bf16 x) { return (A)to_float(x); }
INLINE A carried(f16 x) { return (A)to_float(x); }
template <class X> INLINE A carried(X x) { return (A)x; }
template <class O> struct Put { static __device__ __forceinline__ O of(A x) { return (O)x; } };
template <> struct Put<bf16> { static __device__ __forceinline__ bf16 of(A x) { return narrow<bf16>((f32)x); } };
template <> struct Put<f16> { static __device__ __forceinline__ f16 of(A x) { return narrow<f16>((f32)x); } };

// cumulate_lanes: a thread walks a lane, its neighbours the lanes beside it.
KERNEL cumulate_lanes(T *y, const T *x, i64 outer, i64 n, i64 inner) {
  for (i64 l = global_thread(); l < outer * inner; l += global_threads()) {
    const i64 first = l / inner * n * inner + l % inner;
    A a = MUL;
    for (i64 i = 0; i < n; i++) {
      const i64 at = first + (REVERSE ? n - 1 - i : i) * inner;
      a = combine(a, carried(x[at]));
      y[at] = Put<T>::of(a);
    }
  }
}

// cumulate_scan: a block walks a lane, each of 256 threads with EACH_ neighbours at a time.
enum { EACH_ = 4 };
KERNEL cumulate_scan(T *y, const T *x, i64 outer, i64 n, i64 inner) {
  __shared__ A part[2][256];
  for (i64 l = blockIdx.x; l < outer * inner; l += gridDim.x) {
    const i64 first = l / inner * n * inner + l % inner;
    A carry = MUL;
    for (i64 tile = 0; tile < n; tile += 256 * EACH_) {
      A v[EACH_], a = MUL;
#pragma unroll
      for (int j = 0; j < EACH_; j++) {
        const i64 i = tile + threadIdx.x * EACH_ + j;
        if (i < n) a = combine(a, carried(x[first + (REVERSE ? n - 1 - i : i) * inner]));
        v[j] = a;
      }
      int side = 0;
      part[0][threadIdx.x] = a;
      for (int d = 1; d < 256; d *= 2) {  // doubling (Hillis & Steele 1986)
        __syncthreads();
        const A own = part[side][threadIdx.x];
        part[1 - side][threadIdx.x] = (int)threadIdx.x >= d ? combine(part[side][threadIdx.x - d], own) : own;
        side = 1 - side;
      }
      __syncthreads();
      A before = threadIdx.x > 0 ? combine(carry, part[side][threadIdx.x - 1]) : carry;
#pragma unroll
      for (int j = 0; j < EACH_; j++) {
        const i64 i = tile + threadIdx.x * EACH_ + j;
        if (i < n) y[first + (REVERSE ? n - 1 - i : i) * inner] = Put<T>::of(combine(before, v[j]));
      }
      carry = combine(carry, part[side][255]);
      __syncthreads();
    }
  }
}
