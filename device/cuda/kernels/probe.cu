// What memory reaches at most: reading alone, and reading with writing.

struct __align__(16) Words { u32 v[4]; };

// Each thread has four loads in flight.
KERNEL probe_read(const Words *p, i64 n, u32 *out) {
  u32 sum = 0;
  i64 step = global_threads();
  for (i64 i = global_thread(); i < n; i += 4 * step) {
    Words w[4];
#pragma unroll
    for (int k = 0; k < 4; k++) w[k] = i + k * step < n ? p[i + k * step] : Words{{0, 0, 0, 0}};
#pragma unroll
    for (int k = 0; k < 4; k++) sum ^= w[k].v[0] ^ w[k].v[1] ^ w[k].v[2] ^ w[k].v[3];
  }
  if (sum == 0x9e3779b9u) *out = sum;  // keeps the loads; no memory of zeroes gives this
}

KERNEL probe_copy(Words *to, const Words *from, i64 n) {
  i64 step = global_threads();
  for (i64 i = global_thread(); i < n; i += 4 * step) {
    Words w[4];
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (i + k * step < n) w[k] = from[i + k * step];
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (i + k * step < n) to[i + k * step] = w[k];
  }
}
