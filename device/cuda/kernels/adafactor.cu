// Adafactor over a slab: means of rows and columns from tiles, their scales, the size of the step, the step. After random.cuh.
//
// Defines: P, G; HALF; ROUNDING as in optim.cu; FIRST, 1 with a first moment; ABSOLUTE. Sums are in float64 and in an order that follows from
// the layout alone.

#define STOCHASTIC 1
#define KAHAN 2

// Factor is what a launch knows of a tensor. A matrix has rows and cols, other tensors none; the *_at are places in the states, *_part
// in the scratch: of row sums by tile of columns, and of column sums by tile of rows.
struct Factor {
  f64 scale, fixed;
  i64 offset, size;
  i64 row_part, col_part;
  i64 row_at, col_at, loose_at;
  i32 rows, cols, row_tiles, col_tiles;
  f32 decay;
  u32 site;
};
struct Chunk {
  i64 start;
  i32 tensor, blocks;
};
struct Tile {
  i32 tensor, row, col, pad;  // numbers of the tile
};

struct Args {
  P *p;
  const G *g;
  float *r, *c, *v, *m;
  P *comp;
  const float *lr, *step, *gscale, *ok;
  const Factor *factors;
  const Chunk *chunks;
  const Tile *tiles;
  const i32 *first;  // the first chunk of each tensor
  f64 *parts;        // sums of tiles
  f64 *sums;         // two of each chunk
  float *scales;     // of rows, then of columns, in the order of the states
  float *rates;      // of each tensor: factor of the step for clipping, rate
  i64 rows;          // of all matrices
  f64 decay, eps1, eps2, clip;
  f32 beta1;
  i32 relative;
  u64 seed;
};

#define TILE_ROWS 64
#define TILE_COLS 256

INLINE float kept(float old, f64 v, float b) { return old * b + (float)v * (1 - b); }
INLINE float beta2(const Args &a) { return (float)(1 - pow((f64)a.step[0], -a.decay)); }
INLINE float gradient(const Args &a, i64 i) { return widen<G>(a.g[i]) * a.gscale[0]; }
INLINE float parameter(const Args &a, i64 i) {
#if ROUNDING == KAHAN && HALF
  return widen<P>(a.p[i]) + widen<P>(a.comp[i]);
#else
  return widen<P>(a.p[i]);
#endif
}

// tile_sums adds up the squares of a tile of a matrix by rows and by columns. 256 threads, one for each column.
KERNEL __launch_bounds__(TILE_COLS) tile_sums(Args a) {
  if (!(a.ok[0] > 0)) return;
  __shared__ f64 by_warp[TILE_COLS / WARP][TILE_ROWS];
  const Tile t = a.tiles[blockIdx.x];
  const Factor &f = a.factors[t.tensor];
  const int col = t.col * TILE_COLS + threadIdx.x, rows = f.rows - t.row * TILE_ROWS < TILE_ROWS ? f.rows - t.row * TILE_ROWS : TILE_ROWS;
  f64 down = 0;
  for (int i = 0; i < rows; i++) {
    const int row = t.row * TILE_ROWS + i;
    f64 s = 0;
    if (col < f.cols) {
      const float x = gradient(a, f.offset + (i64)row * f.cols + col);
      s = (f64)x * x + a.eps1;
    }
    down += s;
    const f64 across = warp_reduce<Sum>(s);
    if (lane() == 0) by_warp[threadIdx.x / WARP][i] = across;
  }
  __syncthreads();
  if (col < f.cols) a.parts[f.col_part + (i64)t.row * f.cols + col] = down;
  if (threadIdx.x < rows) {
    f64 s = 0;
    for (int w = 0; w < TILE_COLS / WARP; w++) s += by_warp[w][threadIdx.x];
    a.parts[f.row_part + (i64)t.col * f.rows + t.row * TILE_ROWS + threadIdx.x] = s;
  }
}

// mean_rows advances the means of the rows of a tensor and sets their scales; one block a tensor.
KERNEL __launch_bounds__(256) mean_rows(Args a) {
  if (!(a.ok[0] > 0)) return;
  const Factor &f = a.factors[blockIdx.x];
  const float b = beta2(a);
  f64 total = 0;
  for (int i = threadIdx.x; i < f.rows; i += blockDim.x) {
    f64 s = 0;
    for (int t = 0; t < f.col_tiles; t++) s += a.parts[f.row_part + (i64)t * f.rows + i];
    const float r = kept(a.r[f.row_at + i], s / f.cols, b);
    a.r[f.row_at + i] = r;
    total += r;
  }
  total = block_reduce<Sum>(total, 0.0);
  for (int i = threadIdx.x; i < f.rows; i += blockDim.x) a.scales[f.row_at + i] = (float)(1 / sqrt((f64)a.r[f.row_at + i] * f.rows / total));
}

// mean_columns does so for columns; blocks share the columns of tensor blockIdx.y.
KERNEL __launch_bounds__(256) mean_columns(Args a) {
  if (!(a.ok[0] > 0)) return;
  const Factor &f = a.factors[blockIdx.y];
  const float b = beta2(a);
  for (int j = (int)global_thread(); j < f.cols; j += (int)global_threads()) {
    f64 s = 0;
    for (int t = 0; t < f.row_tiles; t++) s += a.parts[f.col_part + (i64)t * f.cols + j];
    const float c = kept(a.c[f.col_at + j], s / f.rows, b);
    a.c[f.col_at + j] = c;
    a.scales[a.rows + f.col_at + j] = (float)(1 / sqrt((f64)c));
  }
}

// direction is the gradient of element i of a tensor over the root of its second moment; advance moves that of a loose tensor.
INLINE float direction(const Args &a, const Factor &f, i64 i, float b, bool advance) {
  const float x = gradient(a, f.offset + i);
  if (f.rows == 0) {
    float v = a.v[f.loose_at + i];
    if (advance) a.v[f.loose_at + i] = v = kept(v, (f64)x * x + a.eps1, b);
    return __fdiv_rn(x, __fsqrt_rn(v));
  }
  const i64 row = f.size < (1ll << 31) ? (i64)((u32)i / (u32)f.cols) : i / f.cols, col = i - row * f.cols;
  return x * (a.scales[f.row_at + row] * a.scales[a.rows + f.col_at + col]);
}

// step_sums adds up the squares of the step and of the parameters of a chunk.
KERNEL __launch_bounds__(256) step_sums(Args a) {
  if (!(a.ok[0] > 0)) return;
  const Chunk c = a.chunks[blockIdx.x];
  const Factor &f = a.factors[c.tensor];
  const float b = beta2(a);
  const i64 first = c.start - f.offset, most = first + (i64)c.blocks * 256, end = most < f.size ? most : f.size;
  f64 u2 = 0, p2 = 0;
  for (i64 i = first + threadIdx.x; i < end; i += blockDim.x) {
    const float u = direction(a, f, i, b, true);
    u2 += (f64)u * u;
#if !ABSOLUTE
    const float p = parameter(a, f.offset + i);
    p2 += (f64)p * p;
#endif
  }
  u2 = block_reduce<Sum>(u2, 0.0);
  p2 = block_reduce<Sum>(p2, 0.0);
  if (threadIdx.x == 0) {
    a.sums[2 * blockIdx.x] = u2;
    a.sums[2 * blockIdx.x + 1] = p2;
  }
}

// step_rates turns them into what clips the step and into the rate; one warp a tensor.
KERNEL step_rates(Args a, i32 tensors) {
  if (!(a.ok[0] > 0)) return;
  const int i = (int)(global_thread() / WARP);
  if (i >= tensors) return;
  const Factor &f = a.factors[i];
  f64 u2 = 0, p2 = 0;
  for (int c = a.first[i] + lane(); c < a.first[i + 1]; c += WARP) {
    u2 += a.sums[2 * c];
    p2 += a.sums[2 * c + 1];
  }
  u2 = warp_reduce<Sum>(u2);
  p2 = warp_reduce<Sum>(p2);
  if (lane() != 0 || f.size == 0) return;
  f64 lr = a.lr[0];
  if (a.relative) lr = fmin(lr, 1 / sqrt((f64)a.step[0]));
  const float rate = (float)(f.fixed != 0 ? f.fixed : lr * f.scale);
  a.rates[3 * i] = (float)(1 / fmax(1.0, sqrt(u2 / f.size) / a.clip));
#if ABSOLUTE
  a.rates[3 * i + 1] = rate;
#else
  a.rates[3 * i + 1] = (float)((f64)rate * fmax(sqrt(p2 / f.size), a.eps2));
#endif
  a.rates[3 * i + 2] = 1 - rate * f.decay;
}

// apply_step moves the parameters of a chunk; a thread takes eight elements, which share random words.
KERNEL __launch_bounds__(256) apply_step(Args a) {
  if (!(a.ok[0] > 0)) return;
  const Chunk c = a.chunks[blockIdx.x];
  const Factor &f = a.factors[c.tensor];
  const float shrink = a.rates[3 * c.tensor], rate = a.rates[3 * c.tensor + 1], decay = a.rates[3 * c.tensor + 2], b = beta2(a);
  for (int q = threadIdx.x; q < c.blocks * 32; q += blockDim.x) {
    const i64 at = c.start - f.offset + 8 * (i64)q;
#if ROUNDING == STOCHASTIC && HALF
    const Words w = rounding_words(a.seed, (u32)a.step[0], f.site, (u32)(at / 8));
#endif
    for (int k = 0; k < 8 && at + k < f.size; k++) {
      const i64 i = f.offset + at + k;
      float u = direction(a, f, at + k, b, false) * shrink;
#if FIRST
      a.m[i] = u = a.m[i] * a.beta1 + (1 - a.beta1) * u;
#endif
      const float p = parameter(a, i) * decay - rate * u;
#if ROUNDING == STOCHASTIC && HALF
      a.p[i] = round_randomly(P(), p, rounding_bits(w, k));
#else
      const P stored = narrow<P>(p);
      a.p[i] = stored;
#if ROUNDING == KAHAN && HALF
      a.comp[i] = narrow<P>(p - widen<P>(stored));
#endif
#endif
    }
  }
}
