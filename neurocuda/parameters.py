"""The parameters of a network as its module holds them: under which names, and their values by node and field."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from neurocuda.discretization import Discretization, delay_steps, neuron_parameters
from neurocuda.errors import ArgumentError
from neurocuda.graph import NEURONS, Graph, Node, align

_WEIGHTS = ("weight", "bias", "scale")


@dataclass(frozen=True)
class Names:
    """Names of parameters and buffers, `node:field`; a dot of a node's name is written '/'.

    exact: float64, of neurons and thresholds. weights: float32. delays: numbers of steps, and which there are of each.
    """

    exact: dict[tuple[str, str], str] = field(default_factory=dict)
    weights: dict[tuple[str, str], str] = field(default_factory=dict)
    delays: dict[str, str] = field(default_factory=dict)
    delay_counts: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def of(self, node: str, entry: str) -> str | None:
        return self.weights.get((node, entry), self.exact.get((node, entry)))


def register(
    module: nn.Module, graph: Graph, d: Discretization, learn: Collection[str], later: Collection[str] = ()
) -> Names:
    """Give a module the parameters of a graph; of those of neurons, the fields to `learn` are parameters, the others
    buffers. The weights of the layers that come `later` have names alone. Raises `ArgumentError` if none has a field
    to learn.
    """
    names = Names()
    for node in graph.nodes.values():
        _register(module, names, node, d, learn, ("weight",) if node.name in later else ())
    known = {entry for _, entry in names.exact}
    if unknown := sorted(set(learn) - known):
        raise ArgumentError(f"learn: expected neuron parameters of this graph {sorted(known)}, found {unknown}")
    return names


def _register(
    module: nn.Module, names: Names, node: Node, d: Discretization, learn: Collection[str], later: Collection[str]
) -> None:
    prefix = node.name.replace("~", "~0").replace("/", "~1").replace(".", "/")
    if node.type == "Delay":
        steps = delay_steps(node, d)
        names.delays[node.name] = f"{prefix}:steps"
        names.delay_counts[node.name] = tuple(sorted(set(steps.flatten().tolist())))
        module.register_buffer(names.delays[node.name], steps, persistent=False)
    exact = node.type in NEURONS or node.type == "Threshold"
    for entry, value in neuron_parameters(node).items() if exact else ():
        key = names.exact[node.name, entry] = f"{prefix}:{entry}"
        if entry in learn:
            module.register_parameter(key, nn.Parameter(value))
        else:
            module.register_buffer(key, value)
    for entry in [name for name in _WEIGHTS if name in node.parameters]:
        key = names.weights[node.name, entry] = f"{prefix}:{entry}"
        if entry not in later:
            module.register_parameter(key, nn.Parameter(of_layer(node, entry)))


def of_layer(node: Node, entry: str) -> Tensor:
    """A weight as float32, a scale aligned with its signal."""
    array = node.array(entry)
    if entry == "scale":
        array = align(array, len(node.input_shape))
    if entry == "bias" and array.size == 1:
        array = array.reshape((1,) * (1 if "stride" in node.parameters else len(node.output_shape)))
    return torch.from_numpy(array.astype(np.float32))


def all_tensors(module: nn.Module) -> list[Tensor]:
    """All parameters and buffers of a module without parts."""
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def by_field(module: nn.Module, names: Names) -> dict[tuple[str, str], Tensor]:
    """The parameters and buffers of the nodes, by node and field."""
    there = {**module._parameters, **module._buffers}  # faster than one attribute after the other
    found = {}
    for key, name in (*names.weights.items(), *names.exact.items()):
        value = there.get(name)
        found[key] = getattr(module, name) if value is None else value
    return found


def of_neurons(module: nn.Module, names: Names, graph: Graph) -> dict[str, dict[str, Tensor]]:
    """The parameters of the neurons, by node and field."""
    neurons: dict[str, dict[str, Tensor]] = {}
    for (name, entry), key in names.exact.items():
        if graph.nodes[name].type in NEURONS:
            neurons.setdefault(name, {})[entry] = getattr(module, key)
    return neurons
