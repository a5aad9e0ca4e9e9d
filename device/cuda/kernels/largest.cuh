// The largest magnitude of many values, where NaN wins so that its presence shows, after eight.cuh.

#if defined(BYES_EMULATE) || __CUDA_ARCH__ < 800
typedef Max LargerOrNaN;
#else
struct LargerOrNaN {
  static __device__ __forceinline__ float of(float a, float b) {
    float r;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
  }
};
#endif

// larger_pair is the larger of m and the magnitudes of two values of 16 bits, for each half. Magnitudes are ordered as integers, NaN after infinity.
template <class E> struct LargerPair {
  static __device__ __forceinline__ u32 of(u32 m, u32 two) {
    const u32 lo = two & 0x7fff, hi = two & 0x7fff0000;
    return ((m & 0xffff) > lo ? m & 0xffff : lo) | ((m & 0xffff0000) > hi ? m & 0xffff0000 : hi);
  }
};
#if !defined(BYES_EMULATE) && __CUDA_ARCH__ >= 800
template <> struct LargerPair<bf16> {
  static __device__ __forceinline__ u32 of(u32 m, u32 two) {
    asm("{ .reg .b32 a; abs.bf16x2 a, %1; max.NaN.bf16x2 %0, %0, a; }" : "+r"(m) : "r"(two));
    return m;
  }
};
template <> struct LargerPair<f16> {
  static __device__ __forceinline__ u32 of(u32 m, u32 two) {
    asm("{ .reg .b32 a; abs.f16x2 a, %1; max.NaN.f16x2 %0, %0, a; }" : "+r"(m) : "r"(two));
    return m;
  }
};
#endif

// half_of is the lower or the upper of two values.
template <class E> INLINE E half_of(u32 two, int upper) {
  E e;
  e.bits = (u16)(upper ? two >> 16 : two);
  return e;
}

// largest_half is the larger half.
template <class E> INLINE float largest_half(u32 two) { return LargerOrNaN::of(widen<E>(half_of<E>(two, 0)), widen<E>(half_of<E>(two, 1))); }
