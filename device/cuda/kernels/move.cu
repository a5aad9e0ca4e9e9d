// Moving elements: UNIT is an unsigned type of 1, 2, 4, 8 or 16 bytes, one element or several that stay together.

// move fills y in order from strided x. RANK axes.
KERNEL move(UNIT *__restrict__ y, const UNIT *__restrict__ x, i64 n, Axes axes, Steps from) {
  for (i64 i = global_thread(); i < n; i += global_threads()) y[i] = x[walk<RANK>(axes, from, i)];
}

#ifndef PER
#define PER 1  // elements that planes reads and writes at once, a word of 32 bits if several
#endif
#define TILE (32 * PER)
#if PER > 1
typedef u32 Access;
INLINE UNIT element(u32 w, int j) { return (UNIT)(w >> (32 / PER * j)); }
INLINE u32 part(UNIT x, int j) { return (u32)x << (32 / PER * j); }
#else
typedef UNIT Access;
#endif

// planes transposes: x's neighbours lie along `across`, y's along the last axis, TILE by TILE through shared memory. The grid is (tiles of the last axis,
// tiles of across, planes), the last two walked in steps of the grid; the other axes are walked, with their steps in x and y. Where PER is more than 1 all
// extents and steps are multiples of it. Rows of a tile lie an element more apart than they are long: PER lanes' elements of a column have their own banks.
KERNEL __launch_bounds__(256) planes(UNIT *__restrict__ y, const UNIT *__restrict__ x, i64 rows, i64 columns, i64 step_x, i64 step_y,
                                     i64 count, Axes axes, Steps from, Steps to) {
  __shared__ UNIT tile[TILE][TILE + 1];
  const i64 row_tiles = (rows + TILE - 1) / TILE;
  const int tx = (threadIdx.x & 31) * PER, ty = threadIdx.x >> 5;
  const i64 c0 = (i64)blockIdx.x * TILE;
  for (i64 plane = blockIdx.z; plane < count; plane += gridDim.z) {
    const UNIT *__restrict__ src = x + walk<RANK>(axes, from, plane);
    UNIT *__restrict__ dst = y + walk<RANK>(axes, to, plane);
    for (i64 t = blockIdx.y; t < row_tiles; t += gridDim.y) {
      // rows run along x's neighbours, columns along y's
      const i64 r0 = t * TILE;
      Access in[TILE / 8];
#pragma unroll
      for (int k = 0; k < TILE; k += 8)
        if (r0 + tx < rows && c0 + ty + k < columns) in[k / 8] = *reinterpret_cast<const Access *>(src + (c0 + ty + k) * step_x + r0 + tx);
#pragma unroll
      for (int k = 0; k < TILE; k += 8)
#if PER > 1
#pragma unroll
        for (int j = 0; j < PER; j++) tile[ty + k][tx + j] = element(in[k / 8], j);
#else
        tile[ty + k][tx] = in[k / 8];
#endif
      __syncthreads();
#pragma unroll
      for (int k = 0; k < TILE; k += 8) {
        Access out = {};
#if PER > 1
#pragma unroll
        for (int j = 0; j < PER; j++) out |= part(tile[tx + j][ty + k], j);
#else
        out = tile[tx][ty + k];
#endif
        if (c0 + tx < columns && r0 + ty + k < rows) *reinterpret_cast<Access *>(dst + (r0 + ty + k) * step_y + c0 + tx) = out;
      }
      __syncthreads();
    }
  }
}

// Value is an element, repeated.
struct __align__(16) Value { u64 word[2]; };

// span copies rows of `width` units, from rows `from` units long to rows `to` units long, and fills what lies around with a value. Of an output
// row, positions [0, covered) are written, [lo, lo + width) from x. A block has blockDim.y rows.
KERNEL span(UNIT *__restrict__ y, const UNIT *__restrict__ x, i64 rows, i64 width, i64 from, i64 to, i64 lo, i64 covered, Value fill) {
  const UNIT value = *reinterpret_cast<const UNIT *>(&fill);
  for (i64 r = (i64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += (i64)gridDim.x * blockDim.y) {
    UNIT *__restrict__ out = y + r * to;
    const UNIT *__restrict__ in = x + r * from - lo;
    for (i64 i = (i64)blockIdx.y * blockDim.x + threadIdx.x; i < covered; i += (i64)gridDim.y * blockDim.x)
      out[i] = i >= lo && i < lo + width ? in[i] : value;
  }
}

// Joined is what is joined: part p fills positions [lo[p], lo[p + 1]) of an output row.
#define JOINED 8
struct Joined { const UNIT *x[JOINED]; i64 lo[JOINED + 1]; };

// join puts rows of `parts` inputs one after another into rows of `width` units. A block has blockDim.y rows.
KERNEL join(UNIT *__restrict__ y, Joined in, i64 rows, i64 width, int parts) {
  for (i64 r = (i64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += (i64)gridDim.x * blockDim.y) {
    for (i64 i = (i64)blockIdx.y * blockDim.x + threadIdx.x; i < width; i += (i64)gridDim.y * blockDim.x) {
      const UNIT *x = in.x[0];
      i64 lo = 0, hi = in.lo[1];
#pragma unroll
      for (int p = 1; p < JOINED; p++)
        if (p < parts && i >= in.lo[p]) x = in.x[p], lo = in.lo[p], hi = in.lo[p + 1];
      y[r * width + i] = x[r * (hi - lo) + i - lo];
    }
  }
}

// rows picks rows of `width` units by index, of n; a row that does not exist gives zeros. x and y have `outer` tables, m rows of y each.
KERNEL rows(UNIT *__restrict__ y, const UNIT *__restrict__ x, const INDEX *__restrict__ index, i64 outer, i64 m, i64 n, i64 width) {
  const UNIT zero = {};
  for (i64 k = (i64)blockIdx.x * blockDim.y + threadIdx.y; k < m; k += (i64)gridDim.x * blockDim.y) {
    const i64 at = index[k];
    const bool there = at >= 0 && at < n;
    for (i64 o = blockIdx.z; o < outer; o += gridDim.z) {
      UNIT *__restrict__ out = y + (o * m + k) * width;
      const UNIT *__restrict__ in = x + (o * n + (there ? at : 0)) * width;
      const i64 step = (i64)gridDim.y * blockDim.x;
      i64 i = (i64)blockIdx.y * blockDim.x + threadIdx.x;
      for (; i + step < width; i += 2 * step) {
        UNIT a = zero, b = zero;
        if (there) a = in[i], b = in[i + step];
        out[i] = a;
        out[i + step] = b;
      }
      if (i < width) out[i] = there ? in[i] : zero;
    }
  }
}
