"""What is computed from the parameters of a network alone, and kept on GPUs for as long as they have the same bits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from neurocuda.discretization import Discretization, coefficients, coefficients_together
from neurocuda.graph import Graph
from neurocuda.ops import NeuronCoefficients, compiled
from neurocuda.ops.looks import Looks
from neurocuda.supposed import Supposed, alone_on, certain


@dataclass(frozen=True)
class Origins:
    """float64 parameters of neurons by node and field, float32 weights of layers that sum in the defined order."""

    neurons: Mapping[str, Mapping[str, Tensor]]
    weights: Mapping[str, Tensor]

    def tensors(self) -> list[Tensor]:
        neurons = [t for by_field in self.neurons.values() for t in by_field.values()]
        return [t.detach() for t in (*neurons, *self.weights.values())]


@dataclass(frozen=True)
class Kept:
    """coefficients: of the neurons. packed: weights as the compiled operators read them."""

    coefficients: dict[str, NeuronCoefficients]
    packed: dict[str, Tensor]

    def tensors(self) -> list[Tensor]:
        values = [getattr(c, field.name) for c in self.coefficients.values() for field in fields(c)]
        return [value for value in (*values, *self.packed.values()) if isinstance(value, Tensor)]


class Derived:
    """Computes it from the parameters as they are now; `constant` ones are not looked at again."""

    def __init__(self, graph: Graph, discretization: Discretization, constant: bool = False) -> None:
        self._graph, self._discretization, self._constant = graph, discretization, constant
        self._there: tuple[torch.device, Kept, list[Tensor]] | None = None  # and the parameters it was computed from

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_there": None}  # a copy may lie elsewhere

    def coefficients(
        self, neurons: Mapping[str, Mapping[str, Tensor]], device: torch.device
    ) -> dict[str, NeuronCoefficients]:
        """Computed from the parameters, with their gradients."""
        nodes, d = self._graph.nodes, self._discretization
        if device.type == "cpu":
            return {name: coefficients(nodes[name], p, d) for name, p in neurons.items()}
        return coefficients_together(nodes, neurons, d)

    def supposed(self, inputs: Collection[Tensor], parameters: Callable[[], Origins]) -> Supposed[Kept | None]:
        """For a call on a GPU, supposing that no parameter changed since it was computed.

        Where one did, it is computed anew, and stays where it lies, as a graph may read it. None where nothing may be
        kept: on a CPU, and where something watches.
        """
        if not alone_on("cuda", inputs):
            return certain(None)
        device = next(iter(inputs)).device
        if self._constant and self._there is not None and self._there[0] == device:
            return certain(self._there[1])
        now = parameters()
        values = [] if self._constant else now.tensors()
        if self._there is None or self._there[0] != device:
            self._there = device, self._computed(now, device), [t.clone() for t in values]
            _finish(device)
        _, kept, then = self._there
        same = compiled.answer()
        same.ask_same_bits(values, then)

        def so() -> bool:
            if same.wait():
                return True
            old, new = [*kept.tensors(), *then], [*self._computed(now, device).tensors(), *values]
            if [(t.shape, t.dtype) for t in old] == [(t.shape, t.dtype) for t in new]:
                torch._foreach_copy_(old, new)
                _finish(device)
            else:
                self._there = None
            return False

        return Supposed(kept, so, Looks(values, then))

    def _computed(self, parameters: Origins, device: torch.device) -> Kept:
        neurons = {name: {f: t.detach() for f, t in p.items()} for name, p in parameters.neurons.items()}
        nodes = self._graph.nodes
        packed = {name: compiled.pack(weight, nodes[name].groups) for name, weight in parameters.weights.items()}
        return Kept(self.coefficients(neurons, device), packed)


def _finish(device: torch.device) -> None:
    """Whatever stream the next call is on."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
