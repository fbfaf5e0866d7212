"""The values of a frozen network, which nobody can change; those of large layers only as they are computed with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from neurocuda import parameters
from neurocuda.discretization import Discretization
from neurocuda.graph import Graph, Node
from neurocuda.ops import library


class Constants:
    """Held by a module that is no part of the network, so that nothing finds them there.

    `later` are the layers whose weights are made from the graph: as float32 when they are asked for, and kept then.
    """

    def __init__(self, graph: Graph, discretization: Discretization, later: Collection[str]) -> None:
        self.module = nn.Module()
        self.names = parameters.register(self.module, graph, discretization, (), later)
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
                weight = parameters.of_layer(node, "weight")
                stride, dilation, groups = node.numbers("stride"), node.numbers("dilation"), node.number("groups")
                made = library.laid_out(weight, node.input_shape, stride, padding, dilation, groups)
            self._laid_out[node.name] = made
        return made

    def _made(self, key: tuple[str, str]) -> Tensor:
        with _disable_current_modes(), torch.inference_mode(False):
            value = parameters.of_layer(self._graph.nodes[key[0]], key[1]).to(self.device)
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
