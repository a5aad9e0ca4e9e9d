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
