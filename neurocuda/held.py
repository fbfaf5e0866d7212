"""What the nodes of a network compute with, of the values that it holds: as parameters of a module, or as constants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurocuda import parameters
from neurocuda.constants import Constants
from neurocuda.derived import Derived, Kept, Origins
from neurocuda.discretization import Discretization
from neurocuda.graph import NEURONS, Graph
from neurocuda.layers import Delays, Tensors
from neurocuda.ops import Surrogate, library
from neurocuda.ops.backends import operators
from neurocuda.parameters import Names


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
    for (name, field), key in names.exact.items():
        if held.graph.nodes[name].type not in NEURONS:
            weights[name, field] = getattr(module, key).float()
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
        laid_out=forms.laid_out if forms is not None and library.lays_out() else None,
    )
