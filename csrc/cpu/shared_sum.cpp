#include "cpu/shared_sum.h"

#include <vector>

#include "cpu/denormals.h"

namespace neurocuda::cpu {

void shared_sum(const SharedSumParams& params) {
  const KeepSubnormals guard;
  std::int64_t member_strides[kMaxAxes], index[kMaxAxes] = {}, neurons = 1, stride = 1;
  for (int axis = params.axes - 1; axis >= 0; --axis) {
    neurons *= params.sizes[axis];
    member_strides[axis] = params.to_strides[axis] == 0 ? stride : 0;
    if (params.to_strides[axis] == 0) stride *= params.sizes[axis];
  }
  int levels = 1;
  for (std::int64_t groups = groups_of(params.members); groups > 1; groups = groups_of(groups)) ++levels;
  std::vector<double> sums(levels * params.elements, 0.0);  // by level, of the groups under way
  const auto end_group = [&](int level, std::int64_t element) {
    double* sum = sums.data() + level * params.elements + element;
    sum[params.elements] += *sum;
    *sum = 0.0;
  };
  std::int64_t element = 0, member = 0;
  for (std::int64_t neuron = 0; neuron < neurons; ++neuron) {
    sums[element] += params.values[neuron];
    std::int64_t ended = member + 1;
    for (int level = 0; level + 1 < levels && ended % kSumGroup == 0; ++level) {
      end_group(level, element);
      ended /= kSumGroup;
    }
    for (int axis = params.axes - 1; axis >= 0; --axis) {
      element += params.to_strides[axis];
      member += member_strides[axis];
      if (++index[axis] < params.sizes[axis]) break;
      element -= params.to_strides[axis] * index[axis];
      member -= member_strides[axis] * index[axis];
      index[axis] = 0;
    }
  }
  for (std::int64_t each = 0; each < params.elements; ++each) {
    for (int level = 0; level + 1 < levels; ++level) end_group(level, each);
    params.to[each] = static_cast<float>(sums[(levels - 1) * params.elements + each]);
  }
}

}  // namespace neurocuda::cpu
