// What stands before each program that the emulator compiles: CUDA's words for a C++ compiler. No header is included, so that a kernel
// compiles in a tenth of a second. The runtime (driver.cpp) runs the threads of a block one after another as fibers; a thread gives
// way only in the functions marked "waits" below.
#define BYES_EMULATE 1

typedef __SIZE_TYPE__ size_t;
#define __device__
#define __host__
#define __global__ __emulate_kernel__
#define __launch_bounds__(...) __emulate_bounds__(__VA_ARGS__)
#define __shared__ static
#define __constant__ static
#define __managed__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define __nv_pure__
#define __builtin_align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
// The layout is known to the runtime, which points emulate_self at the running thread before it goes on.
struct EmulateThread {
  uint3 thread, block;
  dim3 threads, blocks;
  void *dynamic;
};
// The services of the runtime, filled in when the module is loaded.
struct EmulateHost {
  void (*barrier)(int id, int threads, const char *what);                             // waits
  int (*vote_barrier)(int predicate, int how);                                          // waits; how: 0 and, 1 or, 2 count
  void (*warp)(unsigned mask, void *mine, void (*all)(void **lanes, unsigned mask), const char *what);  // waits
  void (*fail)(const char *why);
  void (*print)(const char *format, __builtin_va_list);
  unsigned long long (*clock)();
  void (*give_way)();  // waits
};
// Both have a value, so that what starts as zero (section bss) is the shared memory of blocks and nothing else; the runtime fills that
// with ones before each block.
#define EMULATE_EXPORT extern "C" __attribute__((visibility("default")))
extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];
extern "C" {
__attribute__((visibility("default"))) EmulateThread *emulate_self = (EmulateThread *)8;
__attribute__((visibility("default"))) EmulateHost emulate_host = {(void (*)(int, int, const char *))8};
__attribute__((visibility("default"))) void emulate_shared(char **from, char **to) { *from = __bss_start, *to = _end; }
}
#define threadIdx (emulate_self->thread)
#define blockIdx (emulate_self->block)
#define blockDim (emulate_self->threads)
#define gridDim (emulate_self->blocks)
#define warpSize 32

// Calls a kernel with the argument block of cuLaunchKernel: an array of addresses of values.
template <int... I> struct EmulateIndices {};
template <int N, int... I> struct EmulateCount : EmulateCount<N - 1, N - 1, I...> {};
template <int... I> struct EmulateCount<0, I...> { typedef EmulateIndices<I...> type; };
template <class T> struct EmulateValue { typedef T type; };
template <class T> struct EmulateValue<const T> { typedef T type; };
template <class... A, int... I> static inline void emulate_apply(void (*f)(A...), void **p, EmulateIndices<I...>) {
  f(*(typename EmulateValue<A>::type *)p[I]...);
}
template <class... A> static inline void emulate_call(void (*f)(A...), void **p) {
  emulate_apply(f, p, typename EmulateCount<sizeof...(A)>::type());
}
template <class... A> static inline int emulate_sizes(void (*)(A...), unsigned *out) {
  unsigned sizes[] = {(unsigned)sizeof(A)..., 0};
  for (unsigned i = 0; i < sizeof...(A); i++) out[i] = sizes[i];
  return (int)sizeof...(A);
}

// Vector types.
#define EMULATE_VECTOR(T, N, A2, A4)                                                            \
  struct N##1 { T x; };                                                                         \
  struct __align__(A2) N##2 { T x, y; };                                                        \
  struct N##3 { T x, y, z; };                                                                   \
  struct __align__(A4) N##4 { T x, y, z, w; };                                                  \
  static inline N##1 make_##N##1(T x) { N##1 r = {x}; return r; }                               \
  static inline N##2 make_##N##2(T x, T y) { N##2 r = {x, y}; return r; }                       \
  static inline N##4 make_##N##4(T x, T y, T z, T w) { N##4 r = {x, y, z, w}; return r; }
#define make_uint3 emulate_make_uint3
EMULATE_VECTOR(signed char, char, 2, 4)
EMULATE_VECTOR(unsigned char, uchar, 2, 4)
EMULATE_VECTOR(short, short, 4, 8)
EMULATE_VECTOR(unsigned short, ushort, 4, 8)
EMULATE_VECTOR(int, int, 8, 16)
EMULATE_VECTOR(float, float, 8, 16)
EMULATE_VECTOR(long long, longlong, 16, 16)
EMULATE_VECTOR(unsigned long long, ulonglong, 16, 16)
EMULATE_VECTOR(double, double, 16, 16)
struct uint1 { unsigned x; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
static inline uint2 make_uint2(unsigned x, unsigned y) { uint2 r = {x, y}; return r; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { uint4 r = {x, y, z, w}; return r; }

// Bits.
template <class To, class From> static inline To emulate_bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To r;
  __builtin_memcpy(&r, &x, sizeof r);
  return r;
}
static inline float __int_as_float(int x) { return emulate_bits<float>(x); }
static inline int __float_as_int(float x) { return emulate_bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return emulate_bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return emulate_bits<unsigned>(x); }
static inline double __longlong_as_double(long long x) { return emulate_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return emulate_bits<long long>(x); }
static inline int __double2hiint(double x) { return (int)(emulate_bits<long long>(x) >> 32); }
static inline int __double2loint(double x) { return (int)emulate_bits<long long>(x); }
static inline double __hiloint2double(int hi, int lo) { return emulate_bits<double>((long long)(((unsigned long long)(unsigned)hi << 32) | (unsigned)lo)); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++, x >>= 1) r = r << 1 | (x & 1);
  return r;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  unsigned long long ab = (unsigned long long)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++, s >>= 4) {
    unsigned v = (unsigned)(ab >> 8 * (s & 7)) & 0xff;
    if (s & 8) v = v & 0x80 ? 0xff : 0;
    r |= v << 8 * i;
  }
  return r;
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) { return (unsigned)(((((unsigned long long)hi << 32) | lo) << (n & 31)) >> 32); }
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) { return (unsigned)((((unsigned long long)hi << 32) | lo) >> (n & 31)); }
static inline int __mulhi(int a, int b) { return (int)(((long long)a * b) >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)(((unsigned __int128)a * b) >> 64); }
static inline long long __mul64hi(long long a, long long b) { return (long long)(((__int128)a * b) >> 64); }
static inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += (int)(signed char)(a >> 8 * i) * (int)(signed char)(b >> 8 * i);
  return c;
}

// Half precision: exact, to nearest even.
static inline float emulate_half_to_float(unsigned short h) {
  unsigned sign = (unsigned)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff;
  if (e == 31) return __uint_as_float(sign | 0x7f800000u | (m ? 0x400000u : 0) | m << 13);
  if (e) return __uint_as_float(sign | (e + 112) << 23 | m << 13);
  float f = (float)m * 5.9604644775390625e-8f;  // 2**-24
  return __uint_as_float(sign | __float_as_uint(f));
}
static inline unsigned short emulate_float_to_half(float x) {
  unsigned u = __float_as_uint(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return 0x7fff;
  if (a >= 0x477ff000u) return (unsigned short)(sign | 0x7c00);
  if (a < 0x38800000u) {  // the sum's last place is that of a subnormal half
    float f = __uint_as_float(a) + 0.5f;
    return (unsigned short)(sign | (__float_as_uint(f) - 0x3f000000u));
  }
  return (unsigned short)(sign | ((a + 0xfffu + (a >> 13 & 1)) >> 13) - (112u << 10));
}

// Arithmetic with a named rounding; nothing here is contracted (-ffp-contract=off).
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return __builtin_sqrt(a); }
static inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
static inline float __frsqrt_rn(float a) { return (float)(1.0 / __builtin_sqrt((double)a)); }
// The fast functions have other bits on a GPU, where they are approximations.
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __expf(float x) { return __builtin_expf(x); }
static inline float __exp10f(float x) { return __builtin_exp10f(x); }
static inline float __logf(float x) { return __builtin_logf(x); }
static inline float __log2f(float x) { return __builtin_log2f(x); }
static inline float __log10f(float x) { return __builtin_log10f(x); }
static inline float __sinf(float x) { return __builtin_sinf(x); }
static inline float __cosf(float x) { return __builtin_cosf(x); }
static inline float __tanf(float x) { return __builtin_tanf(x); }
static inline float __powf(float x, float y) { return __builtin_powf(x, y); }
static inline float __saturatef(float x) { return !(x > 0) ? 0.0f : x > 1 ? 1.0f : x; }

// Conversions. From floating point to an integer they saturate, and NaN gives 0, as on the device (a C++ cast does not say).
template <class I, class F> static inline I emulate_integer(F x) {
  const bool is_signed = (I)-1 < 0;
  const F top = (F)((I)1 << (sizeof(I) * 8 - 2)) * (is_signed ? (F)2 : (F)4), low = is_signed ? -top : (F)0;
  const I most = is_signed ? (I)~((I)1 << (sizeof(I) * 8 - 1)) : (I)-1, least = is_signed ? (I)((I)1 << (sizeof(I) * 8 - 1)) : (I)0;
  if (x != x) return 0;
  if (x >= top) return most;
  if (x <= low) return least;
  return (I)x;
}
static inline int __float2int_rn(float x) { return emulate_integer<int>(__builtin_rintf(x)); }
static inline int __float2int_rz(float x) { return emulate_integer<int>(x); }
static inline int __float2int_rd(float x) { return emulate_integer<int>(__builtin_floorf(x)); }
static inline int __float2int_ru(float x) { return emulate_integer<int>(__builtin_ceilf(x)); }
static inline unsigned __float2uint_rn(float x) { return emulate_integer<unsigned>(__builtin_rintf(x)); }
static inline unsigned __float2uint_rz(float x) { return emulate_integer<unsigned>(x); }
static inline long long __float2ll_rn(float x) { return emulate_integer<long long>(__builtin_rintf(x)); }
static inline long long __float2ll_rz(float x) { return emulate_integer<long long>(x); }
static inline unsigned long long __float2ull_rz(float x) { return emulate_integer<unsigned long long>(x); }
static inline int __double2int_rn(double x) { return emulate_integer<int>(__builtin_rint(x)); }
static inline int __double2int_rz(double x) { return emulate_integer<int>(x); }
static inline long long __double2ll_rn(double x) { return emulate_integer<long long>(__builtin_rint(x)); }
static inline long long __double2ll_rz(double x) { return emulate_integer<long long>(x); }
static inline unsigned __double2uint_rz(double x) { return emulate_integer<unsigned>(x); }
static inline float __double2float_rn(double x) { return (float)x; }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline double __ll2double_rn(long long x) { return (double)x; }

// Mathematical functions.
extern "C" {
#define EMULATE_MATH1(name) double name(double) noexcept; float name##f(float) noexcept;
EMULATE_MATH1(exp) EMULATE_MATH1(exp2) EMULATE_MATH1(exp10) EMULATE_MATH1(expm1) EMULATE_MATH1(log) EMULATE_MATH1(log2) EMULATE_MATH1(log10)
EMULATE_MATH1(log1p) EMULATE_MATH1(sqrt) EMULATE_MATH1(cbrt) EMULATE_MATH1(sin) EMULATE_MATH1(cos) EMULATE_MATH1(tan) EMULATE_MATH1(asin)
EMULATE_MATH1(acos) EMULATE_MATH1(atan) EMULATE_MATH1(sinh) EMULATE_MATH1(cosh) EMULATE_MATH1(tanh) EMULATE_MATH1(asinh) EMULATE_MATH1(acosh)
EMULATE_MATH1(atanh) EMULATE_MATH1(erf) EMULATE_MATH1(erfc) EMULATE_MATH1(lgamma) EMULATE_MATH1(tgamma) EMULATE_MATH1(floor)
EMULATE_MATH1(ceil) EMULATE_MATH1(round) EMULATE_MATH1(rint) EMULATE_MATH1(nearbyint) EMULATE_MATH1(trunc) EMULATE_MATH1(fabs)
#define EMULATE_MATH2(name) double name(double, double) noexcept; float name##f(float, float) noexcept;
EMULATE_MATH2(pow) EMULATE_MATH2(fmod) EMULATE_MATH2(atan2) EMULATE_MATH2(hypot) EMULATE_MATH2(fmin) EMULATE_MATH2(fmax) EMULATE_MATH2(copysign)
EMULATE_MATH2(remainder) EMULATE_MATH2(fdim) EMULATE_MATH2(nextafter)
double fma(double, double, double) noexcept;
float fmaf(float, float, float) noexcept;
double ldexp(double, int) noexcept;
float ldexpf(float, int) noexcept;
double frexp(double, int *) noexcept;
float frexpf(float, int *) noexcept;
int abs(int) noexcept;
long long llabs(long long) noexcept;
long long llrintf(float) noexcept;
long long llrint(double) noexcept;
void *memcpy(void *, const void *, size_t) noexcept;
void *memset(void *, int, size_t) noexcept;
}
static inline float rsqrtf(float x) { return (float)(1.0 / __builtin_sqrt((double)x)); }
static inline double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }
static inline float __internal_rcp(float x) { return 1.0f / x; }
static inline double sinpi(double x) { return __builtin_sin(x * 3.14159265358979323846); }
static inline float sinpif(float x) { return (float)sinpi((double)x); }
static inline double cospi(double x) { return __builtin_cos(x * 3.14159265358979323846); }
static inline float cospif(float x) { return (float)cospi((double)x); }
static inline void sincosf(float x, float *s, float *c) { *s = __builtin_sinf(x); *c = __builtin_cosf(x); }
static inline void sincos(double x, double *s, double *c) { *s = __builtin_sin(x); *c = __builtin_cos(x); }
static inline void __sincosf(float x, float *s, float *c) { sincosf(x, s, c); }
static inline double norm3d(double a, double b, double c) { return __builtin_sqrt(a * a + b * b + c * c); }
static inline double erfcx(double x) { return __builtin_exp(x * x) * erfc(x); }
static inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
static inline float normcdff(float x) { return (float)normcdf((double)x); }
static inline long long abs(long long x) { return x < 0 ? -x : x; }
static inline float abs(float x) { return __builtin_fabsf(x); }
static inline double abs(double x) { return __builtin_fabs(x); }
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf_sign(x)
#define isfinite(x) __builtin_isfinite(x)
#define signbit(x) __builtin_signbit(x)
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
static inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
static inline unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }
static inline float min(float a, float b) { return __builtin_fminf(a, b); }
static inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
static inline double min(double a, double b) { return __builtin_fmin(a, b); }
static inline double max(double a, double b) { return __builtin_fmax(a, b); }

// Waiting for each other.
static inline void __syncthreads() { emulate_host.barrier(0, 0, "__syncthreads"); }
static inline int __syncthreads_and(int p) { return emulate_host.vote_barrier(p != 0, 0); }
static inline int __syncthreads_or(int p) { return emulate_host.vote_barrier(p != 0, 1); }
static inline int __syncthreads_count(int p) { return emulate_host.vote_barrier(p != 0, 2); }
// emulate_barrier is bar.sync: barrier number id of so many threads.
static inline void emulate_barrier(int id, int threads) { emulate_host.barrier(id, threads, "bar.sync"); }

// emulate_warp gives the operands of all lanes of the mask to `all`, which is called once, by the lane that comes last; lanes[i] is lane
// i's `mine`, where it leaves the result too.
static inline void emulate_warp(unsigned mask, void *mine, void (*all)(void **lanes, unsigned mask), const char *what) {
  emulate_host.warp(mask, mine, all, what);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) { emulate_warp(mask, 0, 0, "__syncwarp"); }
template <class T> struct EmulateShuffle { T in, out; int from; };
template <class T> static void emulate_shuffle_all(void **lanes, unsigned mask) {
  for (int i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    EmulateShuffle<T> *x = (EmulateShuffle<T> *)lanes[i];
    if (mask >> x->from & 1)
      x->out = ((EmulateShuffle<T> *)lanes[x->from])->in;
    else
      __builtin_memset(&x->out, 0xff, sizeof x->out);  // a lane that takes no part: the device promises nothing
  }
}
template <class T> static inline T emulate_shuffle(unsigned mask, T v, int from, const char *what) {
  EmulateShuffle<T> x = {v, v, from};
  emulate_warp(mask, &x, emulate_shuffle_all<T>, what);
  return x.out;
}
static inline int emulate_lane() {
  return (int)((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31);
}
template <class T> static inline T __shfl_sync(unsigned m, T v, int src, int width = 32) {
  int l = emulate_lane();
  return emulate_shuffle(m, v, (l & ~(width - 1)) + (src & (width - 1)), "__shfl_sync");
}
template <class T> static inline T __shfl_xor_sync(unsigned m, T v, int x, int width = 32) {
  int l = emulate_lane(), f = l ^ x;
  return emulate_shuffle(m, v, (f & ~(width - 1)) > (l & ~(width - 1)) ? l : f, "__shfl_xor_sync");
}
template <class T> static inline T __shfl_up_sync(unsigned m, T v, unsigned d, int width = 32) {
  int l = emulate_lane();
  return emulate_shuffle(m, v, (int)(l & (width - 1)) < (int)d ? l : l - (int)d, "__shfl_up_sync");
}
template <class T> static inline T __shfl_down_sync(unsigned m, T v, unsigned d, int width = 32) {
  int l = emulate_lane();
  return emulate_shuffle(m, v, (int)(l & (width - 1)) + (int)d >= width ? l : l + (int)d, "__shfl_down_sync");
}
struct EmulateVote { unsigned long long in, out; };
enum { EMULATE_BALLOT, EMULATE_MATCH, EMULATE_ADD, EMULATE_MIN, EMULATE_MAX, EMULATE_SMIN, EMULATE_SMAX, EMULATE_OR, EMULATE_AND, EMULATE_XOR };
template <int HOW> static void emulate_vote_all(void **lanes, unsigned mask) {
  EmulateVote **x = (EmulateVote **)lanes;
  unsigned long long r = HOW == EMULATE_AND || HOW == EMULATE_MIN ? ~0ull : 0;
  bool first = true;
  for (int i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    unsigned long long v = x[i]->in;
    if (HOW == EMULATE_BALLOT) r |= (v ? 1ull : 0) << i;
    if (HOW == EMULATE_ADD) r += v;
    if (HOW == EMULATE_MIN) r = v < r ? v : r;
    if (HOW == EMULATE_MAX) r = v > r ? v : r;
    if (HOW == EMULATE_SMIN) r = first || (long long)v < (long long)r ? v : r;
    if (HOW == EMULATE_SMAX) r = first || (long long)v > (long long)r ? v : r;
    if (HOW == EMULATE_OR) r |= v;
    if (HOW == EMULATE_AND) r &= v;
    if (HOW == EMULATE_XOR) r ^= v;
    first = false;
  }
  for (int i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    if (HOW == EMULATE_MATCH) {
      r = 0;
      for (int j = 0; j < 32; j++)
        if (mask >> j & 1 && x[j]->in == x[i]->in) r |= 1ull << j;
    }
    x[i]->out = r;
  }
}
template <int HOW> static inline unsigned long long emulate_vote(unsigned mask, unsigned long long v, const char *what) {
  EmulateVote x = {v, 0};
  emulate_warp(mask, &x, emulate_vote_all<HOW>, what);
  return x.out;
}
static inline unsigned __ballot_sync(unsigned m, int p) { return (unsigned)emulate_vote<EMULATE_BALLOT>(m, p != 0, "__ballot_sync"); }
static inline int __any_sync(unsigned m, int p) { return emulate_vote<EMULATE_OR>(m, p != 0, "__any_sync") != 0; }
static inline int __all_sync(unsigned m, int p) { return emulate_vote<EMULATE_AND>(m, p != 0, "__all_sync") != 0; }
template <class T> static inline unsigned __match_any_sync(unsigned m, T v) {
  unsigned long long u = 0;
  __builtin_memcpy(&u, &v, sizeof v);
  return (unsigned)emulate_vote<EMULATE_MATCH>(m, u, "__match_any_sync");
}
static inline unsigned __reduce_add_sync(unsigned m, unsigned v) { return (unsigned)emulate_vote<EMULATE_ADD>(m, v, "__reduce_add_sync"); }
static inline int __reduce_add_sync(unsigned m, int v) { return (int)emulate_vote<EMULATE_ADD>(m, (unsigned)v, "__reduce_add_sync"); }
static inline unsigned __reduce_min_sync(unsigned m, unsigned v) { return (unsigned)emulate_vote<EMULATE_MIN>(m, v, "__reduce_min_sync"); }
static inline unsigned __reduce_max_sync(unsigned m, unsigned v) { return (unsigned)emulate_vote<EMULATE_MAX>(m, v, "__reduce_max_sync"); }
static inline int __reduce_min_sync(unsigned m, int v) { return (int)emulate_vote<EMULATE_SMIN>(m, (unsigned long long)(long long)v, "__reduce_min_sync"); }
static inline int __reduce_max_sync(unsigned m, int v) { return (int)emulate_vote<EMULATE_SMAX>(m, (unsigned long long)(long long)v, "__reduce_max_sync"); }
static inline unsigned __reduce_or_sync(unsigned m, unsigned v) { return (unsigned)emulate_vote<EMULATE_OR>(m, v, "__reduce_or_sync"); }
static inline unsigned __reduce_and_sync(unsigned m, unsigned v) { return (unsigned)emulate_vote<EMULATE_AND>(m, v, "__reduce_and_sync"); }
static inline unsigned __reduce_xor_sync(unsigned m, unsigned v) { return (unsigned)emulate_vote<EMULATE_XOR>(m, v, "__reduce_xor_sync"); }
// Only threads that come together are active; a fiber is always alone.
static inline unsigned __activemask() { return 1u << emulate_lane(); }

// Atomics: one thread runs at a time.
#define EMULATE_ATOMIC(T)                                                                                     \
  static inline T atomicAdd(T *p, T v) { T o = *p; *p = (T)(o + v); return o; }                                \
  static inline T atomicExch(T *p, T v) { T o = *p; *p = v; return o; }                                        \
  static inline T atomicMin(T *p, T v) { T o = *p; if (v < o) *p = v; return o; }                              \
  static inline T atomicMax(T *p, T v) { T o = *p; if (v > o) *p = v; return o; }
#define EMULATE_ATOMIC_BITS(T)                                                                                \
  EMULATE_ATOMIC(T)                                                                                            \
  static inline T atomicCAS(T *p, T c, T v) { T o = *p; if (o == c) *p = v; return o; }                        \
  static inline T atomicSub(T *p, T v) { T o = *p; *p = o - v; return o; }                                     \
  static inline T atomicAnd(T *p, T v) { T o = *p; *p = o & v; return o; }                                     \
  static inline T atomicOr(T *p, T v) { T o = *p; *p = o | v; return o; }                                      \
  static inline T atomicXor(T *p, T v) { T o = *p; *p = o ^ v; return o; }
EMULATE_ATOMIC_BITS(int)
EMULATE_ATOMIC_BITS(unsigned)
EMULATE_ATOMIC_BITS(unsigned long long)
static inline float atomicAdd(float *p, float v) { float o = *p; *p = o + v; return o; }
static inline float atomicExch(float *p, float v) { float o = *p; *p = v; return o; }
static inline double atomicAdd(double *p, double v) { double o = *p; *p = o + v; return o; }
static inline long long atomicMax(long long *p, long long v) { long long o = *p; if (v > o) *p = v; return o; }
static inline long long atomicMin(long long *p, long long v) { long long o = *p; if (v < o) *p = v; return o; }
static inline unsigned short atomicCAS(unsigned short *p, unsigned short c, unsigned short v) { unsigned short o = *p; if (o == c) *p = v; return o; }
static inline unsigned atomicInc(unsigned *p, unsigned v) { unsigned o = *p; *p = o >= v ? 0 : o + 1; return o; }
static inline unsigned atomicDec(unsigned *p, unsigned v) { unsigned o = *p; *p = o == 0 || o > v ? v : o - 1; return o; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
static inline void __nanosleep(unsigned) { emulate_host.give_way(); }

// Memory.
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldca(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T> static inline T __ldcv(const T *p) { return *(const volatile T *)p; }
template <class T> static inline T __ldlu(const T *p) { return *p; }
template <class T> static inline void __stcg(T *p, T v) { *p = v; }
template <class T> static inline void __stcs(T *p, T v) { *p = v; }
template <class T> static inline void __stwb(T *p, T v) { *p = v; }
template <class T> static inline void __stwt(T *p, T v) { *p = v; }
static inline size_t __cvta_generic_to_shared(const void *p) { return (size_t)p; }
static inline size_t __cvta_generic_to_global(const void *p) { return (size_t)p; }
static inline long long clock64() { return (long long)emulate_host.clock(); }
static inline void __trap() { emulate_host.fail("__trap"); }
static inline void emulate_assert(bool ok, const char *what) { if (!ok) emulate_host.fail(what); }
#define assert(x) emulate_assert(!!(x), "assertion failed: " #x)
static inline int printf(const char *format, ...) {
  __builtin_va_list l;
  __builtin_va_start(l, format);
  emulate_host.print(format, l);
  __builtin_va_end(l);
  return 0;
}
#define __assume(x) ((void)0)
#define __builtin_assume(x) ((void)0)
#undef make_uint3
