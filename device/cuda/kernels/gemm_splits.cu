// reduce_splits adds up the partial sums of a product whose inner axis was cut, in order. Defined by the program: TC, SUM.
KERNEL reduce_splits(const Product p) {
  i64 each = (i64)p.m * p.n, all = each * p.batch;
  const SUM *partial = (const SUM *)p.partial;
  for (i64 i = global_thread(); i < all; i += global_threads()) {
    SUM sum = partial[i];
    for (int s = 1; s < p.splits; s++) sum += partial[s * all + i];
    i64 in = i % each, at = i / each * p.stride_c + in / p.n * p.ldc + in % p.n;
    sum = (SUM)p.alpha * sum;
    if (p.add) sum += widen(((const TC *)p.add)[at]);
    ((TC *)p.c)[at] = narrow<TC>(sum);
  }
}
