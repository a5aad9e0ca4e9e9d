// iota counts along an axis: position i of (outer, n, inner) holds i / inner % n.
KERNEL iota(T *__restrict__ y, i64 size, i64 n, i64 inner) {
  for (i64 i = global_thread(); i < size; i += global_threads()) y[i] = narrow<T>((Acc<T>)(i / inner % n));
}
