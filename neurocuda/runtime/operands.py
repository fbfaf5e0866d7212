"""Builds the operands of the operators (weights, coefficients of neurons, delays) from parameters or constants."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from neurocuda.discretization.coefficients import coefficients, coefficients_together
from neurocuda.discretization.settings import Discretization
from neurocuda.graph import NEURONS, Graph, Node
from neurocuda.ops import NeuronCoefficients, Surrogate, native, vendor
from neurocuda.ops.backends import operators
from neurocuda.ops.coefficients import SpikeWhen
from neurocuda.ops.int8 import IntegerWeight
from neurocuda.runtime import parameters
from neurocuda.runtime.guards import Looks, Supposed, alone_on, certain
from neurocuda.runtime.parameters import Constants, Names

LaidOut = Callable[[Node, Sequence[int]], Tensor]
"""Gives the weights of a convolution with some padding as the library for CPUs wants them."""


@dataclass(frozen=True)
class Delays:
    """The delay of each element in steps, and the numbers in it, ascending, known without asking the device."""

    steps: Tensor
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Tensors:
    """What the nodes compute with: the operators, float32 weights by node and field, coefficients, delays.

    integers: the weights of the layers that run as whole numbers now; none where only floats will do. bytes: the
    populations whose spikes are uint8 for their sake. packed: weights as the compiled operators read them.
    laid_out: where weights are kept as the library for CPUs wants them.
    """

    operators: ModuleType
    weights: Mapping[tuple[str, str], Tensor]
    coefficients: Mapping[str, NeuronCoefficients]
    delays: Mapping[str, Delays]
    spike_when: SpikeWhen
    surrogate: Surrogate
    integers: Mapping[str, IntegerWeight] = field(default_factory=dict)
    bytes: frozenset[str] = frozenset()
    packed: dict[str, Tensor] = field(default_factory=dict)
    laid_out: LaidOut | None = None

    def packing(self, node: Node) -> dict[str, Tensor]:
        """What an ordered layer's operator is given beside the weights, made once for all pieces of a chunk."""
        if self.operators is not native:
            return {}
        if node.name not in self.packed:
            self.packed[node.name] = native.prepack(self.weights[node.name, "weight"], node.groups)
        return {"packed": self.packed[node.name]}


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
        same = native.device_checks()
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
        packed = {name: native.prepack(weight, nodes[name].groups) for name, weight in parameters.weights.items()}
        return Kept(self.coefficients(neurons, device), packed)


def _finish(device: torch.device) -> None:
    """Whatever stream the next call is on."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


@dataclass(frozen=True)
class Held:
    """What a network of this graph holds. names: of the parameters. constants: of a frozen network, which has none."""

    graph: Graph
    discretization: Discretization
    names: Names
    constants: Constants | None

    def module(self, network: nn.Module) -> nn.Module:
        """The module that holds the values of a network."""
        return network if self.constants is None else self.constants.module

    def by_field(self, network: nn.Module) -> dict[tuple[str, str], Tensor]:
        """The parameters by node and field; a frozen network has none."""
        return parameters.by_field(network, self.names) if self.constants is None else {}

    def device(self, network: nn.Module) -> torch.device | None:
        """Where the values are, if there are any."""
        if self.constants is not None:
            return self.constants.device
        return next((t.device for t in parameters.all_tensors(network)), None)


def origins(held: Held, network: nn.Module, packed: tuple[str, ...]) -> Origins:
    """What the coefficients of the neurons and the weights of the layers `packed` are computed from."""
    module = held.module(network)
    weights = {name: getattr(module, held.names.weights[name, "weight"]) for name in packed}
    exact = {name: weight for name, weight in weights.items() if weight.dtype == torch.float32}
    return Origins(parameters.of_neurons(module, held.names, held.graph), exact)


def computed_with(
    held: Held,
    network: nn.Module,
    surrogate: Surrogate,
    derived: Derived,
    device: torch.device,
    kept: Kept | None,
    lasting: bool,
) -> Tensors:
    """What the nodes compute with, from the values as they are now, but for what is kept.

    derived: computes the coefficients that are not kept. lasting: what is made of the weights of a frozen network may
    be kept for later calls.
    """
    names, module, constants = held.names, held.module(network), held.constants
    if constants is None:
        weights = {key: getattr(module, name).float() for key, name in names.weights.items()}
    else:
        weights = constants.weights()
    for (name, entry), key in names.exact.items():
        if held.graph.nodes[name].type not in NEURONS:
            weights[name, entry] = getattr(module, key).float()
    if kept is None:
        neurons = parameters.of_neurons(module, names, held.graph)
        kept = Kept(derived.coefficients(neurons, device), {})
    forms = constants if lasting else None
    return Tensors(
        operators(device),
        weights,
        kept.coefficients,
        {name: Delays(getattr(module, key), names.delay_counts[name]) for name, key in names.delays.items()},
        held.discretization.spike_when,
        surrogate,
        packed={**kept.packed} if forms is None else forms.packed,
        laid_out=forms.laid_out if forms is not None and vendor.can_prepack() else None,
    )
