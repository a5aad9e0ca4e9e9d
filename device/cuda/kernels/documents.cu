// Lists of the documents of packed rows, as libraries take them: lengths, and places in queries, keys and numbers.

#define THREADS 1024
#define SLOTS 1024  // at most
#define AHEAD 8     // tokens of a thread that are read at once

// Rows says what is listed: b rows of t tokens; step are the elements of a token in queries, keys and numbers.
struct Rows {
  const i32 *doc;
  i32 b, t, slots, longest;
  i64 step[3];
};

// Token is what a thread knows of one: whether a document begins there, and whether that is no division of the row.
struct Token { bool start, bad; };

INLINE Token token(int doc, int before, int t) {
  return {doc == t, doc != t && (t == 0 || doc != before)};
}

// sum_before is the sum of x over the lanes before this one.
INLINE int sum_before(int x) {
  int upto = x;
  for (int d = 1; d < WARP; d <<= 1) {
    int other = __shfl_up_sync(FULL, upto, d);
    if (lane() >= d) upto += other;
  }
  return upto - x;
}

// documents is ops.Documents, by one block: a thread goes over tokens that lie together, first to count the documents that begin there, then
// to write where.
extern "C" __global__ void __launch_bounds__(THREADS) documents(Rows a, i32 *lengths, i64 *offsets) {
  __shared__ int counted[THREADS / WARP], begin[SLOTS + 1];
  const i64 n = (i64)a.b * a.t, each = (n + THREADS - 1) / THREADS, from = min(n, threadIdx.x * each), to = min(n, from + each);
  int mine = 0, bad = 0, at = 0, total = 0;
  for (int pass = 0; pass < 2; pass++) {
    int t = (int)(from % a.t), last = from > 0 ? a.doc[from - 1] : 0;
    for (i64 i = from; i < to; i += AHEAD) {
      int doc[AHEAD];
#pragma unroll
      for (int c = 0; c < AHEAD; c++) doc[c] = i + c < to ? a.doc[i + c] : 0;
#pragma unroll
      for (int c = 0; c < AHEAD; c++) {
        if (i + c >= to) break;
        Token x = token(doc[c], last, t);
        if (pass > 0 && x.start) begin[at++] = (int)(i + c);
        mine += x.start, bad |= x.bad, last = doc[c], t = t + 1 == a.t ? 0 : t + 1;
      }
    }
    if (pass > 0) break;
    at = sum_before(mine);
    if (lane() == WARP - 1) counted[threadIdx.x / WARP] = at + mine;
    bad = block_reduce<Max>(bad, 0);  // and waits for counted
    int warp = counted[lane()], earlier = sum_before(warp);
    total = __shfl_sync(FULL, earlier + warp, WARP - 1);
    at += __shfl_sync(FULL, earlier, threadIdx.x / WARP);
    bad = bad || total > a.slots;
    if (bad) break;
  }
  __syncthreads();
  const int s = threadIdx.x;  // a slot
  int first = bad || s >= total ? (int)n : begin[s], next = bad || s + 1 >= total ? (int)n : begin[s + 1];
  bad = block_reduce<Max>((int)(bad || next - first > a.longest), 0);
  if (s < a.slots) lengths[s] = bad ? 0 : next - first;
  if (s == 0) lengths[a.slots] = bad;
  const int ends = a.slots + 2;
  for (int i = s; i < 3 * ends; i += THREADS) {
    int slot = i % ends;
    offsets[i] = bad ? 0 : (slot < total ? begin[slot] : n) * a.step[i / ends];
  }
}
