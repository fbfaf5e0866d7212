// The operators on CUDA devices: each launches its kernels on a stream of the current device and returns.
#pragma once

#include <cstddef>

#include "calls/branch_sum.h"
#include "calls/integer_conv.h"
#include "calls/neuron.h"
#include "calls/neuron_backward.h"
#include "calls/ordered_conv.h"
#include "calls/ordered_linear.h"
#include "calls/pack.h"
#include "calls/pool2d.h"
#include "calls/recurrent_neuron.h"
#include "calls/shared_sum.h"
#include "calls/values.h"

struct CUstream_st;

namespace neurocuda::cuda {

using Stream = CUstream_st*;

// None of them waits, allocates, or reads what is in device memory, so they may be captured in a graph. All
// memory in a call is the device's. A launch that fails throws std::runtime_error with the kernel's name.
void neuron(const NeuronCall& call, Stream stream);
// Whether there is a kernel for that form of call, threads of which take `width` neurons; then it runs first
// .. last - 1.
bool neuron_plain(const NeuronCall& call, int width, std::int64_t first, std::int64_t last, Stream stream);
void neuron_backward(const NeuronBackwardCall& call, Stream stream);
void shared_sum(const SharedSumCall& call, Stream stream);
void recurrent_neuron(const RecurrentCall& call, Stream stream);
std::size_t recurrent_scratch(const RecurrentCall& call);  // bytes of the call's scratch memory
void branch_sum(const BranchSumCall& call, Stream stream);
void pack_spikes(const PackCall& call, Stream stream);
void unpack_spikes(const PackCall& call, Stream stream);
void ordered_linear(const OrderedLinear& layer, Stream stream);
void ordered_conv(const OrderedConv& layer, Stream stream);
void integer_conv(const IntegerConv& call, Stream stream);
void pool2d(const Pool2d& job, Stream stream);
void all_finite(const FiniteCall& call, Stream stream);
void on_grid(const OnGridCall& call, Stream stream);
void same_bits(const SameBitsCall& call, Stream stream);

}  // namespace neurocuda::cuda
