// Rows of a product are added to several tensors. Defined by the program: TC, SUM.

// Parts are what is added to and where the sums go: part p is elements [end[p - 1], end[p]) of the product.
#define PARTS 8
struct Parts { TC *y[PARTS]; const TC *c[PARTS]; i64 end[PARTS]; };

// add_parts gives y = c + x for x of n elements. The sums may stand where what is added to stands.
KERNEL add_parts(const SUM *x, Parts to, i64 n, int parts) {
  for (i64 i = global_thread(); i < n; i += global_threads()) {
    TC *y = to.y[0];
    const TC *c = to.c[0];
    i64 lo = 0;
#pragma unroll
    for (int p = 1; p < PARTS; p++)
      if (p < parts && i >= to.end[p - 1]) y = to.y[p], c = to.c[p], lo = to.end[p - 1];
    y[i - lo] = narrow<TC>(widen(c[i - lo]) + x[i]);
  }
}
