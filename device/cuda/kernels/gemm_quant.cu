// Products of rows in 16 bits and a weight in 4 bits on tensor cores, which decode the weight on its way: x·Wᵀ (TRANS_B 1), or x·W. A block of 8 warps
// computes HEIGHT x 128 of C. Tiles of x are copied to shared memory STAGES - 1 steps of 64 inner indices ahead; a tile of the weight is decoded from
// registers, where its codes lie for two steps, while the tile before it is multiplied. Values are those of fourbit.cuh rounded to T, as where the whole
// weight is decoded first. Defined by the program: T, TC, SUM, TRANS_A 0, TRANS_B, CHUNKS 8, HEIGHT (64), STAGES, SHIFT (blocks of 32 or more). Columns
// of the weight are a multiple of 32. Dynamic shared memory: (STAGES·HEIGHT + 2·128) · 128 bytes.

#define WIDTH 128  // columns of a block

// Coded is 32 codes of a row of the weight, which are of one block, and its scale.
struct Coded {
  Pack<u32, 4> code;
  Scale scale;
#ifdef NESTED
  float outer;
#endif
};

// Weight brings the tiles of a weight (·, ld). A thread has the same 32 of each: half of a row of 64, or a quarter of one of 128 where rows are the inner axis.
struct Weight {
  const u8 *codes;
  Scales s;
  float offset;
  i64 at, step;  // its first element, and how far it is from there to the next tile's
  int left;      // inner indices from there to the end; none if the tile reaches beyond the weight
  int row, chunk;  // 16 bytes of its first chunk in a tile: row·16 + (chunk ^ 0..3)
  bool turned;

  __device__ __forceinline__ Weight(const Product &p, const Tile &t, const Scales &scales) : codes((const u8 *)p.b), s(scales) {
    offset = offset_of(s);
    if (TRANS_B) {
      int line = threadIdx.x / 2, half = threadIdx.x % 2;
      at = (i64)(t.column + line) * p.ldb + t.lo + 32 * half, step = DEEP;
      left = t.column + line < p.n ? t.hi - t.lo - 32 * half : 0;
      row = line * CHUNKS, chunk = (4 * half) ^ (line & 7), turned = false;
    } else {
      int line = threadIdx.x / 4, quarter = threadIdx.x % 4;
      at = (i64)(t.lo + line) * p.ldb + t.column + 32 * quarter, step = DEEP * p.ldb;
      left = t.column + 32 * quarter < p.n ? t.hi - t.lo - line : 0;
      // Half of the quarters begin with their third chunk: eight lanes then write to all banks.
      turned = quarter & 2;
      row = line * (WIDTH / PER), chunk = (4 * quarter) ^ (line & 7) ^ (quarter & 2);
    }
  }

  // load reads the codes of the next tile, zeros beyond the weight.
  __device__ __forceinline__ void load(Coded &c) {
    c = Coded{};
    if (left > 0) {
      const u8 *from = codes + at / 2;
      if (ALIGNED) {
        c.code = load_pack<4>(reinterpret_cast<const u32 *>(from));
      } else {
#pragma unroll
        for (int i = 0; i < 16; i++) c.code.v[i / 4] |= (u32)from[i] << i % 4 * 8;
      }
      i64 block = at >> SHIFT;
      c.scale = __ldg(s.absmax + block);
#ifdef NESTED
      c.outer = __ldg(s.nested + (block >> 8));
#endif
    }
    at += step, left -= DEEP;
  }

  __device__ __forceinline__ float scale_in(const Coded &c) const {
#ifdef NESTED
    return restored(c.scale, c.outer, offset);
#else
    return c.scale;
#endif
  }

  // decode writes chunk number q of the thread's four.
  __device__ __forceinline__ void decode(SharedAt tile, const Coded &c, const Sixteen &table, int q) const {
    Pack<u32, 4> words;
    values_of(words.v, turned ? c.code.v[q ^ 2] : c.code.v[q], table);
    store_shared(tile + 16 * (row + (chunk ^ q)), words);
  }
};

KERNEL __launch_bounds__(THREADS, 2) gemm_quant(const Product p, const Scales scales) {
  SHARED_DYNAMIC(u8, memory);  // tiles of x, then two of the weight
  const int rows = HEIGHT / 32, tile = HEIGHT * CHUNKS * 16, decoded = WIDTH * CHUNKS * 16;
  SharedAt xs = shared_at(memory), ws = xs + STAGES * tile;
  Tile t;
  if (!find_tile<HEIGHT, WIDTH>(p, t)) return;
  Side<false, HEIGHT> a((const T *)p.a, p.lda, t.row, t.m, t.lo, t.hi);
  Weight b(p, t, scales);
  int warp = threadIdx.x / WARP, row0 = warp / 4 * (HEIGHT / 2), column0 = warp % 4 * 32;  // of the warp's HEIGHT/2 x 32
  SUM acc[rows][4][4] = {};

  int steps = (t.hi - t.lo + DEEP - 1) / DEEP;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) a.fetch(xs + s * tile, p.lda, ALIGNED);
    copy_commit();
  }
  Coded ring[2];  // of the next two steps, the odd one second
  b.load(ring[0]), b.load(ring[1]);
  const Sixteen first = sixteen<T>(b.scale_in(ring[0]));
#pragma unroll
  for (int q = 0; q < 4; q++) b.decode(ws, ring[0], first, q);
  b.load(ring[0]);
  int now = 0, next = STAGES - 1;  // stages
  for (int even = 0; even < steps; even += 2) {
#pragma unroll
    for (int odd = 0; odd < 2; odd++) {
      int s = even + odd;
      if (s >= steps) break;
      copy_wait<STAGES - 2>();
      __syncthreads();
      if (s + STAGES - 1 < steps) a.fetch(xs + next * tile, p.lda, ALIGNED);
      copy_commit();
      Coded &c = ring[1 - odd];
      const Sixteen table = sixteen<T>(b.scale_in(c));
#pragma unroll
      for (int part = 0; part < PARTS; part++) {
        multiply<HEIGHT, WIDTH>(acc, xs + now * tile, ws + odd * decoded, row0, column0, part);
        b.decode(ws + (1 - odd) * decoded, c, table, part);
      }
      b.load(c);
      now = now + 1 == STAGES ? 0 : now + 1, next = next + 1 == STAGES ? 0 : next + 1;
    }
  }
  write_sums(p, t, acc, row0, column0);
}
