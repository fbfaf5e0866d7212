// The operators and their gradients. registrations.cpp has the schemas, in whose order the arguments are.
#pragma once

#include <array>

#include "ops/autograd.h"
#include "ops/boxed.h"

namespace neurocuda {

// On tensors of the CPU, of CUDA and, without values, of Meta.
std::array<at::Tensor, 5> neuron(Boxed arguments);
std::array<at::Tensor, 11> neuron_backward(Boxed arguments);
std::array<at::Tensor, 7> recurrent_neuron(Boxed arguments);
std::array<at::Tensor, 14> recurrent_neuron_backward(Boxed arguments);
at::Tensor branch_sum(Boxed arguments);
at::Tensor ordered_linear(Boxed arguments);
at::Tensor ordered_linear_prepack(Boxed arguments);
at::Tensor ordered_conv(Boxed arguments);
at::Tensor ordered_conv_prepack(Boxed arguments);
at::Tensor sum_pool2d(Boxed arguments);
at::Tensor avg_pool2d(Boxed arguments);
at::Tensor pack_spikes(Boxed arguments);
at::Tensor unpack_spikes(Boxed arguments);
at::Tensor empty(Boxed arguments);

Formula neuron_formula();
Formula recurrent_neuron_formula();
Formula branch_sum_formula();
Formula ordered_linear_formula();
Formula ordered_conv_formula();
Formula sum_pool2d_formula();
Formula avg_pool2d_formula();

}  // namespace neurocuda
