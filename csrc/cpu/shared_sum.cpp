#include "cpu/shared_sum.h"

#include <vector>

#include "cpu/denormals.h"

namespace neurocuda::cpu {

void shared_sum(const SharedSumParams& call) {
  const KeepSubnormals guard;
  std::int64_t member_strides[kMaxAxes], index[kMaxAxes] = {}, neurons = 1, stride = 1;
  for (int axis = call.axes - 1; axis >= 0; --axis) {
    neurons *= call.sizes[axis];
    member_strides[axis] = call.to_strides[axis] == 0 ? stride : 0;
    if (call.to_strides[axis] == 0) stride *= call.sizes[axis];
  }
  int levels = 1;
  for (std::int64_t groups = groups_of(call.members); groups > 1; groups = groups_of(groups)) ++levels;
  std::vector<double> sums(levels * call.elements, 0.0);  // by level, of the groups under way
  const auto end_group = [&](int level, std::int64_t element) {
    double* sum = sums.data() + level * call.elements + element;
    sum[call.elements] += *sum;
    *sum = 0.0;
  };
  std::int64_t element = 0, member = 0;
  for (std::int64_t neuron = 0; neuron < neurons; ++neuron) {
    sums[element] += call.values[neuron];
    std::int64_t ended = member + 1;
    for (int level = 0; level + 1 < levels && ended % kSumGroup == 0; ++level) {
      end_group(level, element);
      ended /= kSumGroup;
    }
    for (int axis = call.axes - 1; axis >= 0; --axis) {
      element += call.to_strides[axis];
      member += member_strides[axis];
      if (++index[axis] < call.sizes[axis]) break;
      element -= call.to_strides[axis] * index[axis];
      member -= member_strides[axis] * index[axis];
      index[axis] = 0;
    }
  }
  for (std::int64_t each = 0; each < call.elements; ++each) {
    for (int level = 0; level + 1 < levels; ++level) end_group(level, each);
    call.to[each] = static_cast<float>(sums[(levels - 1) * call.elements + each]);
  }
}

}  // namespace neurocuda::cpu
