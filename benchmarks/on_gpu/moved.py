"""The minimum bytes that a computation moves, and the time that a GPU needs for them."""

from collections.abc import Sequence

import torch

H100 = 3.35e12
"""Bytes a second of an H100's memory (SXM, HBM3), from its data sheet; predictions use it."""

TYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
BITS = "bits"
"""Eight spikes a byte, the one output that is no type of its own."""

STATE = 4
"""Bytes of a membrane potential, or of a synaptic current: float32 whatever the signals are."""


def bytes_per_step(branches: Sequence[str], output: str) -> float:
    """Bytes of one step of one neuron: it reads every branch once and writes one element, or one bit."""
    written = 1 / 8 if output == BITS else TYPES[output].itemsize
    return sum(TYPES[branch].itemsize for branch in branches) + written


def bytes_of_state(neurons: int, synapse: bool = False) -> int:
    """Bytes of the state that a call reads before its first step and writes after its last."""
    return 2 * STATE * neurons * (1 + synapse)


def seconds(amount: float, bandwidth: float = H100) -> float:
    return amount / bandwidth
