// Products of bf16, f16 (into TC, summed in float) and i8 (into i32) on tensor cores. A block of 8 warps computes 128 x 128 of C in steps of
// CHUNKS·16 bytes of the inner axis, whose tiles are copied to shared memory STAGES - 1 steps ahead.
// Defined by the program: what gemm_tiles.cuh wants, and STAGES; i8 wants an inner axis that is contiguous on both sides. Dynamic shared memory:
// STAGES · 2 · EDGE · CHUNKS · 16 bytes.

#define EDGE 128

KERNEL __launch_bounds__(THREADS, 2) gemm_mma(const Product p) {
  SHARED_DYNAMIC(u8, memory);  // A and B of each stage
  const int tile = EDGE * CHUNKS * 16;
  SharedAt sides = shared_at(memory);
  Tile t;
  if (!find_tile<EDGE, EDGE>(p, t)) return;
  Side<TRANS_A, EDGE> a((const T *)p.a + t.a, p.lda, t.row, t.m, t.lo, t.hi);
  Side<!TRANS_B, EDGE> b((const T *)p.b + t.b, p.ldb, t.column, p.n, t.lo, t.hi);
  int warp = threadIdx.x / WARP, row0 = warp / 4 * 64, column0 = warp % 4 * 32;  // of the warp's 64 x 32
  SUM acc[4][4][4] = {};

  int steps = (t.hi - t.lo + DEEP - 1) / DEEP;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) a.fetch(sides + 2 * s * tile, p.lda, p.aligned & 1), b.fetch(sides + (2 * s + 1) * tile, p.ldb, p.aligned & 2);
    copy_commit();
  }
  int now = 0, next = STAGES - 1;  // stages
  for (int s = 0; s < steps; s++) {
    copy_wait<STAGES - 2>();
    __syncthreads();
    if (s + STAGES - 1 < steps) a.fetch(sides + 2 * next * tile, p.lda, p.aligned & 1), b.fetch(sides + (2 * next + 1) * tile, p.ldb, p.aligned & 2);
    copy_commit();
    SharedAt ta = sides + 2 * now * tile, tb = ta + tile;
    now = now + 1 == STAGES ? 0 : now + 1, next = next + 1 == STAGES ? 0 : next + 1;
#pragma unroll
    for (int part = 0; part < PARTS; part++) multiply<EDGE, EDGE>(acc, ta, tb, row0, column0, part);
  }
  write_sums(p, t, acc, row0, column0);
}
