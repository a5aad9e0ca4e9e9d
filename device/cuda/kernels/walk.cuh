// Walks over tensors that are not contiguous: from a position in row-major order to the element of an operand.

// Axes are the extents that positions are counted in, the last one fastest, with what divides by them when all of them together are
// less than 2^31 (Granlund & Montgomery 1994): n / d = (high(n * mul) + n) >> shift.
struct Axes {
  i64 n[8];
  u32 mul[8], shift[8];
  i32 small, rank;
};

// Steps are an operand's distances between neighbours along each axis, in elements; 0 where it is broadcast.
struct Steps { i64 at[8]; };

// walk is the element at a position, over the first R axes. Position 0 of no axes is element 0.
template <int R> INLINE i64 walk(const Axes &a, const Steps &s, i64 position) {
  i64 off = 0;
  if (a.small) {
    u32 p = (u32)position;
#pragma unroll
    for (int i = R - 1; i > 0; i--) {
      u32 q = (__umulhi(p, a.mul[i]) + p) >> a.shift[i];
      off += (i64)(p - q * (u32)a.n[i]) * s.at[i];
      p = q;
    }
    return off + (i64)p * s.at[0];
  }
#pragma unroll
  for (int i = R - 1; i > 0; i--) {
    i64 q = position / a.n[i];
    off += (position - q * a.n[i]) * s.at[i];
    position = q;
  }
  return off + position * s.at[0];
}

// walk_all is walk over all axes of a, for what is not in a hurry.
INLINE i64 walk_all(const Axes &a, const Steps &s, i64 position) {
  i64 off = 0;
  for (int i = a.rank - 1; i > 0; i--) {
    i64 q = a.small ? (i64)((__umulhi((u32)position, a.mul[i]) + (u32)position) >> a.shift[i]) : position / a.n[i];
    off += (position - q * a.n[i]) * s.at[i];
    position = q;
  }
  return off + position * s.at[0];
}
