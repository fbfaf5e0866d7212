#include "runtime/guards.h"

namespace neurocuda {

void Guards::ask(const at::Tensor& signal, Answer& answer) const {
  answer.ask_same_bits(now, then);
  if (!weights.empty()) answer.ask_integers(weights, numbers, steps);
  if (grids.empty()) return;
  const bool held = signal.dim() > 0 && signal.size(0) > 0 && signal.stride(0) == 0;
  const at::Tensor values = (held ? signal.narrow(0, 0, 1) : signal).to(at::kFloat).contiguous();
  for (const Grid& grid : grids) answer.ask_on_grid(values, grid.step, grid.low, grid.high);
}

}  // namespace neurocuda
