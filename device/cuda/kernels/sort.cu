// Sorting lanes, stable: items are a key whose unsigned order is that of the elements, and the position, which decides between equal keys.
// A lane of up to ITEMS elements is sorted by a block in shared memory (Batcher 1968, bitonic). Longer ones are padded to a power of two in
// memory, with stretches of ITEMS sorted in shared memory, and merged by steps over all of it.

struct Item { u64 key; u32 pos; };

INLINE bool before(const Item &a, const Item &b) { return a.key < b.key || (a.key == b.key && a.pos < b.pos); }

// key_of maps numbers to unsigned ones of their order; NaN is the largest, -0 is 0.
INLINE u64 key_of(u8 x) { return x; }
INLINE u64 key_of(u16 x) { return x; }
INLINE u64 key_of(u32 x) { return x; }
INLINE u64 key_of(u64 x) { return x; }
INLINE u64 key_of(i64 x) { return (u64)x ^ 0x8000000000000000ull; }
INLINE u64 key_of(i8 x) { return key_of((i64)x); }
INLINE u64 key_of(i16 x) { return key_of((i64)x); }
INLINE u64 key_of(i32 x) { return key_of((i64)x); }
INLINE u64 key_of(float x) {
  if (x != x) return ~0ull;
  const u32 b = x == 0 ? 0u : __float_as_uint(x);
  return b >> 31 ? (u64)~b : (u64)(b | 0x80000000u);
}
INLINE u64 key_of(double x) {
  if (x != x) return ~0ull;
  const u64 b = x == 0 ? 0ull : (u64)__double_as_longlong(x);
  return b >> 63 ? ~b : b | 0x8000000000000000ull;
}
INLINE u64 key_of(bf16 x) { return key_of(to_float(x)); }
INLINE u64 key_of(f16 x) { return key_of(to_float(x)); }

// Lanes are the lines of a tensor along an axis: n elements, inner apart.
INLINE i64 lane_start(i64 lane, i64 n, i64 inner) { return lane / inner * n * inner + lane % inner; }

INLINE Item item_of(const T *__restrict__ x, i64 start, i64 n, i64 inner, i64 i) {
  Item it;
  it.pos = (u32)i;
  it.key = ~0ull;
  if (i < n) {
    const u64 k = key_of(x[start + i * inner]);
    it.key = DESCENDING ? ~k : k;
  }
  // What pads a lane comes last: after equal keys by its position.
  return it;
}

// exchange orders items a < b in memory of keys and positions, upwards or downwards.
INLINE void exchange(u64 *keys, u32 *pos, i64 a, i64 b, bool up) {
  const Item x = {keys[a], pos[a]}, y = {keys[b], pos[b]};
  if (before(y, x) == up) {
    keys[a] = y.key, pos[a] = y.pos;
    keys[b] = x.key, pos[b] = x.pos;
  }
}

// merge_shared finishes the steps of a merge that stay within a stretch of `count` items that begins at `base` of its lane.
INLINE void merge_shared(u64 *keys, u32 *pos, int count, i64 base, i64 size, int from) {
  for (int d = from; d > 0; d >>= 1) {
    __syncthreads();
    for (int i = threadIdx.x; i < count / 2; i += blockDim.x) {
      const int a = 2 * i - (i & (d - 1));
      exchange(keys, pos, a, a + d, ((base + a) & size) == 0);
    }
  }
  __syncthreads();
}

// put writes the element of an item and its position as number i of a lane's k results.
INLINE void put(T *__restrict__ y, i32 *__restrict__ at, const T *__restrict__ x, i64 lane, i64 n, i64 inner, i64 k, i64 i, u32 pos) {
  const i64 to = lane_start(lane, k, inner) + i * inner;
  y[to] = x[lane_start(lane, n, inner) + (i64)pos * inner];
  at[to] = (i32)pos;
}

// sort_short sorts lanes of up to ITEMS elements, `count` of them with the padding.
KERNEL sort_short(T *__restrict__ y, i32 *__restrict__ at, const T *__restrict__ x, i64 lanes, i64 n, i64 inner, i64 k, i32 count) {
  __shared__ u64 keys[ITEMS];
  __shared__ u32 pos[ITEMS];
  for (i64 l = blockIdx.x; l < lanes; l += gridDim.x) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const Item it = item_of(x, lane_start(l, n, inner), n, inner, i);
      keys[i] = it.key, pos[i] = it.pos;
    }
    for (int size = 2; size <= count; size *= 2) merge_shared(keys, pos, count, 0, size == count ? 0 : size, size / 2);
    __syncthreads();
    for (int i = threadIdx.x; i < k; i += blockDim.x) put(y, at, x, l, n, inner, k, i, pos[i]);
    __syncthreads();
  }
}

// sort_begin fills the items of long lanes, those of x from `from` on, and sorts stretches of ITEMS. padded is a lane's items in memory; the grid is
// (stretches, lanes).
KERNEL sort_begin(u64 *__restrict__ all_keys, u32 *__restrict__ all_pos, const T *__restrict__ x, i64 from, i64 lanes, i64 n, i64 inner, i64 padded) {
  __shared__ u64 keys[ITEMS];
  __shared__ u32 pos[ITEMS];
  const i64 base = (i64)blockIdx.x * ITEMS;
  for (i64 l = blockIdx.y; l < lanes; l += gridDim.y) {
    for (int i = threadIdx.x; i < ITEMS; i += blockDim.x) {
      const Item it = item_of(x, lane_start(from + l, n, inner), n, inner, base + i);
      keys[i] = it.key, pos[i] = it.pos;
    }
    for (int size = 2; size <= ITEMS; size *= 2) merge_shared(keys, pos, ITEMS, base, size, size / 2);
    __syncthreads();
    for (int i = threadIdx.x; i < ITEMS; i += blockDim.x) all_keys[l * padded + base + i] = keys[i], all_pos[l * padded + base + i] = pos[i];
    __syncthreads();
  }
}

// sort_step is one step of distance d >= ITEMS of the merge to runs of `size`.
KERNEL sort_step(u64 *__restrict__ keys, u32 *__restrict__ pos, i64 lanes, i64 padded, i64 size, i64 d) {
  for (i64 l = blockIdx.y; l < lanes; l += gridDim.y)
    for (i64 i = global_thread(); i < padded / 2; i += global_threads()) {
      const i64 a = 2 * i - (i & (d - 1));
      exchange(keys + l * padded, pos + l * padded, a, a + d, (a & size) == 0);
    }
}

// sort_finish does the steps of a merge below ITEMS.
KERNEL sort_finish(u64 *__restrict__ all_keys, u32 *__restrict__ all_pos, i64 lanes, i64 padded, i64 size) {
  __shared__ u64 keys[ITEMS];
  __shared__ u32 pos[ITEMS];
  const i64 base = (i64)blockIdx.x * ITEMS;
  for (i64 l = blockIdx.y; l < lanes; l += gridDim.y) {
    for (int i = threadIdx.x; i < ITEMS; i += blockDim.x) keys[i] = all_keys[l * padded + base + i], pos[i] = all_pos[l * padded + base + i];
    merge_shared(keys, pos, ITEMS, base, size, ITEMS / 2);
    for (int i = threadIdx.x; i < ITEMS; i += blockDim.x) all_keys[l * padded + base + i] = keys[i], all_pos[l * padded + base + i] = pos[i];
    __syncthreads();
  }
}

// sort_end writes the first k of each long lane.
KERNEL sort_end(T *__restrict__ y, i32 *__restrict__ at, const T *__restrict__ x, const u32 *__restrict__ pos, i64 from, i64 lanes, i64 n, i64 inner,
                i64 k, i64 padded) {
  for (i64 l = blockIdx.y; l < lanes; l += gridDim.y)
    for (i64 i = global_thread(); i < k; i += global_threads()) put(y, at, x, from + l, n, inner, k, i, pos[l * padded + i]);
}
