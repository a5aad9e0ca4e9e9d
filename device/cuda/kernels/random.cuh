// The counter-based generator of Salmon et al. (SC 2011), Philox4x32 with 10 rounds, and what is made of its words.

struct Words { u32 v[4]; };

INLINE Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
  for (int r = 0; r < 10; r++) {
    const u64 p = (u64)c0 * 0xD2511F53u, q = (u64)c2 * 0xCD9E8D57u;
    c0 = (u32)(q >> 32) ^ c1 ^ k0;
    c2 = (u32)(p >> 32) ^ c3 ^ k1;
    c1 = (u32)q;
    c3 = (u32)p;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  Words w = {{c0, c1, c2, c3}};
  return w;
}

// rounding_words are the random bits of elements 8·block to 8·block+7 of the tensor `site` at a step, 16 for each, lower half first.
INLINE Words rounding_words(u64 seed, u32 step, u32 site, u32 block) {
  return philox(block, step, site, 0x80000000u, (u32)seed, (u32)(seed >> 32));
}

// rounding_bits are those of element i of the eight.
INLINE u32 rounding_bits(const Words &w, int i) { return w.v[i / 2] >> (16 * (i & 1)) & 0xffff; }

// round_randomly rounds to one of the neighbours of x: to the one away from zero with the probability that 16 random bits are less than the
// part of x between them. What is not finite, or beyond the largest number, is rounded as ever.
INLINE bf16 round_randomly(bf16, float x, u32 random) {
  const u32 b = __float_as_uint(x);
  if (x - x != 0) return narrow<bf16>(x);
  bf16 r;
  r.bits = (u16)((b >> 16) + (random < (b & 0xffff)));
  return r;
}
INLINE f16 round_randomly(f16, float x, u32 random) {
  const float a = fabsf(x);
  if (!(a < 65504)) return narrow<f16>(x);
  const u32 b = __float_as_uint(x), sign = b >> 16 & 0x8000;
  f16 r;
  const float units = a * 16777216.0f;  // of the smallest float16; exact
  if (units < 1024) {                   // below the smallest normal number the codes count units
    const float down = floorf(units);
    r.bits = (u16)(sign | ((u32)down + ((units - down) * 65536.0f > (float)random)));
    return r;
  }
  const u32 m = b & 0x7fffffffu;
  r.bits = (u16)(sign | (((m - (112u << 23)) >> 13) + (random < (m & 0x1fff) << 3)));  // the exponent's bias is 15 instead of 127
  return r;
}
INLINE float round_randomly(float, float x, u32) { return x; }
