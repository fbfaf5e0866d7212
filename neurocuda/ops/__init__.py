"""The operators. `reference` is their definition."""

from neurocuda.ops.coefficients import NeuronCoefficients, NeuronState
from neurocuda.ops.surrogate import Surrogate

__all__ = ["NeuronCoefficients", "NeuronState", "Surrogate"]
