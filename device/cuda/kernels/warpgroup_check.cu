// check_groups counts in *wrong the elements that products of warpgroups get wrong, of every kind that kernels use, on small integers: whether a device reads
// swizzled tiles as its descriptors say is known on the device only. One warpgroup. D is 128.

#define ROWS 128  // of the right tile; the left has 64

INLINE float small(int tile, int r, int c) { return (float)((r * 37 + c * 101 + r * c * 13 + tile * 7) / 2 % 7 - 3); }

INLINE void fill(u8 *tile, int which, int rows) {
  for (int i = threadIdx.x; i < rows * D; i += GROUP) {
    int r = i / D, c = i % D;
    *(T *)(tile + c / 64 * (rows * 128) + r * 128 + (c % 64 / 8 ^ r % 8) * 16 + c % 8 * 2) = narrow<T>(small(which, r, c));
  }
}

// differ counts the elements of a product of N columns that are not sums over `inner` numbers of left and right.
template <int N, class Right> INLINE int differ(float (*got)[4], int inner, Right right) {
  settle<N>(got);
  int wrong = 0;
  for (int n = 0; n < N / 8; n++)
    for (int i = 0; i < 4; i++) {
      int row = threadIdx.x / WARP * 16 + lane() / 4 + i / 2 * 8, column = 8 * n + lane() % 4 * 2 + i % 2;
      float sum = 0;
      for (int k = 0; k < inner; k++) sum += small(0, row, k) * right(k, column);
      wrong += !(got[n][i] == sum);
    }
  return wrong;
}

extern "C" __global__ void __launch_bounds__(GROUP) check_groups(i32 *wrong) {
  SHARED_DYNAMIC(u8, dynamic);
  u8 *left = first_tile(dynamic), *right = left + 64 * D * 2;
  fill(left, 0, 64), fill(right, 1, ROWS);
  u32 held[D / 16][4];
  int row = threadIdx.x / WARP * 16 + lane() / 4, column = lane() % 4 * 2;
  for (int k = 0; k < D / 16; k++)
    for (int i = 0; i < 4; i++) {
      int r = row + i % 2 * 8, c = 16 * k + column + i / 2 * 8;
      held[k][i] = narrow_pair<T>(small(0, r, c), small(0, r, c + 1));
    }
  copies_to_groups();
  __syncthreads();
  Operand rows = row_operand(right), turned = turned_operand(right, ROWS), lying = row_operand(left);
  auto across = [](int k, int n) { return small(1, n, k); };
  auto along = [](int k, int n) { return small(1, k, n); };
  int bad = 0;
  {
    float c[8][4];
    groups_begin();
#pragma unroll
    for (int k = 0; k < D; k += 16) group_lying<64>(c[0], ahead(lying, column_step(64, k)), ahead(rows, column_step(ROWS, k)), k > 0);
    groups_commit(), groups_wait<0>();
    bad += differ<64>(c, D, across);
  }
  {
    float c[8][4];
    groups_begin();
#pragma unroll
    for (int k = 0; k < D; k += 16) group_held<64, 0>(c[0], held[k / 16], ahead(rows, column_step(ROWS, k)), k > 0);
    groups_commit(), groups_wait<0>();
    bad += differ<64>(c, D, across);
  }
  {
    float c[8][4];
    groups_begin();
#pragma unroll
    for (int k = 0; k < ROWS; k += 16) group_held<64, 1>(c[0], held[k / 16], ahead(turned, k * 128), k > 0);
    groups_commit(), groups_wait<0>();
    bad += differ<64>(c, ROWS, along);
  }
  {
    float c[16][4];
    groups_begin();
#pragma unroll
    for (int k = 0; k < D; k += 16) group_held<128, 0>(c[0], held[k / 16], ahead(rows, column_step(ROWS, k)), k > 0);
    groups_commit(), groups_wait<0>();
    bad += differ<128>(c, D, across);
  }
  {
    float c[16][4];
    groups_begin();
#pragma unroll
    for (int k = 0; k < ROWS; k += 16) group_held<128, 1>(c[0], held[k / 16], ahead(turned, k * 128), k > 0);
    groups_commit(), groups_wait<0>();
    bad += differ<128>(c, ROWS, along);
  }
  if (bad) atomicAdd(wrong, bad);
}
