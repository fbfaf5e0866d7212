"""What a time step means: the settings and presets, the coefficients of neurons, and what seems not to be meant."""

from neurocuda.discretization.settings import PRESETS, Discretization

__all__ = ["PRESETS", "Discretization"]
