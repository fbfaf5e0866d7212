"""Gains (normalisation, factors) go into the layers beside them; what remains becomes a layer of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurocuda.convert.rectified import order
from neurocuda.convert.values import CONVOLUTIONS, weighted
from neurocuda.errors import UnsupportedModuleError
from neurocuda.graph import WEIGHTED, Graph, Node
from neurocuda.graph.fields import check_fields


def prune(graph: Graph) -> Graph:
    """The same graph without what no Output depends on. Inputs stay."""
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        sources[target].append(source)
    alive = set(graph.inputs)
    waiting = list(graph.outputs)
    while waiting:
        name = waiting.pop()
        if name not in alive:
            alive.add(name)
            waiting.extend(sources[name])
    nodes = {name: node for name, node in graph.nodes.items() if name in alive}
    return replace(graph, nodes=nodes, edges=tuple(edge for edge in graph.edges if edge[1] in alive))


def fold(graph: Graph) -> Graph:
    """The same network without Gain nodes, all in float64.

    A gain goes into the layers before it where they feed it alone, also through a sum of them; or into the only layers
    after it, if they pad nothing (a shift does not reach into zeros that come later). Otherwise it is a convolution of
    one weight for each channel, a `Scale` where it shifts nothing.
    """
    net = _Net(graph)
    for name in order(graph):
        if net.nodes[name].type == "Gain" and not net.into_layers_before(name) and not net.into_layers_after(name):
            net.as_layer(name)
    return replace(graph, nodes=net.nodes, edges=tuple(net.edges))


class _Net:
    """A graph while it is changed."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = dict(graph.nodes)
        self.into: dict[str, list[str]] = {name: [] for name in graph.nodes}
        self.out_of: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in graph.edges:
            self.into[target].append(source)
            self.out_of[source].append(target)

    @property
    def edges(self) -> list[tuple[str, str]]:
        return [(source, target) for target, sources in self.into.items() for source in sources]

    def into_layers_before(self, name: str) -> bool:
        scale, shift = self._gain(name)
        before = list(dict.fromkeys(self.into[name]))
        if any(set(self.out_of[source]) != {name} for source in before):
            return False
        if not all(self._scalable(source) for source in before):
            return False
        once = [source for source in before if self.into[name].count(source) == 1]
        takes = next((source for source in once if self.nodes[source].type in WEIGHTED and self._plain(source)), None)
        if shift.any() and takes is None:
            return False
        for source in before:
            node = self.nodes[source]
            self.nodes[source] = _rows(node, scale, shift if source == takes else None)
        self._bypass(name)
        return True

    def into_layers_after(self, name: str) -> bool:
        scale, shift = self._gain(name)
        after = list(dict.fromkeys(self.out_of[name]))
        for target in after:
            node = self.nodes[target]
            if node.type not in WEIGHTED or self.into[target] != [name] or not self._plain(target):
                return False
            if shift.any() and node.type in CONVOLUTIONS and _pads(node):
                return False
        for target in after:
            self.nodes[target] = _columns(self.nodes[target], scale, shift)
        self._bypass(name)
        return True

    def as_layer(self, name: str) -> None:
        scale, shift = self._gain(name)
        node = self.nodes[name]
        space = len(node.input_shape) - 1
        if not shift.any():
            self.nodes[name] = replace(node, type="Scale", parameters={"scale": scale})
            return
        if not 0 <= space < len(CONVOLUTIONS):
            raise UnsupportedModuleError(
                f"module {name!r}: expected signals of channels and at most two axes of space, found samples of shape "
                f"{node.input_shape}",
                name,
            )
        weight = np.diag(scale) if space == 0 else scale.reshape(-1, 1, *[1] * space)
        kind, parameters = weighted(weight, shift, space, groups=1 if space == 0 else len(scale))
        checked, problems = check_fields(name, kind, parameters)
        assert not problems, problems
        self.nodes[name] = replace(node, type=kind, parameters=checked)

    def _gain(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        node = self.nodes[name]
        return node.array("scale"), node.array("shift")

    def _scalable(self, name: str) -> bool:
        """Whether the result of this node can be scaled for each channel by its weights."""
        node = self.nodes[name]
        return node.type in WEIGHTED or (node.type == "Scale" and node.array("scale").ndim < 2)

    def _plain(self, name: str) -> bool:
        """Whether this is a matrix of two axes or a convolution."""
        node = self.nodes[name]
        return node.type in CONVOLUTIONS or node.array("weight").ndim == 2

    def _bypass(self, name: str) -> None:
        sources, targets = self.into.pop(name), self.out_of.pop(name)
        del self.nodes[name]
        for target in dict.fromkeys(targets):
            self.into[target] = [n for entry in self.into[target] for n in (sources if entry == name else [entry])]
        for source in dict.fromkeys(sources):
            self.out_of[source] = [n for entry in self.out_of[source] for n in (targets if entry == name else [entry])]


def _rows(node: Node, scale: np.ndarray, shift: np.ndarray | None) -> Node:
    """A layer whose result is scaled, and shifted."""
    parameters = dict(node.parameters)
    if node.type == "Scale":
        return replace(node, parameters={"scale": node.array("scale").reshape(-1) * scale})
    weight = node.array("weight")
    if node.type in CONVOLUTIONS:
        parameters["weight"] = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    elif weight.ndim == 2:
        parameters["weight"] = weight * scale[:, None]
    else:  # [C, ..., out, in]
        parameters["weight"] = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    if "bias" in parameters:
        bias = node.array("bias")
        parameters["bias"] = bias * scale.reshape(-1, *[1] * (bias.ndim - 1))
    if shift is not None and shift.any():
        parameters["bias"] = shift + (parameters["bias"] if "bias" in node.parameters else 0)  # type: ignore[operator]
    kind = "Affine" if node.type == "Linear" and "bias" in parameters else node.type
    return replace(node, type=kind, parameters=parameters)


def _columns(node: Node, scale: np.ndarray, shift: np.ndarray) -> Node:
    """A layer whose input is scaled, and shifted."""
    weight = node.array("weight")
    parameters = dict(node.parameters)
    if node.type in CONVOLUTIONS:
        groups, rest = node.number("groups"), [1] * (weight.ndim - 2)
        per_row = len(weight) // groups
        of_row = [
            values.reshape(groups, 1, -1).repeat(per_row, 1).reshape(len(weight), -1) for values in (scale, shift)
        ]
        parameters["weight"] = weight * of_row[0].reshape(len(weight), -1, *rest)
        added = (weight.reshape(*weight.shape[:2], -1).sum(2) * of_row[1]).sum(1)
    else:
        parameters["weight"] = weight * scale
        added = weight @ shift
    if shift.any():
        parameters["bias"] = added + (node.array("bias") if "bias" in parameters else 0)
    kind = "Affine" if node.type == "Linear" and "bias" in parameters else node.type
    return replace(node, type=kind, parameters=parameters)


def _pads(node: Node) -> bool:
    padding = node.parameters["padding"]
    if padding == "same":
        return any(k > 1 for k in node.array("weight").shape[2:])
    return isinstance(padding, tuple) and any(padding)
