"""Spiking neurons as torch modules, for hand-written models: [T, B, *shape] in, spikes or membrane potentials out."""

from neurocuda.nn.neuron import Neuron, detach_state, reset_state
from neurocuda.nn.nir_neurons import IF, LI, LIF, CubaLI, CubaLIF, I
from neurocuda.nn.per_step import PerStep
from neurocuda.ops.pointwise import safe_convolutions

__all__ = [
    "IF",
    "LI",
    "LIF",
    "CubaLI",
    "CubaLIF",
    "I",
    "Neuron",
    "PerStep",
    "detach_state",
    "reset_state",
    "safe_convolutions",
]
