// noise fills n words with numbers of every type whose bits look random: as bf16 and f32 they are from 0.5 to 1 in magnitude, of either sign. A
// product of equal numbers takes less power than one of real operands, and runs at another clock.
KERNEL noise(u32 *__restrict__ y, i64 n) {
  for (i64 i = global_thread(); i < n; i += global_threads()) {
    u32 h = (u32)i * 0x9e3779b9u;
    h ^= h >> 16, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u, h ^= h >> 16;
    y[i] = (h & 0x807f807fu) | 0x3f003f00u;
  }
}
