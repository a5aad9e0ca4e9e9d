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
