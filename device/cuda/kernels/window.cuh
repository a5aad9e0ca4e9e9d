// Windows over one channel: up to three axes, shorter ones lead with extents of 1. Output position o and tap k of an axis see input position
// o * stride + k * dilation - lo.
struct Window {
  i32 in[3], out[3], kernel[3], stride[3], dilation[3], lo[3], hi[3];
  i32 ins, outs, taps;  // products of in, out and kernel
};

struct Spot { int at[3]; };

INLINE Spot spot_of(int i, const i32 (&extent)[3]) {
  Spot s;
  s.at[2] = i % extent[2];
  i /= extent[2];
  s.at[1] = i % extent[1];
  s.at[0] = i / extent[1];
  return s;
}

// seen is the input element that a tap sees from an output position, -1 where it sees padding.
INLINE int seen(const Window &w, const Spot &o, const Spot &k) {
  int i = 0;
#pragma unroll
  for (int a = 0; a < 3; a++) {
    const int p = o.at[a] * w.stride[a] + k.at[a] * w.dilation[a] - w.lo[a];
    if (p < 0 || p >= w.in[a]) return -1;
    i = i * w.in[a] + p;
  }
  return i;
}

// seer is the output element from which a tap sees an input position, -1 if there is none.
INLINE int seer(const Window &w, const Spot &i, const Spot &k) {
  int o = 0;
#pragma unroll
  for (int a = 0; a < 3; a++) {
    int p = i.at[a] + w.lo[a] - k.at[a] * w.dilation[a];
    if (p < 0 || p % w.stride[a]) return -1;
    p /= w.stride[a];
    if (p >= w.out[a]) return -1;
    o = o * w.out[a] + p;
  }
  return o;
}
