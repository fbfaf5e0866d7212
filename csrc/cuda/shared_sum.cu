#include "cuda/shared_sum.cuh"

namespace neurocuda::cuda {

void shared_sum(const SharedSumParams& params, Stream stream) {
  constexpr int kThreads = 128;
  if (params.elements == 0 || params.members == 0) return;
  SumLevel level{};
  std::int64_t stride = 1;
  for (int axis = 0; axis < params.axes; ++axis) stride *= params.sizes[axis];
  for (int axis = 0; axis < params.axes; ++axis) {
    stride /= params.sizes[axis];
    const bool summed = params.to_strides[axis] == 0;
    (summed ? level.summed : level.kept).add(params.sizes[axis], stride);
    if (!summed) level.to.add(params.sizes[axis], params.to_strides[axis]);
  }
  level.values = params.values;
  level.elements = params.elements;
  level.members = params.members;
  level.result = params.to;
  double *next = params.partial, *const after_first = next + params.elements * groups_of(params.members);
  for (bool first = true;; first = false) {
    level.groups = groups_of(level.members);
    level.partial = next;
    const auto blocks = static_cast<unsigned>((level.elements * level.groups + kThreads - 1) / kThreads);
    if (first) {
      NEUROCUDA_LAUNCH(shared_sum_kernel<float>, blocks, kThreads, 0, stream, level);
    } else {
      NEUROCUDA_LAUNCH(shared_sum_kernel<double>, blocks, kThreads, 0, stream, level);
    }
    if (level.groups == 1) return;
    // The partial sums are the values of the next level.
    next = level.partial == params.partial ? after_first : params.partial;
    level.values = level.partial;
    level.members = level.groups;
    level.summed = Axes();
    level.summed.add(level.members, level.elements);
    stride = level.elements;
    for (int axis = 0; axis < level.kept.count; ++axis) {
      stride /= level.kept.sizes[axis];
      level.kept.strides[axis] = stride;
    }
  }
}

}  // namespace neurocuda::cuda
