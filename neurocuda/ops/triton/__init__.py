"""The operators in Triton, with the signatures of `reference`, whose bits they equal. See `backends` for the choice.

For GPUs without the compiled extension. Where TRITON_INTERPRET=1 is set before this is imported, for CPU tensors too,
slowly. No kernel of these has run on a GPU yet.
"""

from neurocuda.ops.reference import all_finite, ask_finite, empty
from neurocuda.ops.triton.neurons import branch_sum, neuron
from neurocuda.ops.triton.ordered import ordered_conv, ordered_linear
from neurocuda.ops.triton.pool2d import avg_pool2d, sum_pool2d
from neurocuda.ops.triton.recurrent import recurrent_neuron
from neurocuda.ops.triton.spike_bits import pack_spikes, unpack_spikes

__all__ = [
    "all_finite",
    "ask_finite",
    "avg_pool2d",
    "branch_sum",
    "empty",
    "neuron",
    "ordered_conv",
    "ordered_linear",
    "pack_spikes",
    "recurrent_neuron",
    "sum_pool2d",
    "unpack_spikes",
]
