// The native operators on CUDA devices: each launches its kernels on a stream of the current device.
#pragma once

#include <cstddef>

#include "params/branch_sum.h"
#include "params/checks.h"
#include "params/integer_conv.h"
#include "params/neuron.h"
#include "params/neuron_backward.h"
#include "params/ordered_conv.h"
#include "params/ordered_linear.h"
#include "params/pack.h"
#include "params/pool2d.h"
#include "params/recurrent_neuron.h"
#include "params/shared_sum.h"

struct CUstream_st;

namespace neurocuda::cuda {

using Stream = CUstream_st*;

// They do not synchronize, allocate, or read device memory on the host, so a CUDA graph may capture them. All
// pointers in `params` are to device memory. A failed launch throws std::runtime_error with the kernel's
// name.
void neuron(const NeuronParams& params, Stream stream);
// Runs neurons first .. last - 1 with a specialized kernel, `width` neurons per thread. False if there is
// none for `params`: then nothing is launched.
bool neuron_specialized(const NeuronParams& params, int width, std::int64_t first, std::int64_t last,
                        Stream stream);
// For kinds that are general().
void neuron_general(const NeuronParams& params, Stream stream);
void neuron_backward(const NeuronBackwardParams& params, Stream stream);
void shared_sum(const SharedSumParams& params, Stream stream);
void recurrent_neuron(const RecurrentParams& params, Stream stream);
std::size_t recurrent_scratch(const RecurrentParams& params);  // bytes of params.scratch
void branch_sum(const BranchSumParams& params, Stream stream);
void pack_spikes(const PackParams& params, Stream stream);
void unpack_spikes(const PackParams& params, Stream stream);
void ordered_linear(const OrderedLinear& params, Stream stream);
void ordered_conv(const OrderedConv& params, Stream stream);
void integer_conv(const IntegerConv& params, Stream stream);
void pool2d(const Pool2d& params, Stream stream);
void all_finite(const FiniteParams& params, Stream stream);
void on_grid(const OnGridParams& params, Stream stream);
void same_bits(const SameBitsParams& params, Stream stream);

}  // namespace neurocuda::cuda
