// attend_turn transposes lse (b, hq, tq) to a library's stats (b, tq, hq).
extern "C" __global__ void __launch_bounds__(256) attend_turn(Attention a, const f32 *lse, f32 *stats) {
  turn<8>(a, a.hq, a.tq, lse, stats, blockIdx.x, gridDim.x);
}
