"""The operators. `reference` defines them; `native` (C++, CUDA) and `triton` compute the same bits."""

from neurocuda.ops.coefficients import NeuronCoefficients, NeuronState
from neurocuda.ops.surrogate import Surrogate

__all__ = ["NeuronCoefficients", "NeuronState", "Surrogate"]
