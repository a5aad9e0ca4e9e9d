// What every kernel stands on: types, conversions, reductions. Compiled by NVRTC without headers, and by a C++ compiler under
// BYES_EMULATE, where the emulator's header before this file supplies CUDA's own words (threadIdx, __shfl_xor_sync, float4, ...).

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

// bf16 and f16 are storage: arithmetic is in float. to_float and from_float convert, rounding to nearest even.
struct bf16 { u16 bits; };
struct f16 { u16 bits; };

#define INLINE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void
#define CONSTANT static __device__ const  // a table: CONSTANT u32 t[2] = {1, 2};
#define WARP 32
#define FULL 0xffffffffu
#define INF __int_as_float(0x7f800000)

// SHARED_DYNAMIC declares name as the block's dynamic shared memory (Geometry.Shared bytes, aligned to 128).
#ifdef BYES_EMULATE
#define SHARED_DYNAMIC(type, name) type *name = (type *)emulate_self->dynamic
#else
extern __shared__ __align__(128) u8 dynamic_shared_bytes[];
#define SHARED_DYNAMIC(type, name) type *name = reinterpret_cast<type *>(dynamic_shared_bytes)
#endif

INLINE float to_float(float x) { return x; }
INLINE float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

#ifdef BYES_EMULATE
INLINE u16 bits_bf16(float x) {
  u32 u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // as cvt.rn.bf16.f32 does
  return (u16)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
INLINE u16 bits_f16(float x) { return emulate_float_to_half(x); }
INLINE float float_f16(u16 h) { return emulate_half_to_float(h); }
#else
INLINE u16 bits_bf16(float x) {
#if __CUDA_ARCH__ >= 800
  u32 r;  // the conversion of two is the fast one
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(0.0f), "f"(x));
  return (u16)r;
#else
  u32 u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (u16)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
#endif
}
INLINE u16 bits_f16(float x) {
#if __CUDA_ARCH__ >= 800
  u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(0.0f), "f"(x));
  return (u16)r;
#else
  u16 r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
  return r;
#endif
}
INLINE float float_f16(u16 h) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(h));
  return r;
}
#endif
INLINE float to_float(f16 x) { return float_f16(x.bits); }

// Acc<T> is the type that values of T are computed and summed in: float, double for double, a 64-bit integer for integers.
template <class T> struct AccOf { typedef i64 type; };
template <> struct AccOf<f32> { typedef f32 type; };
template <> struct AccOf<bf16> { typedef f32 type; };
template <> struct AccOf<f16> { typedef f32 type; };
template <> struct AccOf<f64> { typedef f64 type; };
template <class T> using Acc = typename AccOf<T>::type;

// widen loads into Acc<T>; narrow<T> rounds back, once.
template <class T> INLINE Acc<T> widen(T x) { return (Acc<T>)x; }
template <> __device__ __forceinline__ f32 widen<bf16>(bf16 x) { return to_float(x); }
template <> __device__ __forceinline__ f32 widen<f16>(f16 x) { return to_float(x); }
template <class T> struct Narrow { template <class A> static __device__ __forceinline__ T from(A x) { return (T)x; } };
template <> struct Narrow<bf16> { static __device__ __forceinline__ bf16 from(float x) { bf16 r; r.bits = bits_bf16(x); return r; } };
template <> struct Narrow<f16> { static __device__ __forceinline__ f16 from(float x) { f16 r; r.bits = bits_f16(x); return r; } };
template <class T, class A> INLINE T narrow(A x) { return Narrow<T>::from(x); }

// narrow_pair rounds two values to a type of two bytes and packs them in a word, a in the lower half.
template <class T> struct NarrowPair {
  static __device__ __forceinline__ u32 from(float a, float b) { return (u32)narrow<T>(a).bits | (u32)narrow<T>(b).bits << 16; }
};
#if !defined(BYES_EMULATE) && __CUDA_ARCH__ >= 800
template <> struct NarrowPair<bf16> {
  static __device__ __forceinline__ u32 from(float a, float b) { u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a)); return r; }
};
template <> struct NarrowPair<f16> {
  static __device__ __forceinline__ u32 from(float a, float b) { u32 r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a)); return r; }
};
#endif
template <class T> INLINE u32 narrow_pair(float a, float b) { return NarrowPair<T>::from(a, b); }

// Pack<T, N> is N values read or written at once; N * sizeof(T) is 2, 4, 8 or 16 and the address a multiple of it.
template <class T, int N> struct __align__(sizeof(T) * N) Pack { T v[N]; };
template <int N, class T> INLINE Pack<T, N> load_pack(const T *p) { return *reinterpret_cast<const Pack<T, N> *>(p); }
template <class T, int N> INLINE void store_pack(T *p, const Pack<T, N> &x) { *reinterpret_cast<Pack<T, N> *>(p) = x; }

INLINE i64 global_thread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
INLINE i64 global_threads() { return (i64)gridDim.x * blockDim.x; }
INLINE int lane() { return threadIdx.x & 31; }

struct Sum { template <class A> static __device__ __forceinline__ A of(A a, A b) { return a + b; } };
struct Max { template <class A> static __device__ __forceinline__ A of(A a, A b) { return a != a || a > b ? a : b; } };  // NaN wins
struct Min { template <class A> static __device__ __forceinline__ A of(A a, A b) { return a != a || a < b ? a : b; } };

// warp_reduce gives every lane of a full warp the result, in a fixed order.
template <class R, class A> INLINE A warp_reduce(A x) {
  for (int d = 16; d > 0; d >>= 1) x = R::of(x, __shfl_xor_sync(FULL, x, d));
  return x;
}

// block_reduce gives every thread of a one-dimensional block of whole warps the result, in a fixed order. `none` is the value that
// changes nothing. Calls may follow each other.
template <class R, class A> INLINE A block_reduce(A x, A none) {
  __shared__ A part[32];
  x = warp_reduce<R>(x);
  int warps = blockDim.x / WARP;
  __syncthreads();
  if (lane() == 0) part[threadIdx.x / WARP] = x;
  __syncthreads();
  x = lane() < warps ? part[lane()] : none;
  return warp_reduce<R>(x);
}
