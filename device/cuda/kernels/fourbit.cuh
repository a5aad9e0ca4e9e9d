// How the values of a weight in 4 bits are computed: level(code)*absmax in float32, rounded once. A scale is a float, or with NESTED a
// byte of the dynamic map times the scale of 256 of them plus an offset (double quantization). SCHEME text after this file defines:
INLINE float level(int code);  // the value of a 4-bit code

#ifdef NESTED
INLINE float book_value(int code);  // of an 8-bit code
typedef u8 Scale;
#else
typedef float Scale;
#endif

// Scales are what a launch knows of them.
struct Scales {
  const Scale *absmax;
  const float *nested, *offset;
};

#ifdef NESTED
// restored is a scale that was quantized.
INLINE float restored(u8 code, float outer, float offset) { return __fadd_rn(__fmul_rn(book_value(code), outer), offset); }
#endif

INLINE float scale_of(const Scales &s, i64 block, Scale raw, float offset) {
#ifdef NESTED
  return restored(raw, __ldg(s.nested + (block >> 8)), offset);
#else
  return raw;
#endif
}

INLINE float offset_of(const Scales &s) {
#ifdef NESTED
  return *s.offset;
#else
  return 0;
#endif
}

INLINE float scale_at(const Scales &s, i64 block) { return scale_of(s, block, s.absmax[block], offset_of(s)); }

// shuffled_level is level(code & 15) where every lane holds level(lane & 15): faster than memory. All lanes call it.
INLINE float shuffled_level(float mine, u32 code) { return __shfl_sync(FULL, mine, code, 16); }

// decode_eight gives the values of the eight codes of a word, in the order of the elements. All lanes call it.
INLINE void decode_eight(float (&v)[8], u32 word, float mine, float scale) {
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = __fmul_rn(shuffled_level(mine, word >> (4 * (i ^ 1))), scale);
}

// Sixteen is the values of the codes of a block, level(code)·scale rounded to a type of two bytes: a table in registers, the low bytes of all apart from the
// high ones, as four codes find theirs by two permutations. Shuffles would take a quarter of the rate and the pipe of shared memory.
struct Sixteen { u32 low[4], high[4]; };

template <class T> INLINE Sixteen sixteen(float scale) {
  Sixteen s;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const u32 a = narrow_pair<T>(__fmul_rn(level(4 * i), scale), __fmul_rn(level(4 * i + 1), scale));
    const u32 b = narrow_pair<T>(__fmul_rn(level(4 * i + 2), scale), __fmul_rn(level(4 * i + 3), scale));
    s.low[i] = permute(a, b, 0x6420), s.high[i] = permute(a, b, 0x7531);
  }
  return s;
}

// of_codes picks four bytes by four codes, whose lower three bits are the lower nibbles of `which`; bytes of `upper` are ones where a code is 8 or more.
INLINE u32 of_codes(const u32 (&bytes)[4], u32 which, u32 upper) {
  return (permute(bytes[0], bytes[1], which) & ~upper) | (permute(bytes[2], bytes[3], which) & upper);
}

// values_of gives the values of the eight codes of a word, in the order of the elements, two to a word.
INLINE void values_of(u32 (&v)[4], u32 word, const Sixteen &s) {
  const u32 codes = word & 0x77777777u, even = word << 4;  // the highest bit of a byte of `even` is that of an even nibble, of a byte of word that of an odd one
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const u32 which = codes >> (16 * h), upper = permute(even, word, h == 0 ? 0xd9c8 : 0xfbea);
    const u32 low = of_codes(s.low, which, upper), high = of_codes(s.high, which, upper);
    v[2 * h] = permute(low, high, 0x4051), v[2 * h + 1] = permute(low, high, 0x6273);  // the element before is the nibble after
  }
}
