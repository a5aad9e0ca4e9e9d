// Codes of a dynamic map for numbers that are scaled to 2^-shift of what they are in units of their largest magnitude, after eight.cuh: all below the first
// threshold are then denormal, which is zero, or in the cells next to it. A cell is the upper half of such a number: 12 bits, and the sign. Its word is
// added to the number: the lower half carries if it is beyond the cell's threshold, and the third byte becomes the code, or for a negative number, whose codes
// descend, its complement. quantplain.go makes the tables.

// coded_sum is the sum of a number and its word, from a table with two words a cell, that of positive numbers first.
INLINE u32 coded_sum(float q, const u32 *table) {
  const u32 b = __float_as_uint(q), turned = b << 3 | b >> 29;
  return b + *(const u32 *)((const u8 *)table + ((turned >> 16 & ~7u) | (turned & 7)));
}

// coded_square is the same for a number that is not negative, from a table with one word a cell.
INLINE u32 coded_square(float q, const u32 *table) {
  const u32 b = __float_as_uint(q);
  return b + *(const u32 *)((const u8 *)table + (b >> 14 & 0x7ffc));
}

// third_bytes packs the codes of four sums.
INLINE u32 third_bytes(const u32 *s) { return permute(permute(s[0], s[1], 0x62), permute(s[2], s[3], 0x62), 0x5410); }

// sign_bytes has 255 for each of four floats that is negative.
INLINE u32 sign_bytes(float a, float b, float c, float d) {
  return permute(permute(__float_as_uint(a), __float_as_uint(b), 0xfb), permute(__float_as_uint(c), __float_as_uint(d), 0xfb), 0x5410);
}
