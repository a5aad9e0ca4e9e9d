// keep_packed makes the compiler read a pack anew where it is used next. Values of 16 bits then stay two to a register between their uses, where it would
// give each a register of its own as soon as the pack is loaded: more packs are under way at once.
template <class X, int N> INLINE void keep_packed(Pack<X, N> &x) {
#ifndef BYES_EMULATE
  if (sizeof(X) != 2 || N < 2) return;
  u32 *words = reinterpret_cast<u32 *>(&x);
#pragma unroll
  for (int j = 0; j < N / 2; j++) asm volatile("" : "+r"(words[j]));
#endif
}

// value is element j of a pack. Of two bfloat16 in a register the upper one is a mask away, where taking it out as a number of 16 bits takes two steps.
template <class X, int N> INLINE Acc<X> value(const Pack<X, N> &x, int j) { return widen<X>(x.v[j]); }
#ifndef BYES_EMULATE
template <int N> INLINE float value(const Pack<bf16, N> &x, int j) {
  if (N < 2) return widen<bf16>(x.v[j]);
  u32 two;
  memcpy(&two, x.v + (j & ~1), 4);
  return __uint_as_float(j % 2 ? two & 0xffff0000u : two << 16);
}
#endif
