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

// Values of 16 bits stay as they lie in memory, two to a word, until a function wants them as floats: sums, differences and products are computed on
// words. A sum, a difference or a product of two values of 16 bits rounded once has the bits of that in f32 rounded to 16: f32 has more than twice the digits
// and two more, and what is too small for all of its digits is a multiple of its least number, or less than half of the least of 16 bits.
#define PAIR _Pragma("unroll") for (int i = 0; i < N / 2; i++)

// load_pairs and store_pairs read and write N values, to_pairs takes them from a pack, of_pairs gives one.
template <int N, class T> INLINE Pack<u32, N / 2> load_pairs(const T *x) { return load_pack<N / 2>(reinterpret_cast<const u32 *>(x)); }
template <int N, class T> INLINE void store_pairs(T *y, const u32 (&w)[N / 2]) {
  Pack<u32, N / 2> p;
  PAIR p.v[i] = w[i];
  store_pack(reinterpret_cast<u32 *>(y), p);
}
template <class T, int N> INLINE Pack<u32, N / 2> to_pairs(const Pack<T, N> &p) {
  Pack<u32, N / 2> w;
  PAIR w.v[i] = (u32)p.v[2 * i].bits | (u32)p.v[2 * i + 1].bits << 16;
  return w;
}
template <class T, int N> INLINE Pack<T, N> of_pairs(const u32 (&w)[N / 2]) {
  Pack<T, N> p;
  PAIR p.v[2 * i].bits = (u16)w[i], p.v[2 * i + 1].bits = (u16)(w[i] >> 16);
  return p;
}
template <class T, int N> INLINE void round_pairs(u32 (&w)[N / 2], const f32 (&x)[N]) { PAIR w[i] = narrow_pair<T>(x[2 * i], x[2 * i + 1]); }
// twice is a value of T in both halves of a word.
template <class T> INLINE u32 twice(f32 x) { return narrow_pair<T>(x, x); }

template <class T> INLINE f32 low(u32 w);
template <class T> INLINE f32 high(u32 w);
template <> __device__ __forceinline__ f32 low<bf16>(u32 w) { return __uint_as_float(w << 16); }
template <> __device__ __forceinline__ f32 high<bf16>(u32 w) { return __uint_as_float(w & 0xffff0000u); }
template <> __device__ __forceinline__ f32 low<f16>(u32 w) { return float_f16((u16)w); }
template <> __device__ __forceinline__ f32 high<f16>(u32 w) { return float_f16((u16)(w >> 16)); }
template <class T, int N> INLINE void widen_pairs(f32 (&x)[N], const u32 (&w)[N / 2]) { PAIR x[2 * i] = low<T>(w[i]), x[2 * i + 1] = high<T>(w[i]); }

#define PAIRS(NAME, T, ASM, OP)                                                                                                      \
  template <> __device__ __forceinline__ u32 NAME<T>(u32 a, u32 b) { PAIRS_BODY(T, ASM, OP) }
#define PAIRS_FLOAT(T, ASM, OP) return narrow_pair<T>(low<T>(a) OP low<T>(b), high<T>(a) OP high<T>(b));
#define PAIRS_ASM(T, ASM, OP) u32 r; asm(ASM : "=r"(r) : "r"(a), "r"(b)); return r;
template <class T> INLINE u32 add_pair(u32 a, u32 b);
template <class T> INLINE u32 sub_pair(u32 a, u32 b);
template <class T> INLINE u32 mul_pair(u32 a, u32 b);
#if defined(BYES_EMULATE) || __CUDA_ARCH__ < 800
#define PAIRS_BODY PAIRS_FLOAT
#else
#define PAIRS_BODY PAIRS_ASM
#endif
PAIRS(add_pair, f16, "add.rn.f16x2 %0, %1, %2;", +)
PAIRS(sub_pair, f16, "sub.rn.f16x2 %0, %1, %2;", -)
PAIRS(mul_pair, f16, "mul.rn.f16x2 %0, %1, %2;", *)
// Before 9.0 there are only products with sums: a·1 + b, b·-1 + a, a·b + -0.
PAIRS(add_pair, bf16, "{.reg .b32 c; mov.b32 c, 0x3f803f80; fma.rn.bf16x2 %0, %1, c, %2;}", +)
PAIRS(sub_pair, bf16, "{.reg .b32 c; mov.b32 c, 0xbf80bf80; fma.rn.bf16x2 %0, %2, c, %1;}", -)
PAIRS(mul_pair, bf16, "{.reg .b32 c; mov.b32 c, 0x80008000; fma.rn.bf16x2 %0, %1, %2, c;}", *)

// reciprocal_start is 1/x within an ulp.
INLINE f32 reciprocal_start(f32 x) {
#ifdef BYES_EMULATE
  return 1 / x;
#else
  f32 r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
#endif
}

// logistic_all computes 1/(1 + e^-a), or with SILU a/(1 + e^-a), with the bits of these divisions but without a branch an element: the rounded reciprocal
// takes a step from the approximate one, and a quotient from that one more (Markstein, "Computation of elementary functions on the IBM RISC System/6000
// processor", 1990, theorem 8), as long as nothing in it is denormal or infinite. Both of one a share all but the last step.
template <bool SILU, int N> INLINE void logistic_all(f32 (&y)[N], const f32 (&a)[N]) {
  bool usual = true;
  EACH usual &= (fabsf(a[j]) >= 1e-27f) & (fabsf(a[j]) <= 87);
  f32 d[N];
  EACH {
    d[j] = 1 + expf(-a[j]);
    const f32 start = reciprocal_start(d[j]), r = __fmaf_rn(start, __fmaf_rn(-d[j], start, 1), start), q = a[j] * r;
    y[j] = SILU ? __fmaf_rn(__fmaf_rn(-d[j], q, a[j]), r, q) : r;
  }
  if (!usual) EACH y[j] = (SILU ? a[j] : 1) / d[j];
}

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
