// The steps of LLM.int8() (Dettmers et al. 2022), with the bits of bitsandbytes' kernels; package quant describes them. Compiled without
// contraction. Defined by the program: T, the dtype of values; HALF 1, if values are rounded to f16 before they are
// quantized; TENSOR, if tensor cores multiply T.

#define ROW_SCALE 7.874015718698502e-3f  // 1/127
#define PRODUCT_SCALE 6.200012e-05f      // bitsandbytes' 1/127²

INLINE f32 through_half(f32 x) { return to_float(narrow<f16>(x)); }

// seen is a value as it is quantized.
INLINE f32 seen(T x) {
#if HALF
  return through_half(widen(x));
#else
  return widen(x);
#endif
}

// row_code is x·(127/stat) rounded to even, for r = 127/stat as computed; where that is 0 or infinite the quotient itself is rounded.
INLINE i8 row_code(f32 x, f32 stat, f32 r) {
  if (stat == 0.f || !(stat < INF)) return 0;
  if (r == 0.f || !(r < INF)) {
    f64 q = 127.0 * (f64)flush(x) / (f64)stat;
    return q == q ? (i8)(int)rint(q) : 0;
  }
  f32 q = mul_ftz(x, r);
  return q == q ? (i8)(int)rintf(q) : 0;
}

// Magnitudes are compared as integers: those of floats that are not NaN are ordered like their bits.
INLINE u32 magnitude(f32 x) { return __float_as_uint(x) & 0x7fffffffu; }

struct RowState {
  u32 top, nan;
  __device__ __forceinline__ void see(f32 x, f32 threshold, u8 *marks, i64 column) {
    u32 m = magnitude(x);
    if (m > 0x7f800000u) {
      nan = 1;
    } else if (threshold > 0.f && __uint_as_float(m) >= threshold) {
      marks[column] = 1;
    } else {
      top = m > top ? m : top;
    }
  }
};

struct Larger { template <class A> static __device__ __forceinline__ A of(A a, A b) { return a > b ? a : b; } };

INLINE i8 code_of(f32 x, f32 threshold, f32 stat, f32 r) { return threshold > 0.f && !(fabsf(x) < threshold) ? (i8)0 : row_code(x, stat, r); }

// see_columns goes through columns lo to hi - 1 of a row; write_codes writes their codes. Eight at a time if `wide`.
INLINE void see_columns(RowState &s, const T *x, i64 lo, i64 hi, f32 threshold, u8 *marks, int wide) {
  if (wide) {
    for (i64 c = lo + 8 * (i64)threadIdx.x; c < hi; c += 8 * blockDim.x) {
      Eight<T> e = load_eight(x + c);
#pragma unroll
      for (int i = 0; i < 8; i++) s.see(seen(e.parts[i / Eight<T>::part].v[i % Eight<T>::part]), threshold, marks, c + i);
    }
    return;
  }
  for (i64 c = lo + threadIdx.x; c < hi; c += blockDim.x) s.see(seen(x[c]), threshold, marks, c);
}
INLINE void write_codes(i8 *codes, const T *x, i64 lo, i64 hi, f32 threshold, f32 stat, int wide) {
  f32 r = mul_ftz(127.f, rcp_approx(stat));
  if (wide) {
    for (i64 c = lo + 8 * (i64)threadIdx.x; c < hi; c += 8 * blockDim.x) {
      Eight<T> e = load_eight(x + c);
      Pack<i8, 8> out;
#pragma unroll
      for (int i = 0; i < 8; i++) out.v[i] = code_of(seen(e.parts[i / Eight<T>::part].v[i % Eight<T>::part]), threshold, stat, r);
      store_pack(codes + c, out);
    }
    return;
  }
  for (i64 c = lo + threadIdx.x; c < hi; c += blockDim.x) codes[c] = code_of(seen(x[c]), threshold, stat, r);
}

// quantize_rows: a block for each row. marks (columns) were cleared; they are not touched at threshold 0.
KERNEL quantize_rows(const T *__restrict__ x, i8 *__restrict__ codes, f32 *__restrict__ stats, u8 *marks, i64 columns, f32 threshold, int strict, int wide) {
  const T *row = x + blockIdx.x * columns;
  RowState s = {0, 0};
  see_columns(s, row, 0, columns, threshold, marks, wide);
  u32 top = block_reduce<Larger>(s.top, 0u), nan = block_reduce<Larger>(s.nan, 0u);
  f32 stat = flush(__uint_as_float(top));
  write_codes(codes + blockIdx.x * columns, row, 0, columns, threshold, stat, wide);
  if (threadIdx.x == 0) stats[blockIdx.x] = strict && nan ? __uint_as_float(0x7fffffffu) : stat;
}

// Few long rows are cut into parts: row_parts (parts, rows) gives each part's largest magnitude and whether it saw NaN, row_codes writes codes.
KERNEL row_parts(const T *__restrict__ x, u32 *__restrict__ tops, u8 *marks, i64 columns, i64 part, f32 threshold, int wide) {
  i64 lo = blockIdx.x * part, hi = min(columns, lo + part);
  RowState s = {0, 0};
  see_columns(s, x + blockIdx.y * columns, lo, hi, threshold, marks, wide);
  u32 top = block_reduce<Larger>(s.top, 0u), nan = block_reduce<Larger>(s.nan, 0u);
  if (threadIdx.x == 0) tops[blockIdx.y * gridDim.x + blockIdx.x] = top | nan << 31;
}
KERNEL row_codes(const T *__restrict__ x, const u32 *__restrict__ tops, i8 *__restrict__ codes, f32 *__restrict__ stats, i64 columns, i64 part, f32 threshold,
                 int strict, int wide) {
  u32 top = 0, nan = 0;
  for (int i = threadIdx.x; i < gridDim.x; i += blockDim.x) {
    u32 t = tops[blockIdx.y * gridDim.x + i];
    top = Larger::of(top, t & 0x7fffffffu), nan |= t >> 31;
  }
  top = block_reduce<Larger>(top, 0u), nan = block_reduce<Larger>(nan, 0u);
  f32 stat = flush(__uint_as_float(top));
  i64 lo = blockIdx.x * part, hi = min(columns, lo + part);
  write_codes(codes + blockIdx.y * columns, x + blockIdx.y * columns, lo, hi, threshold, stat, wide);
  if (threadIdx.x == 0 && blockIdx.x == 0) stats[blockIdx.y] = strict && nan ? __uint_as_float(0x7fffffffu) : stat;
}

// list_columns writes the marked columns, ascending, to list[1..] and their number to list[0]. One block of 1024 threads.
KERNEL list_columns(const u8 *__restrict__ marks, i32 *__restrict__ list, int columns) {
  __shared__ i32 sums[32];
  int found = 0;
  for (int first = 0; first < columns; first += blockDim.x) {
    int c = first + threadIdx.x, is = c < columns && marks[c];
    u32 warp = __ballot_sync(FULL, is);
    if (lane() == 0) sums[threadIdx.x / WARP] = __popc(warp);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < blockDim.x / WARP; w++) {
      if (w < threadIdx.x / WARP) before += sums[w];
      all += sums[w];
    }
    if (is) list[1 + found + before + __popc(warp & ((1u << lane()) - 1))] = c;
    found += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) list[0] = found;
}

// clear_columns writes code 0 into the columns listed.
KERNEL clear_columns(i8 *__restrict__ codes, const i32 *__restrict__ list, i64 rows, i64 columns) {
  i64 found = list[0], all = rows * found;
  for (i64 i = global_thread(); i < all; i += global_threads()) codes[i / found * columns + list[1 + i % found]] = 0;
}

// column_tops: the largest inlier magnitude of each column over a part of the rows; bit 31 says that it saw NaN. Blocks are (columns, parts).
KERNEL column_tops(const T *__restrict__ x, u32 *__restrict__ tops, i64 rows, i64 columns, i64 part, f32 threshold) {
  i64 c = global_thread(), lo = blockIdx.y * part, hi = min(rows, lo + part);
  if (c >= columns) return;
  u32 top = 0, nan = 0;
  for (i64 r = lo; r < hi; r++) {
    u32 m = magnitude(seen(x[r * columns + c]));
    if (m > 0x7f800000u) {
      nan = 0x80000000u;
    } else if (!(threshold > 0.f) || __uint_as_float(m) < threshold) {
      top = m > top ? m : top;
    }
  }
  tops[blockIdx.y * columns + c] = top | nan;
}
// column_stats adds the parts up: the statistic, and `shown`, where NaN hides it if strict.
KERNEL column_stats(const u32 *__restrict__ tops, f32 *__restrict__ stats, f32 *__restrict__ shown, i64 columns, int parts, int strict) {
  i64 c = global_thread();
  if (c >= columns) return;
  u32 top = 0, nan = 0;
  for (int p = 0; p < parts; p++) {
    u32 t = tops[p * columns + c];
    top = Larger::of(top, t & 0x7fffffffu), nan |= t >> 31;
  }
  stats[c] = __uint_as_float(top);
  shown[c] = strict && nan ? __uint_as_float(0x7fffffffu) : __uint_as_float(top);
}

// column_code is x·127/stat, the product rounded to the dtype that is quantized unless it overflows there.
INLINE i8 column_code(f32 x, f32 stat) {
  f32 product = x * 127.f;
#if HALF
  product = through_half(product);
#else
  product = widen(narrow<T>(product));
#endif
  if (fabsf(product) < INF) return (i8)(int)rintf(product / stat);
  f64 q = 127.0 * (f64)x / (f64)stat;
  return q == q ? (i8)(int)rint(q) : 0;
}
KERNEL column_codes(const T *__restrict__ x, const f32 *__restrict__ stats, i8 *__restrict__ codes, i64 rows, i64 columns, f32 threshold) {
  for (i64 i = global_thread(); i < rows * columns; i += global_threads()) {
    f32 v = seen(x[i]), stat = stats[i % columns];
    bool inlier = stat > 0.f && v == v && (!(threshold > 0.f) || fabsf(v) < threshold);
    codes[i] = inlier ? column_code(v, stat) : 0;
  }
}

// dequantize_rows: code·stat·(1/127), or code·(stat·(1/127)) if scale_first, rounded once to T.
KERNEL dequantize_rows(const i8 *__restrict__ codes, const f32 *__restrict__ stats, T *__restrict__ y, i64 rows, i64 columns, int scale_first, int wide) {
  f32 first = scale_first ? ROW_SCALE : 1.f, last = scale_first ? 1.f : ROW_SCALE;
  if (wide) {
    i64 packs = columns / 8, all = rows * packs;
    for (i64 i = global_thread(); i < all; i += global_threads()) {
      f32 scale = stats[i / packs] * first, v[8];
      Pack<i8, 8> c = load_pack<8>(codes + i * 8);
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = (f32)c.v[j] * scale * last;
      store_eight(y + i * 8, v);
    }
    return;
  }
  for (i64 i = global_thread(); i < rows * columns; i += global_threads()) y[i] = narrow<T>((f32)codes[i] * (stats[i / columns] * first) * last);
}

INLINE bool is_half(const f16 *) { return true; }
template <class X> INLINE bool is_half(const X *) { return false; }

// product_value is the value of an int32 sum: through f16, where the bias is added.
INLINE f32 product_value(i32 sum, f32 row, f32 column, const T *bias, i64 c) {
  f32 p = (f32)sum * row * column;
  if (!bias) return through_half(p * PRODUCT_SCALE);
  f32 b = widen(bias[c]);
  if (is_half((const T *)0)) return through_half(__fmaf_rn(p, PRODUCT_SCALE, b));
  return through_half(through_half(p * PRODUCT_SCALE) + b);
}

#define GATHERED 64  // outlier columns that have their values together

// gather_columns copies what the columns listed hold, up to a multiple of 16 of them, of x (rows, k) or, with scales, of codes (rows, k).
INLINE void gather_columns(T *to, const T *x, const i8 *codes, const f32 *scales, const i32 *list, i64 rows, i64 k) {
  int found = list[0], width = min((found + 15) & ~15, GATHERED);
  if (width == 0) return;
  for (i64 i = global_thread(); i < rows * width; i += global_threads()) {
    i64 r = i / width;
    int o = i % width;
    T v = narrow<T>(0.f);
    if (o < found) {
      i64 column = list[1 + o];
      v = scales ? narrow<T>((f32)codes[r * k + column] * scales[r] * ROW_SCALE) : x[r * k + column];
    }
    to[r * GATHERED + o] = v;
  }
}
KERNEL gather_rows(const T *__restrict__ x, const i32 *__restrict__ list, T *__restrict__ kept, i64 rows, i64 k) {
  gather_columns(kept, x, (const i8 *)0, (const f32 *)0, list, rows, k);
}
KERNEL gather_weight(const i8 *__restrict__ codes, const f32 *__restrict__ scales, const i32 *__restrict__ list, T *__restrict__ weight, i64 rows, i64 k) {
  gather_columns(weight, (const T *)0, codes, scales, list, rows, k);
}

#define OUT_ROWS 128
#define OUT_COLUMNS 128
#define OUT_DEEP 16

// Linear8 is what dequantize_product works on: sums (rows, n), one statistic a row and a column, and what of x (rows, k) and w (n, k) is added
// as it is: the columns listed. The first GATHERED of them are in kept (rows, GATHERED) and weight (n, GATHERED), zeros behind them.
struct Linear8 {
  const i32 *sums;
  const f32 *row_stats, *column_stats;
  const T *bias, *x;
  const i8 *codes;
  const i32 *list;
  T *y;
  const T *kept, *weight;
  i64 rows, n, k;
};

// A block of 256 threads writes 128 x 128 values. A thread has runs of eight columns: run_row(i) and run_column(i) say where run i begins, from
// the block's corner. extra[i] is what outlier columns contribute to run i.
#ifdef TENSOR
// On tensor cores, 16 outlier columns at a time. A warp has 32 x 64. Columns are dealt to the fragments so that a lane's eight lie together:
// column 8t + 2j + b of 32 is column 2t + b of fragment j.
#define DEEP_PITCH 24  // elements from row to row: rows g and g + 1 begin in other banks
INLINE int run_row(int i) { return threadIdx.x / WARP % 4 * 32 + i / 4 * 16 + i % 2 * 8 + lane() / 4; }
INLINE int run_column(int i) { return threadIdx.x / WARP / 4 * 64 + i / 2 % 2 * 32 + lane() % 4 * 8; }

INLINE void add_outliers(const Linear8 &p, i64 row0, i64 column0, int found, f32 (*extra)[8]) {
  __shared__ T kept[OUT_ROWS][DEEP_PITCH], weight[OUT_COLUMNS][DEEP_PITCH];
  f32 c[2][2][4][4];  // 16 rows, 32 columns, fragment
#pragma unroll
  for (int i = 0; i < 64; i++) c[i / 32][i / 16 % 2][i / 4 % 4][i % 4] = 0.f;
  int g = lane() / 4, t = lane() % 4, r0 = threadIdx.x / WARP % 4 * 32, n0 = threadIdx.x / WARP / 4 * 64;
  u32 a[2][4], b[8][2];
  for (int first = 0; first < min(found, GATHERED); first += OUT_DEEP) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      i64 row = row0 + r0 + i / 4 * 16 + i % 2 * 8 + g;
      a[i / 4][i % 4] = row < p.rows ? *(const u32 *)&p.kept[row * GATHERED + first + 2 * t + i % 4 / 2 * 8] : 0;
    }
#pragma unroll
    for (int j = 0; j < 8; j++) {
      i64 n = column0 + n0 + j / 4 * 32 + g / 2 * 8 + j % 4 * 2 + g % 2;
      const T *w = p.weight + n * GATHERED + first + 2 * t;
      b[j][0] = n < p.n ? *(const u32 *)w : 0, b[j][1] = n < p.n ? *(const u32 *)(w + 8) : 0;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) mma<T>(c[i][j / 4][j % 4], a[i], b[j]);
  }
  for (int first = GATHERED; first < found; first += OUT_DEEP) {
    for (int e = threadIdx.x; e < OUT_DEEP * OUT_ROWS; e += 256) {
      int o = e % OUT_DEEP, r = e / OUT_DEEP;
      bool is = first + o < found;
      i64 column = is ? p.list[1 + first + o] : 0, n = column0 + r;
      kept[r][o] = is && row0 + r < p.rows ? p.x[(row0 + r) * p.k + column] : narrow<T>(0.f);
      weight[r][o] = narrow<T>(is && n < p.n ? (f32)p.codes[n * p.k + column] * p.column_stats[n] * ROW_SCALE : 0.f);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++) a[i / 4][i % 4] = *(const u32 *)&kept[r0 + i / 4 * 16 + i % 2 * 8 + g][2 * t + i % 4 / 2 * 8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const T *w = weight[n0 + j / 4 * 32 + g / 2 * 8 + j % 4 * 2 + g % 2];
      b[j][0] = *(const u32 *)&w[2 * t], b[j][1] = *(const u32 *)&w[2 * t + 8];
#pragma unroll
      for (int i = 0; i < 2; i++) mma<T>(c[i][j / 4][j % 4], a[i], b[j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) extra[i][j] = c[i / 4][i / 2 % 2][j / 2][i % 2 * 2 + j % 2];
}
#else
INLINE int run_row(int i) { return threadIdx.x / 16 + 16 * i; }
INLINE int run_column(int) { return threadIdx.x % 16 * 8; }

INLINE void add_outliers(const Linear8 &p, i64 row0, i64 column0, int found, f32 (*extra)[8]) {
  __shared__ f32 kept[OUT_DEEP][OUT_ROWS + 1], weight[OUT_DEEP][OUT_COLUMNS + 4];
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) extra[i][j] = 0.f;
  for (int first = 0; first < found; first += OUT_DEEP) {
    for (int e = threadIdx.x; e < OUT_DEEP * OUT_ROWS; e += 256) {
      int o = e % OUT_DEEP, r = e / OUT_DEEP;
      bool is = first + o < found;
      i64 column = is ? p.list[1 + first + o] : 0, n = column0 + r;
      kept[o][r] = is && row0 + r < p.rows ? widen(p.x[(row0 + r) * p.k + column]) : 0.f;
      weight[o][r] = is && n < p.n ? widen(narrow<T>((f32)p.codes[n * p.k + column] * p.column_stats[n] * ROW_SCALE)) : 0.f;
    }
    __syncthreads();
    for (int o = 0; o < min(OUT_DEEP, found - first); o++) {
      f32 w[8];
#pragma unroll
      for (int j = 0; j < 8; j++) w[j] = weight[o][run_column(0) + j];
#pragma unroll
      for (int i = 0; i < 8; i++) {
        f32 v = kept[o][run_row(i)];
#pragma unroll
        for (int j = 0; j < 8; j++) extra[i][j] = __fmaf_rn(v, w[j], extra[i][j]);
      }
    }
    __syncthreads();
  }
}
#endif

template <bool OUTLIERS> INLINE void write_values(const Linear8 &p) {
  i64 row0 = (i64)blockIdx.y * OUT_ROWS, column0 = (i64)blockIdx.x * OUT_COLUMNS;
  f32 extra[8][8];
  int found = OUTLIERS ? p.list[0] : 0;
  if (found > 0) add_outliers(p, row0, column0, found, extra);
  bool wide = p.n % 8 == 0 && (((u64)p.y | (u64)p.sums | (u64)p.column_stats) & 15) == 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    i64 row = row0 + run_row(i), n = column0 + run_column(i);
    if (row >= p.rows || n >= p.n) continue;
    f32 stat = p.row_stats[row], v[8];
    const i32 *sums = p.sums + row * p.n + n;
    T *y = p.y + row * p.n + n;
    if (wide) {
      Pack<i32, 4> s[2] = {load_pack<4>(sums), load_pack<4>(sums + 4)};
      Pack<f32, 4> c[2] = {load_pack<4>(p.column_stats + n), load_pack<4>(p.column_stats + n + 4)};
#pragma unroll
      for (int j = 0; j < 8; j++) {
        v[j] = product_value(s[j / 4].v[j % 4], stat, c[j / 4].v[j % 4], p.bias, n + j);
        if (found > 0) v[j] = widen(narrow<T>(v[j])) + extra[i][j];
      }
      store_eight(y, v);
      continue;
    }
#pragma unroll
    for (int j = 0; j < 8; j++) {
      if (n + j >= p.n) break;
      f32 value = product_value(sums[j], stat, p.column_stats[n + j], p.bias, n + j);
      if (found > 0) value = widen(narrow<T>(value)) + extra[i][j];
      y[j] = narrow<T>(value);
    }
  }
}

// dequantize_product turns sums into values; add_product also adds what the columns listed contribute. Blocks are (columns, rows).
KERNEL __launch_bounds__(256) dequantize_product(const Linear8 p) { write_values<false>(p); }
KERNEL __launch_bounds__(256) add_product(const Linear8 p) { write_values<true>(p); }
