// The operators on CUDA devices: each launches its kernels on a stream of the current device and returns.
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

// None of them waits, allocates, or reads what is in device memory, so they may be captured in a graph. All
// memory in a call is the device's. A launch that fails throws std::runtime_error with the kernel's name.
void neuron(const NeuronParams& call, Stream stream);
// Whether there is a kernel for that form of call, threads of which take `width` neurons; then it runs first
// .. last - 1.
bool neuron_plain(const NeuronParams& call, int width, std::int64_t first, std::int64_t last, Stream stream);
void neuron_backward(const NeuronBackwardParams& call, Stream stream);
void shared_sum(const SharedSumParams& call, Stream stream);
void recurrent_neuron(const RecurrentParams& call, Stream stream);
std::size_t recurrent_scratch(const RecurrentParams& call);  // bytes of the call's scratch memory
void branch_sum(const BranchSumParams& call, Stream stream);
void pack_spikes(const PackParams& call, Stream stream);
void unpack_spikes(const PackParams& call, Stream stream);
void ordered_linear(const OrderedLinear& layer, Stream stream);
void ordered_conv(const OrderedConv& layer, Stream stream);
void integer_conv(const IntegerConv& call, Stream stream);
void pool2d(const Pool2d& job, Stream stream);
void all_finite(const FiniteParams& call, Stream stream);
void on_grid(const OnGridParams& call, Stream stream);
void same_bits(const SameBitsParams& call, Stream stream);

}  // namespace neurocuda::cuda
