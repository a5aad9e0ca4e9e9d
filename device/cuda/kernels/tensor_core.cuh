// Warp-level tensor-core steps and asynchronous copies to shared memory, each with a twin for the emulator. On the hardware:
// mma.sync on compute capability 7.5 (f16) and 8.0 (bf16, i8), ldmatrix on 7.5, cp.async on 8.0, where plain copies stand for it below.
//
// Fragments are those of mma.m16n8k16 for 16-bit elements (PTX ISA, "Matrix Fragments for mma.m16n8k16"), for lane 4g + t: a[0] holds
// A(g, 2t..2t+1), a[1] A(g+8, 2t..), a[2] A(g, 2t+8..), a[3] A(g+8, 2t+8..); b[0] holds B(2t..2t+1, g), b[1] B(2t+8.., g); c[0], c[1] are
// C(g, 2t), C(g, 2t+1), c[2], c[3] the same of row g+8. For i8 an inner index counts pairs: K is 32 and a register holds four.

#ifdef BYES_EMULATE

// exchange gives every lane the fragments of its warp.
struct Exchanged { u32 a[4], b[2]; };
INLINE const Exchanged *exchange(const u32 *a, const u32 *b) {
  __shared__ Exchanged all[32][WARP];
  Exchanged *warp = all[(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) / WARP];
  __syncwarp();
  for (int i = 0; i < 4; i++) warp[lane()].a[i] = a[i];
  for (int i = 0; i < 2; i++) warp[lane()].b[i] = b[i];
  __syncwarp();
  return warp;
}

template <class T> INLINE float pair_dot(u32 a, u32 b) {
  T a0, a1, b0, b1;
  a0.bits = (u16)a, a1.bits = (u16)(a >> 16), b0.bits = (u16)b, b1.bits = (u16)(b >> 16);
  return to_float(a0) * to_float(b0) + to_float(a1) * to_float(b1);
}
template <class T> struct Quad { static __device__ __forceinline__ float dot(u32 a, u32 b) { return pair_dot<T>(a, b); } };
template <> struct Quad<i8> {
  static __device__ __forceinline__ int dot(u32 a, u32 b) {
    int s = 0;
    for (int i = 0; i < 32; i += 8) s += (int)(i8)(a >> i) * (int)(i8)(b >> i);
    return s;
  }
};

// mma adds the product of fragments to c.
template <class T, class C> INLINE void mma(C *c, const u32 *a, const u32 *b) {
  const Exchanged *all = exchange(a, b);
  int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; i++) {
    C sum = 0;
    for (int h = 0; h < 2; h++)
      for (int s = 0; s < 4; s++) sum += Quad<T>::dot(all[4 * g + s].a[i / 2 + 2 * h], all[4 * (2 * t + i % 2) + s].b[h]);
    c[i] += sum;
  }
  __syncwarp();
}

// load_matrices is ldmatrix.x4: lane 8i + r gives the address of row r (16 bytes) of the i-th matrix of 8 x 8 elements of 16 bits; lane
// 4g + t gets elements 2t and 2t + 1 of row g of each.
INLINE void load_matrices(u32 *r, const void *row) {
  for (int i = 0; i < 4; i++) {
    u64 at = __shfl_sync(FULL, (u64)row, 8 * i + lane() / 4);
    r[i] = ((const u32 *)at)[lane() % 4];
  }
  __syncwarp();
}

// load_matrices_transposed is ldmatrix.x4.trans: lane 4g + t gets elements (2t, g) and (2t + 1, g).
INLINE void load_matrices_transposed(u32 *r, const void *row) {
  for (int i = 0; i < 4; i++) {
    u64 lo = __shfl_sync(FULL, (u64)row, 8 * i + 2 * (lane() % 4)), hi = __shfl_sync(FULL, (u64)row, 8 * i + 2 * (lane() % 4) + 1);
    r[i] = (u32)((const u16 *)lo)[lane() / 4] | (u32)((const u16 *)hi)[lane() / 4] << 16;
  }
  __syncwarp();
}

// copy_async starts copying `bytes` bytes (0 to 16) of 16 to shared memory and clears the rest. Both addresses are multiples of 16.
INLINE void copy_async(void *shared, const void *global, int bytes) {
  for (int i = 0; i < 16; i++) ((u8 *)shared)[i] = i < bytes ? ((const u8 *)global)[i] : 0;
}
INLINE void copy_commit() {}
template <int N> INLINE void copy_wait() {}

// SharedAt is an address in shared memory, to which bytes are added.
typedef u8 *SharedAt;
INLINE SharedAt shared_at(const void *p) { return (u8 *)p; }
INLINE void store_shared(SharedAt at, const Pack<u32, 4> &x) { *(Pack<u32, 4> *)at = x; }
INLINE Pack<u32, 4> load_shared(SharedAt at) { return *(const Pack<u32, 4> *)at; }

#else

INLINE u32 shared_address(const void *p) {
  u32 r;
  asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(r) : "l"(p));
  return r;
}

typedef u32 SharedAt;
INLINE SharedAt shared_at(const void *p) { return shared_address(p); }
INLINE void store_shared(SharedAt at, const Pack<u32, 4> &x) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(x.v[0]), "r"(x.v[1]), "r"(x.v[2]), "r"(x.v[3]) : "memory");
}
INLINE Pack<u32, 4> load_shared(SharedAt at) {
  Pack<u32, 4> x;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3]) : "r"(at) : "memory");
  return x;
}

template <class T> struct Mma;
template <> struct Mma<bf16> {
  static __device__ __forceinline__ void run(float *c, const u32 *a, const u32 *b) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
  }
};
template <> struct Mma<f16> {
  static __device__ __forceinline__ void run(float *c, const u32 *a, const u32 *b) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif __CUDA_ARCH__ >= 750
    for (int h = 0; h < 2; h++)
      asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2 * h]), "r"(a[2 * h + 1]), "r"(b[h]));
#endif
  }
};
template <> struct Mma<i8> {
  static __device__ __forceinline__ void run(int *c, const u32 *a, const u32 *b) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
  }
};
template <class T, class C> INLINE void mma(C *c, const u32 *a, const u32 *b) { Mma<T>::run(c, a, b); }

INLINE void load_matrices(u32 *r, SharedAt row) {
#if __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row));
#endif
}
INLINE void load_matrices_transposed(u32 *r, SharedAt row) {
#if __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row));
#endif
}
INLINE void load_matrices(u32 *r, const void *row) { load_matrices(r, shared_at(row)); }
INLINE void load_matrices_transposed(u32 *r, const void *row) { load_matrices_transposed(r, shared_at(row)); }

#if __CUDA_ARCH__ >= 800
INLINE void copy_async(SharedAt shared, const void *global, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
#else
INLINE void copy_async(SharedAt shared, const void *global, int bytes) {
  Pack<u32, 4> x = {0, 0, 0, 0};
  if (bytes == 16) {
    x = *(const Pack<u32, 4> *)global;
  } else {
#pragma unroll
    for (int i = 0; i < 16; i++)
      if (i < bytes) x.v[i / 4] |= (u32)((const u8 *)global)[i] << i % 4 * 8;
  }
  store_shared(shared, x);
}
#endif
INLINE void copy_async(void *shared, const void *global, int bytes) { copy_async(shared_at(shared), global, bytes); }
INLINE void copy_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// copy_wait waits until at most N of the groups that this thread committed are under way.
template <int N> INLINE void copy_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

#endif
