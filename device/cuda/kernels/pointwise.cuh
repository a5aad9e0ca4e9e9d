// What generated chains of elementwise functions are put together from. Values are f32 for f16, bf16 and f32, f64, bool, u64, and i64 for
// the other integers.

#define EACH _Pragma("unroll") for (int j = 0; j < N; j++)

// wide reads an element as a value.
INLINE f32 wide(f32 x) { return x; }
INLINE f32 wide(bf16 x) { return to_float(x); }
INLINE f32 wide(f16 x) { return to_float(x); }
INLINE f64 wide(f64 x) { return x; }
INLINE i64 wide(i8 x) { return x; }
INLINE i64 wide(u8 x) { return x; }
INLINE i64 wide(i16 x) { return x; }
INLINE i64 wide(u16 x) { return x; }
INLINE i64 wide(i32 x) { return x; }
INLINE i64 wide(u32 x) { return x; }
INLINE i64 wide(i64 x) { return x; }
INLINE u64 wide(u64 x) { return x; }
INLINE bool wide(bool x) { return x; }

// saturate converts a float to an integer type: truncated, limited to [lo, end), NaN to 0. lo and end, a power of two, are exact.
template <class V, class A> INLINE V saturate(A x, A lo, A end, V least, V most) {
  return x != x ? (V)0 : x < lo ? least : x >= end ? most : (V)x;
}
template <class T> struct To;
#define TO_INT(T, V, LO, END, LEAST, MOST)                                                                              \
  template <> struct To<T> {                                                                                            \
    static __device__ __forceinline__ V of(f32 x) { return saturate<V, f32>(x, LO, END, LEAST, MOST); }                 \
    static __device__ __forceinline__ V of(f64 x) { return saturate<V, f64>(x, LO, END, LEAST, MOST); }                 \
    static __device__ __forceinline__ V of(i64 x) { return (V)(T)x; }                                                   \
    static __device__ __forceinline__ V of(u64 x) { return (V)(T)x; }                                                   \
    static __device__ __forceinline__ V of(bool x) { return (V)x; }                                                     \
  };
TO_INT(i8, i64, -128, 128, -128, 127)
TO_INT(u8, i64, 0, 256, 0, 255)
TO_INT(i16, i64, -32768, 32768, -32768, 32767)
TO_INT(u16, i64, 0, 65536, 0, 65535)
TO_INT(i32, i64, -2147483648.0f, 2147483648.0f, -2147483648ll, 2147483647ll)
TO_INT(u32, i64, 0, 4294967296.0f, 0, 4294967295ll)
TO_INT(i64, i64, -9223372036854775808.0f, 9223372036854775808.0f, (i64)0x8000000000000000ull, 0x7fffffffffffffffll)
TO_INT(u64, u64, 0, 18446744073709551616.0f, 0, 0xffffffffffffffffull)
template <> struct To<bool> { template <class A> static __device__ __forceinline__ bool of(A x) { return x != 0; } };
template <> struct To<f64> { template <class A> static __device__ __forceinline__ f64 of(A x) { return (f64)x; } };
template <> struct To<f32> { template <class A> static __device__ __forceinline__ f32 of(A x) { return (f32)x; } };
template <> struct To<bf16> { template <class A> static __device__ __forceinline__ f32 of(A x) { return (f32)x; } };
template <> struct To<f16> { template <class A> static __device__ __forceinline__ f32 of(A x) { return (f32)x; } };

// to converts a value to the value of another element type, before it is rounded to it.
template <class T, class A> INLINE auto to(A x) -> decltype(To<T>::of(x)) { return To<T>::of(x); }

// Trim rounds N values to an element type, or drops the bits that it has not.
template <class T> struct Trim {
  template <int N, class A> static __device__ __forceinline__ void all(A (&x)[N]) { EACH x[j] = (A)(T)x[j]; }
  template <int N, class A> static __device__ __forceinline__ Pack<T, N> pack(const A (&x)[N]) {
    Pack<T, N> y;
    EACH y.v[j] = (T)x[j];
    return y;
  }
};
template <> struct Trim<f16> {
  template <int N> static __device__ __forceinline__ void all(f32 (&x)[N]) { EACH x[j] = to_float(narrow<f16>(x[j])); }
  template <int N> static __device__ __forceinline__ Pack<f16, N> pack(const f32 (&x)[N]) {
    Pack<f16, N> y;
    EACH y.v[j] = narrow<f16>(x[j]);
    return y;
  }
};
template <> struct Trim<bf16> {
  template <int N> static __device__ __forceinline__ void all(f32 (&x)[N]) {
#pragma unroll
    for (int j = 0; j + 1 < N; j += 2) {
      u32 r = narrow_pair<bf16>(x[j], x[j + 1]);
      x[j] = __uint_as_float(r << 16);
      x[j + 1] = __uint_as_float(r & 0xffff0000u);
    }
    if (N % 2) x[N - 1] = to_float(narrow<bf16>(x[N - 1]));
  }
  template <int N> static __device__ __forceinline__ Pack<bf16, N> pack(const f32 (&x)[N]) {
    Pack<bf16, N> y;
#pragma unroll
    for (int j = 0; j + 1 < N; j += 2) {
      u32 r = narrow_pair<bf16>(x[j], x[j + 1]);
      y.v[j].bits = (u16)r;
      y.v[j + 1].bits = (u16)(r >> 16);
    }
    if (N % 2) y.v[N - 1] = narrow<bf16>(x[N - 1]);
    return y;
  }
};

// some reads the elements at..at+N-1 that are below n, some_put writes them.
template <int N, class T> INLINE Pack<T, N> some(const T *x, i64 at, i64 n) {
  Pack<T, N> p = {};
  EACH if (at + j < n) p.v[j] = x[at + j];
  return p;
}
template <class T, int N> INLINE void some_put(T *y, i64 at, i64 n, const Pack<T, N> &p) {
  EACH if (at + j < n) y[at + j] = p.v[j];
}

// strewn reads N elements that lie apart.
template <int N, int R, class T> INLINE Pack<T, N> strewn(const T *x, const Axes &a, const Steps &s, i64 at, i64 n) {
  Pack<T, N> p = {};
  EACH if (at + j < n) p.v[j] = x[walk<R>(a, s, at + j)];
  return p;
}
