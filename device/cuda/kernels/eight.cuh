// Eight elements that a lane reads or writes at once, and a permutation of bytes.

// Eight is eight elements, in accesses of up to 16 bytes.
template <class T> struct Eight {
  static const int part = 16 / sizeof(T);
  Pack<T, part> parts[8 / part];
  __device__ __forceinline__ float at(int i) const { return widen<T>(parts[i / part].v[i % part]); }
};

template <> __device__ __forceinline__ float Eight<bf16>::at(int i) const {
  const u32 two = reinterpret_cast<const u32 *>(this)[i / 2];
  return __uint_as_float(i % 2 ? two & 0xffff0000u : two << 16);
}

template <class T> INLINE Eight<T> load_eight(const T *p) {
  Eight<T> e;
#pragma unroll
  for (int i = 0; i < 8 / Eight<T>::part; i++) e.parts[i] = load_pack<Eight<T>::part>(p + i * Eight<T>::part);
  return e;
}

// store_eight rounds eight values to T and writes them in accesses of 16 bytes.
template <class T, int SIZE> struct StoreEight {
  static __device__ __forceinline__ void to(T *y, const float (&v)[8]) {
    const int part = 16 / SIZE;
#pragma unroll
    for (int i = 0; i < 8; i += part) {
      Pack<T, part> p;
#pragma unroll
      for (int j = 0; j < part; j++) p.v[j] = narrow<T>(v[i + j]);
      store_pack(y + i, p);
    }
  }
};
template <class T> struct StoreEight<T, 2> {
  static __device__ __forceinline__ void to(T *y, const float (&v)[8]) {
    Pack<u32, 4> p;
#pragma unroll
    for (int i = 0; i < 4; i++) p.v[i] = narrow_pair<T>(v[2 * i], v[2 * i + 1]);
    store_pack(reinterpret_cast<u32 *>(y), p);
  }
};
template <class T> INLINE void store_eight(T *y, const float (&v)[8]) { StoreEight<T, sizeof(T)>::to(y, v); }

// permute is prmt: byte i of the result is the one of b:a that nibble i of `which` numbers, or eight times its highest bit where the nibble has its own set.
INLINE u32 permute(u32 a, u32 b, u32 which) {
#ifdef BYES_EMULATE
  u32 r = 0;
  for (int i = 0; i < 4; i++) {
    const u32 n = which >> (4 * i) & 15, byte = (u32)(((u64)b << 32 | a) >> (8 * (n & 7))) & 255;
    r |= (n & 8 ? (byte >> 7) * 255 : byte) << (8 * i);
  }
  return r;
#else
  u32 r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(which));
  return r;
#endif
}
