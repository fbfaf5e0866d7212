"""The operators in Triton, for GPUs without the native library: the signatures and the bits of `reference`.

With TRITON_INTERPRET=1 set before the import, also for CPU tensors, slowly. docs/gpu.md and README.md say on which GPUs
the kernels ran.
"""

from neurocuda.ops.reference import all_finite, empty_float32, start_finite_check
from neurocuda.ops.triton.neurons import branch_sum, neuron
from neurocuda.ops.triton.ordered import ordered_conv, ordered_linear
from neurocuda.ops.triton.pool2d import avg_pool2d, sum_pool2d
from neurocuda.ops.triton.recurrent import recurrent_neuron
from neurocuda.ops.triton.spike_bits import pack_spikes, unpack_spikes

__all__ = [
    "all_finite",
    "avg_pool2d",
    "branch_sum",
    "empty_float32",
    "neuron",
    "ordered_conv",
    "ordered_linear",
    "pack_spikes",
    "recurrent_neuron",
    "start_finite_check",
    "sum_pool2d",
    "unpack_spikes",
]
