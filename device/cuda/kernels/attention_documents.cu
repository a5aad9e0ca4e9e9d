// Between the operands of attention and those of a library that takes packed documents as lengths and offsets.

// attend_documents finds the documents of all rows in doc_start: the length of each, and where it begins in q, in k and in numbers that
// lie (token, head), with one more offset at the end. Slots that are left over are empty. Where there are more documents than slots,
// or doc_start is no division into documents, all slots are empty and *gate is 1, else 0. One block.
KERNEL attend_documents(Attention a, i32 slots, i32 *gate, i32 *lengths, i64 *offset_q, i64 *offset_k, i64 *offset_n) {
  __shared__ int before[33];
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

// attend_turn transposes each of a.b matrices of `rows` x `columns` numbers.
KERNEL attend_turn(Attention a, i32 rows, i32 columns, const float *__restrict__ x, float *__restrict__ y) {
  __shared__ float tile[32][33];
  int across = (columns + 31) / 32, r0 = blockIdx.x / across * 32, c0 = blockIdx.x % across * 32;
  for (int b = blockIdx.y; b < a.b; b += gridDim.y) {
    i64 base = (i64)b * rows * columns;
    for (int i = threadIdx.y; i < 32; i += blockDim.y)
      if (r0 + i < rows && c0 + threadIdx.x < columns) tile[i][threadIdx.x] = x[base + (i64)(r0 + i) * columns + c0 + threadIdx.x];
    __syncthreads();
    for (int i = threadIdx.y; i < 32; i += blockDim.y)
      if (c0 + i < columns && r0 + threadIdx.x < rows) y[base + (i64)(c0 + i) * rows + r0 + threadIdx.x] = tile[threadIdx.x][i];
    __syncthreads();
  }
}
