// Products of warpgroups (wgmma, compute capability 9.0): four warps multiply 64 x 16 by 16 x N, the sums in their registers, the right operand, and the
// left one if it is not held in registers, in shared memory. A product is begun, committed and waited for; until then nobody touches its
// registers or what it reads. The four warps execute the same instruction: a branch around products depends on what is the same for the group, not on a
// warp's rows, and groups_begin is told which `way` (0 or 1) it took.
//
// A swizzled tile has R rows of 64 * B elements of 16 bits as B columns of R rows of 128 bytes, at a multiple of 1024 bytes; of a row's eight
// chunks of 16 bytes number c lies where number c ^ (row % 8) would. Sums are as those of mma: rows of warp w of the group are 16 * w and on.

#define GROUP 128  // threads of a warpgroup
#define MEETING 8  // the barrier of groups_meet
#define TILE_ALIGN 1024

INLINE u8 *aligned_tiles(u8 *memory, u32 at) { return memory + (TILE_ALIGN - at % TILE_ALIGN) % TILE_ALIGN; }

#ifdef BYES_EMULATE

INLINE u8 *first_tile(u8 *memory) { return aligned_tiles(memory, (u32)(u64)memory); }

// Operand is a place in a swizzled tile: rows of it are columns of a product (row_operand) or, turned, its inner index (turned_operand).
struct Operand { const u8 *at; int step; };
INLINE Operand row_operand(const u8 *at) { return {at, 0}; }
INLINE Operand turned_operand(const u8 *at, int rows) { return {at, rows * 128}; }
INLINE Operand ahead(Operand o, int bytes) { return {o.at + bytes, o.step}; }

// swizzled reads an element of a tile whose place without swizzling is `at`; chunks change places by the address, as in hardware.
INLINE float swizzled(const u8 *at) {
  u64 x = (u64)at;
  T v = *(const T *)(x ^ (x >> 7 & 7) << 4);
  return to_float(v);
}

// element (k, n) of a right operand, or (m, k) as (k, m) of a left one.
INLINE float element(const Operand &o, int k, int n) {
  if (o.step) return swizzled(o.at + n / 64 * (i64)o.step + k * 128 + n % 64 * 2);
  return swizzled(o.at + n * 128 + k * 2);
}

// groups_begin waits for the warps of the group: a warp that is at another branch's `way` makes the launch fail.
INLINE void groups_begin(int way = 0) { emulate_barrier(1 + threadIdx.x / GROUP * 2 + way, GROUP); }
INLINE void groups_commit() {}
template <int N> INLINE void groups_wait() { __syncwarp(); }
INLINE void copies_to_groups() {}
template <int THREADS> INLINE void groups_meet() { emulate_barrier(MEETING, THREADS); }

// group_held adds (64 x 16 held in registers) x (16 x N) to c, or sets c where add is 0.
template <int N, int TURNED> INLINE void group_held(float *c, const u32 *a, Operand b, int add) {
  const u32 none[2] = {0, 0};
  const Exchanged *all = exchange(a, none);
  int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < N / 2; i++) {
    int row = i / 2 % 2, n = i / 4 * 8 + t * 2 + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; k++) {
      u32 pair = all[4 * g + k % 8 / 2].a[row + k / 8 * 2];
      T x;
      x.bits = (u16)(k % 2 ? pair >> 16 : pair);
      sum += to_float(x) * element(b, k, n);
    }
    c[i] = add ? c[i] + sum : sum;
  }
  __syncwarp();
}

// group_lying is that with the left operand in shared memory, its rows those of a tile.
template <int N> INLINE void group_lying(float *c, Operand a, Operand b, int add) {
  int g = threadIdx.x % GROUP / WARP * 16 + lane() / 4, t = lane() % 4;
  for (int i = 0; i < N / 2; i++) {
    int m = g + i / 2 % 2 * 8, n = i / 4 * 8 + t * 2 + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; k++) sum += element(a, k, m) * element(b, k, n);
    c[i] = add ? c[i] + sum : sum;
  }
}

#else

INLINE u8 *first_tile(u8 *memory) { return aligned_tiles(memory, shared_address(memory)); }

// Operand is the descriptor of matrices in shared memory: address, distance of columns of a tile, distance of eight rows, all in 16 bytes, and
// the swizzle of 128 bytes.
typedef u64 Operand;
INLINE u64 descriptor(const u8 *at, u32 columns) {
  return (u64)(shared_address(at) >> 4 & 0x3fff) | (u64)(columns >> 4 & 0x3fff) << 16 | (u64)(TILE_ALIGN >> 4) << 32 | (u64)1 << 62;
}
INLINE Operand row_operand(const u8 *at) { return descriptor(at, 16); }
INLINE Operand turned_operand(const u8 *at, int rows) { return descriptor(at, rows * 128); }
INLINE Operand ahead(Operand o, int bytes) { return o + (bytes >> 4); }

template <class T, int N> struct Group;
#define LIST_64 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SUMS_64(c) \
  "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), \
  "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), \
  "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), \
  "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])
#define LIST_128 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SUMS_128(c) \
  "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), \
  "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), \
  "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), \
  "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]), \
  "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), \
  "+f"(c[40]), "+f"(c[41]), "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), \
  "+f"(c[48]), "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]), \
  "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63])

#define GROUP_64(T, NAME) \
  template <> struct Group<T, 64> { \
    template <int TURNED> static __device__ __forceinline__ void held(float *c, const u32 *a, u64 b, int add) { \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " {" LIST_64 \
                   "}, {%32,%33,%34,%35}, %36, p, 1, 1, %38; }" \
                   : SUMS_64(c) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TURNED)); \
    } \
    static __device__ __forceinline__ void lying(float *c, u64 a, u64 b, int add) { \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " {" LIST_64 \
                   "}, %32, %33, p, 1, 1, 0, 0; }" : SUMS_64(c) : "l"(a), "l"(b), "r"(add)); \
    } \
  };

#define GROUP_128(T, NAME) \
  template <> struct Group<T, 128> { \
    template <int TURNED> static __device__ __forceinline__ void held(float *c, const u32 *a, u64 b, int add) { \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " {" LIST_128 \
                   "}, {%64,%65,%66,%67}, %68, p, 1, 1, %70; }" \
                   : SUMS_128(c) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TURNED)); \
    } \
    static __device__ __forceinline__ void lying(float *c, u64 a, u64 b, int add) { \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " {" LIST_128 \
                   "}, %64, %65, p, 1, 1, 0, 0; }" : SUMS_128(c) : "l"(a), "l"(b), "r"(add)); \
    } \
  };
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
GROUP_64(bf16, "bf16")
GROUP_128(bf16, "bf16")
GROUP_64(f16, "f16")
GROUP_128(f16, "f16")

INLINE void groups_begin(int = 0) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void groups_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// groups_wait waits until at most N of the committed products are under way.
template <int N> INLINE void groups_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// copies_to_groups lets products see what this thread copied or wrote to shared memory.
INLINE void copies_to_groups() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
template <int N, int TURNED> INLINE void group_held(float *c, const u32 *a, Operand b, int add) { Group<T, N>::template held<TURNED>(c, a, b, add); }
template <int N> INLINE void group_lying(float *c, Operand a, Operand b, int add) { Group<T, N>::lying(c, a, b, add); }
#else
INLINE void groups_begin(int = 0) {}
INLINE void groups_commit() {}
template <int N> INLINE void groups_wait() {}
INLINE void copies_to_groups() {}
template <int N, int TURNED> INLINE void group_held(float *, const u32 *, Operand, int) { asm("trap;"); }
template <int N> INLINE void group_lying(float *, Operand, Operand, int) { asm("trap;"); }
#endif

#endif

#ifndef BYES_EMULATE
// groups_meet waits for all warpgroups of the block, which may be at different places of the program.
template <int THREADS> INLINE void groups_meet() { asm volatile("bar.sync %0, %1;" ::"n"(MEETING), "n"(THREADS) : "memory"); }
#endif

// settle keeps the compiler from moving what reads or writes sums across a wait.
template <int N> INLINE void settle(float (*c)[4]) {
#ifndef BYES_EMULATE
#pragma unroll
  for (int n = 0; n < N / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) asm volatile("" : "+f"(c[n][i])::"memory");
#endif
}

// fetch_swizzled is fetch to a swizzled tile.
template <int ROWS, int THREADS> INLINE void fetch_swizzled(u8 *tile, const T *x, i64 step, int first, int last) {
  static_assert(THREADS % CHUNKS == 0 && THREADS / CHUNKS % 8 == 0 && ROWS * CHUNKS % THREADS == 0, "rows of a pass keep their swizzle");
  constexpr int each = THREADS / CHUNKS;
  int r = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS, rest = last - first - r;
  const T *from = x + (i64)(first + r) * step + c * 8;
  Spot to = spot((const T *)(tile + c / 8 * (ROWS * 128) + r * 128 + (c % 8 ^ r % 8) * 16));
#pragma unroll
  for (int n = 0; n < ROWS; n += each, from += each * step) copy_at(ahead(to, n * 64), from, n < rest ? 16 : 0);
}

// column_step is how far the inner index k lies along the rows of a tile of so many rows, for operands whose inner index is a row's.
INLINE constexpr int column_step(int rows, int k) { return k / 64 * rows * 128 + k % 64 * 2; }

// arrived waits for the copies of all threads but those of the last AFTER commits.
template <int AFTER, int THREADS> INLINE void arrived() {
  copy_wait<AFTER>();
  copies_to_groups();
  groups_meet<THREADS>();
}

// late tells whether this thread's group works half a step behind the other: while one waits for products the other computes with its results. Both
// meet as often, the one that is late between its two halves, so that it may still read the tile before the one that the other is done with.
INLINE bool late() { return APART && threadIdx.x >= GROUP; }

// Turns are the tiles that a warpgroup has products with, [first, last) of those that the block goes over.
struct Turns { int first, last; };

// turns_of are those of the keys [lo, hi) where the block's begin at `from` and a tile has `each`.
INLINE Turns turns_of(int lo, int hi, int from, int each) {
  if (lo >= hi) return {0, 0};
  return {(lo - from) / each, (hi - from + each - 1) / each};
}
