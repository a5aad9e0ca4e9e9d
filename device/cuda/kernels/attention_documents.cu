// Between the operands of attention and those of a library that takes packed documents as lengths and offsets.

// attend_documents finds the documents of all rows in doc_start: the length of each, and where it begins in q, in k and in numbers that
// lie (token, head), with one more offset at the end. Slots that are left over are empty. Where there are more documents than slots,
// or doc_start is no division into documents, all slots are empty and *gate is 1, else 0. One block does that. Others, if there are any,
// transpose lse from (b, hq, tq) to stats (b, tq, hq).
KERNEL attend_documents(Attention a, i32 slots, i32 *gate, i32 *lengths, i64 *offset_q, i64 *offset_k, i64 *offset_n, const f32 *lse, f32 *stats) {
  __shared__ int before[33];
  if (blockIdx.x > 0) {
    turn(a, a.hq, a.tq, lse, stats, blockIdx.x - 1, gridDim.x - 1);
    return;
  }
  int n = a.b * a.tq, each = (n + blockDim.x - 1) / blockDim.x, from = min(n, (int)threadIdx.x * each), to = min(n, from + each);
  int mine = 0, bad = 0;
  for (int i = from; i < to; i++) {
    int t = i % a.tq;
    if (a.doc[i] == t)
      mine++;
    else if (t == 0 || a.doc[i] != a.doc[i - 1])
      bad = 1;
  }
  int upto = mine;  // documents that begin in this thread's tokens or before
  for (int d = 1; d < WARP; d <<= 1) {
    int other = __shfl_up_sync(FULL, upto, d);
    if (lane() >= d) upto += other;
  }
  if (lane() == WARP - 1) before[threadIdx.x / WARP + 1] = upto;
  if (threadIdx.x == 0) before[0] = 0;
  bad = block_reduce<Max>(bad, 0);  // and waits for before
  if (threadIdx.x == 0)
    for (int w = 1; w <= blockDim.x / WARP; w++) before[w] += before[w - 1];
  __syncthreads();
  int total = before[blockDim.x / WARP], at = before[threadIdx.x / WARP] + upto - mine;
  bad = bad || total > slots;
  if (threadIdx.x == 0) *gate = bad;
  if (!bad)
    for (int i = from; i < to; i++)
      if (a.doc[i] == i % a.tq) offset_n[at++] = i;
  for (int s = (bad ? 0 : total) + threadIdx.x; s <= slots; s += blockDim.x) offset_n[s] = bad ? 0 : n;
  __syncthreads();
  for (int s = threadIdx.x; s < slots; s += blockDim.x) lengths[s] = (int)(offset_n[s + 1] - offset_n[s]);
  __syncthreads();
  for (int s = threadIdx.x; s <= slots; s += blockDim.x) {
    i64 first = offset_n[s];
    offset_q[s] = first * a.hq * a.d, offset_k[s] = first * a.hkv * a.d, offset_n[s] = first * a.hq;
  }
}
