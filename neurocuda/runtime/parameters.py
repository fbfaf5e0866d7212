"""The values of a network: parameters of its module, by node and field, or the constants of a frozen network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from neurocuda.discretization.coefficients import delay_steps, neuron_parameters
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError
from neurocuda.graph import NEURONS, Graph, Node, align
from neurocuda.ops import vendor

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


def keep_types(module: nn.Module, names: Collection[str], move: Callable[[], object]) -> None:
    """Call `move`, which may move and convert all that a module holds; what has these names is moved alone.

    The values and gradients of these parameters and buffers are not rounded on the way.
    """
    tensors = {name: getattr(module, name) for name in names}
    kept = {
        name: (tensor.detach().clone(), None if tensor.grad is None else tensor.grad.clone())
        for name, tensor in tensors.items()
    }
    move()
    for name, (value, gradient) in kept.items():
        after = getattr(module, name)
        if after.dtype != value.dtype:
            after.grad = None
            after.data = value.to(after.device)
            after.grad = None if gradient is None else gradient.to(after.device)


class Constants:
    """Held by a module that is no part of the network, so that nothing finds them there.

    `later` are the layers whose weights are made from the graph: as float32 when they are asked for, and kept then.
    """

    def __init__(self, graph: Graph, discretization: Discretization, later: Collection[str]) -> None:
        self.module = nn.Module()
        self.names = register(self.module, graph, discretization, (), later)
        self.module.requires_grad_(False)
        self.device = torch.device("cpu")
        self.packed: dict[str, Tensor] = {}  # weights as the compiled operators for CPUs read them
        self._graph = graph
        self._laid_out: dict[str, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_laid_out": {}}  # the library's own form of a weight cannot be copied

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """To where `fn`, which a module would call for each of its tensors, brings one. No value changes."""
        self.device = fn(torch.empty(0, device=self.device)).device
        self.module.to(self.device)
        self.packed, self._laid_out = {}, {}

    def weights(self) -> dict[tuple[str, str], Tensor]:
        """The float32 weights by node and field, those that come later too."""
        if torch.compiler.is_compiling():
            _make_all(self)
        there = self.module._parameters
        found = {key: there[name] for key, name in self.names.weights.items() if name in there}
        return _Weights(self._made, found)

    def laid_out(self, node: Node, padding: Sequence[int]) -> Tensor:
        """The weights of a convolution as the library for CPUs wants them."""
        made = self._laid_out.get(node.name)
        if made is None:
            with _disable_current_modes():  # not a part of what is computed from the inputs
                weight = of_layer(node, "weight")
                stride, dilation, groups = node.numbers("stride"), node.numbers("dilation"), node.number("groups")
                made = vendor.prepack(weight, node.input_shape, stride, padding, dilation, groups)
            self._laid_out[node.name] = made
        return made

    def _made(self, key: tuple[str, str]) -> Tensor:
        with _disable_current_modes(), torch.inference_mode(False):
            value = of_layer(self._graph.nodes[key[0]], key[1]).to(self.device)
            self.module.register_parameter(self.names.weights[key], nn.Parameter(value, requires_grad=False))
        return value


def _make_all(constants: Constants) -> bool:
    """Before they are traced, as nothing can be made from arrays then."""
    for key, name in constants.names.weights.items():
        if name not in constants.module._parameters:
            constants._made(key)
    return True


# What torch.compiler.assume_constant_result does, which would import all of the compiler here.
_make_all._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Weights(dict[tuple[str, str], Tensor]):
    def __init__(self, make: Callable[[tuple[str, str]], Tensor], there: dict[tuple[str, str], Any]) -> None:
        super().__init__(there)
        self._make = make

    def __missing__(self, key: tuple[str, str]) -> Tensor:
        self[key] = self._make(key)
        return self[key]
