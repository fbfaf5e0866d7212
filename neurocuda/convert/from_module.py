"""`from_module`: a network built in another tool, as an Executor."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from neurocuda import nn as ours
from neurocuda.convert.tool_neurons import NEURONS, Translated, Unsupported, tool_of, translated
from neurocuda.convert.tracing.tracer import trace
from neurocuda.discretization.by_class import CLAMPS, GAINS, RESET_DELAYS, canonical, value_of
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, UnsupportedModuleError
from neurocuda.graph import Graph, build
from neurocuda.runtime.nir_executor import Executor

_CONTAINERS = ("Sequential", "SequentialState")
_UNFOLDED = (nn.Linear, nn.Identity, nn.Dropout)
_BY_CLASS = {"gain": GAINS, "clamp": CLAMPS, "reset_delay": RESET_DELAYS}
_BACK = ".recurrent"


def from_module(network: nn.Module, example_input: Tensor) -> Executor:
    """A network built in snnTorch, Norse, sinabs or SpikingJelly, with the meaning that it has there.

    The network is an `nn.Sequential` (of Norse also a `SequentialState`) of layers of torch and neurons of one tool:
    snnTorch 1.0.0 `Leaky`, `RLeaky`, `Synaptic`; Norse 1.1.0 `LIFBoxCell`, `LIBoxCell`, `IAFCell`, `LIFCell`,
    `LIFRecurrentCell`; sinabs 3.1.3 `IAF`, `LIF`, `ExpLeak` and their Squeeze and Recurrent forms; SpikingJelly 2.0.0
    `IFNode`, `LIFNode`. The native preset of the tool holds, with what the neurons have otherwise.

    Args:
        network: The network; it is left as it is.
        example_input: One time step of a batch [B, *shape], whatever the tool's order of axes is; only its shape is
            used.

    Returns:
        The same network, float32, on the CPU. Weights are parameters. It takes [T, B, *shape].

    Raises:
        ArgumentError: An argument does not fit, or two neurons have options that exclude each other.
        UnsupportedModuleError: A module has no counterpart; the message names it and what is supported.

    Example:
        >>> import neurocuda, torch
        >>> neurocuda.from_module(torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.zeros(1, 4)).graph.outputs
        ('output',)
    """
    if not isinstance(network, nn.Module):
        raise ArgumentError(f"network: expected a torch.nn.Module, found a {type(network).__name__}")
    if not isinstance(example_input, Tensor) or example_input.dim() < 2:
        found = tuple(example_input.shape) if isinstance(example_input, Tensor) else type(example_input).__name__
        raise ArgumentError(f"example_input: expected one time step of a batch [B, *shape], found {found}")
    tools = sorted({tool for module in network.modules() if (tool := tool_of(module)) is not None})
    if len(tools) > 1:
        raise ArgumentError(f"network: expected the modules of one tool, found those of {' and '.join(tools)}")
    walk = _Walk(tools[0] if tools else "")
    model = walk.container("", network)
    d = walk.discretization()
    for name, parent, key in walk.places:
        parent._modules[key] = walk.neurons[name].make(d)
    graph = _with_recurrent_layers(trace(model, example_input.unsqueeze(0)), walk.neurons)
    executor = Executor(graph, d)
    executor.discretization_origin = f"as {tools[0]} runs it" if tools else "default"
    return executor


@dataclass
class _Walk:
    """Copies containers and layers; neurons are filled in once the Discretization is known."""

    tool: str
    neurons: dict[str, Translated] = field(default_factory=dict)
    places: list[tuple[str, nn.Module, str]] = field(default_factory=list)

    def container(self, path: str, module: nn.Module) -> nn.Sequential:
        if type(module).__name__ not in _CONTAINERS:
            raise _unsupported(path, module, "a Sequential of layers and neurons")
        made = nn.Sequential()
        for key, child in module.named_children():
            name = f"{path}.{key}" if path else key
            self._add(made, key, name, child)
        return made

    def _add(self, made: nn.Sequential, key: str, name: str, child: nn.Module) -> None:
        try:
            neuron = translated(child)
        except Unsupported as error:
            raise _unsupported(name, child, error.supported, error.found) from None
        if neuron is not None:
            if neuron.before is not None:
                made.add_module(f"{key}_in", copy.deepcopy(neuron.before))
            made.add_module(key, nn.Identity())
            self.neurons[name] = neuron
            self.places.append((name, made, key))
        elif type(child).__name__ in _CONTAINERS:
            made.add_module(key, self.container(name, child))
        else:
            made.add_module(key, self._layer(name, child))

    def _layer(self, name: str, module: nn.Module) -> nn.Module:
        """A layer of torch; also of SpikingJelly, whose layers are subclasses with an axis of time."""
        bases = (kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules"))
        base: Any = next(bases, nn.Module)
        if base is nn.Module or (base is not type(module) and self.tool != "spikingjelly"):
            known = ", ".join(NEURONS.get(self.tool, {})) or "layers of torch"
            raise _unsupported(name, module, f"layers of torch, or {known}")
        layer: nn.Module = base.__new__(base)
        layer.__dict__.update(copy.deepcopy(module).__dict__)
        return layer if isinstance(layer, _UNFOLDED) else ours.PerStep(layer)

    def discretization(self) -> Discretization:
        """The native preset of the tool with the fields that the neurons need."""
        fields: dict[str, Any] = {}
        origin: dict[tuple[str, str], tuple[str, str]] = {}
        for name, neuron in self.neurons.items():
            for key, value in neuron.changes.items():
                if key in _BY_CLASS and ":" in str(value):
                    kind, chosen = str(value).split(":")
                else:
                    kind, chosen = "", value
                first, before = origin.setdefault((key, kind), (name, str(chosen)))
                if before != str(chosen):
                    found = f"{before} in {first!r} and {chosen} in {name!r}"
                    raise ArgumentError(f"network: expected one {key} for all neurons, found {found}")
                if kind:
                    fields.setdefault(key, {})[kind] = chosen
                else:
                    fields[key] = chosen
        preset = Discretization.preset(self.tool, native=True) if self.tool else Discretization()
        for key in [key for key in fields if isinstance(fields[key], Mapping)]:
            now = {kind: value_of(str(getattr(preset, key)), kind, _BY_CLASS[key]) for kind in _BY_CLASS[key]}
            fields[key] = canonical(key, now | fields[key], _BY_CLASS[key])
        return replace(preset, **fields)


def _with_recurrent_layers(graph: Graph, neurons: Mapping[str, Translated]) -> Graph:
    """The graph with the recurrent layers."""
    nodes: dict[str, Any] = {}
    for name, node in graph.nodes.items():
        fields: dict[str, Any] = {"type": node.type, **node.parameters, "metadata": dict(node.metadata)}
        if name in (*graph.inputs, *graph.outputs):
            fields["shape"] = np.array(node.output_shape)
        nodes[name] = fields
    edges = list(graph.edges)
    for name, neuron in neurons.items():
        layer = neuron.recurrent
        if layer is None:
            continue
        weight = layer.weight.detach().numpy().astype(np.float64)
        back: dict[str, Any] = {"type": "Linear", "weight": weight}
        if layer.bias is not None:
            back |= {"type": "Affine", "bias": layer.bias.detach().numpy().astype(np.float64)}
        nodes[name + _BACK] = back
        edges += [(name, name + _BACK), (name + _BACK, name)]
    raw = {"type": "NIRGraph", "nodes": nodes, "edges": edges}
    made, problems = build(raw, graph.source, None)
    if made is None:
        raise ArgumentError(f"network: expected a network with a meaning in NIR, found {problems[0]}")
    return made


def _unsupported(path: str, module: nn.Module, supported: str, found: str = "") -> UnsupportedModuleError:
    kind = f"{type(module).__module__}.{type(module).__name__}"
    where = f"module {path!r} ({kind})" if path else f"the network ({kind})"
    return UnsupportedModuleError(f"{where}: expected {supported}, found {found or 'another'}", path)
