// fill writes one value of 1, 2, 4 or 8 bytes n times.
KERNEL fill(T *__restrict__ y, T value, i64 n) {
  for (i64 i = global_thread(); i < n; i += global_threads()) y[i] = value;
}
