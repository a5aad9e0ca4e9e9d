// Between the operands of attention and those of a library that takes packed documents as lengths and offsets.

#define THREADS 1024
#define SLOTS 1024  // at most
#define AHEAD 8     // tokens of a thread that are read at once

// Token is what a thread knows of one: its place in the row, whether a document begins there, and whether that is no division of the row.
struct Token { bool start, bad; };

INLINE Token token(int doc, int before, int t) {
  return {doc == t, doc != t && (t == 0 || doc != before)};
}

// attend_documents finds the documents of all rows in doc_start: the length of each, and where it begins in q, in k and in numbers that
// lie (token, head), with one more offset at the end. Slots that are left over are empty. Where there are more documents than slots,
// or doc_start is no division into documents, all slots are empty and *gate is 1, else 0. One block does that. Others, if there are any,
// transpose lse from (b, hq, tq) to stats (b, tq, hq).
extern "C" __global__ void __launch_bounds__(THREADS)
attend_documents(Attention a, i32 slots, i32 *gate, i32 *lengths, i64 *offset_q, i64 *offset_k, i64 *offset_n, const f32 *lse, f32 *stats) {
  __shared__ int before[THREADS / WARP], begin[SLOTS + 1];
  if (blockIdx.x > 0) {
    turn<THREADS / WARP>(a, a.hq, a.tq, lse, stats, blockIdx.x - 1, gridDim.x - 1);
    return;
  }
  int n = a.b * a.tq, each = (n + THREADS - 1) / THREADS, from = min(n, (int)threadIdx.x * each), to = min(n, from + each);
  int mine = 0, bad = 0, upto, at, total;
  for (int pass = 0; pass < 2; pass++) {  // to count, then to write
    for (int i = from, t = from % a.tq, last = from > 0 ? a.doc[from - 1] : 0; i < to; i += AHEAD) {
      int doc[AHEAD];
#pragma unroll
      for (int c = 0; c < AHEAD; c++) doc[c] = i + c < to ? a.doc[i + c] : 0;
#pragma unroll
      for (int c = 0; c < AHEAD; c++) {
        if (i + c >= to) break;
        Token x = token(doc[c], last, t);
        if (pass > 0 && x.start) begin[at++] = i + c;
        mine += x.start, bad |= x.bad, last = doc[c], t = t + 1 == a.tq ? 0 : t + 1;
      }
    }
    if (pass > 0) break;
    upto = mine;  // documents that begin in this warp's tokens up to this thread's
    for (int d = 1; d < WARP; d <<= 1) {
      int other = __shfl_up_sync(FULL, upto, d);
      if (lane() >= d) upto += other;
    }
    if (lane() == WARP - 1) before[threadIdx.x / WARP] = upto;
    bad = block_reduce<Max>(bad, 0);  // and waits for before
    int warps = before[lane()];
    for (int d = 1; d < WARP; d <<= 1) {
      int other = __shfl_up_sync(FULL, warps, d);
      if (lane() >= d) warps += other;
    }
    total = __shfl_sync(FULL, warps, WARP - 1);
    int w = threadIdx.x / WARP, earlier = __shfl_sync(FULL, warps, max(w - 1, 0));
    at = (w > 0 ? earlier : 0) + upto - mine;
    if (bad || total > slots) break;
  }
  bad = bad || total > slots;
  __syncthreads();
  if (threadIdx.x == 0) *gate = bad;
  for (int s = threadIdx.x; s <= slots; s += THREADS) {
    i64 first = bad ? 0 : s < total ? begin[s] : n, next = bad ? 0 : s + 1 < total ? begin[s + 1] : n;
    if (s < slots) lengths[s] = (int)(next - first);
    offset_q[s] = first * a.hq * a.d, offset_k[s] = first * a.hkv * a.d, offset_n[s] = first * a.hq;
  }
}
