#include "cuda/neuron_specialized.cuh"

namespace neurocuda::cuda {

bool neuron_specialized(const NeuronParams& params, int width, std::int64_t first, std::int64_t last,
                        Stream stream) {
  const bool traced = params.trace_v.data != nullptr || params.trace_i.data != nullptr;
  if (traced || params.branch_count > 2 || !all_dense(params)) return false;
  return width == 4   ? launch_specialized<4>(params, first, last, stream)
         : width == 8 ? launch_specialized<8>(params, first, last, stream)
                      : launch_specialized<1>(params, first, last, stream);
}

}  // namespace neurocuda::cuda
