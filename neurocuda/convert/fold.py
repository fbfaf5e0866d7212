"""Gains (normalisation, factors) go into the layers beside them; what remains becomes a layer of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurocuda.convert.editing import Editor
from neurocuda.convert.rectified import order
from neurocuda.convert.values import CONVOLUTIONS, weighted
from neurocuda.errors import UnsupportedModuleError
from neurocuda.graph import WEIGHTED, Graph, Node
from neurocuda.graph.fields import Value


def fold(graph: Graph) -> Graph:
    """The same network without Gain nodes, all in float64.

    A gain goes into the layers before it where they feed it alone, also through a sum of them; or into the only layers
    after it, if they pad nothing (a shift does not reach into zeros that come later). Otherwise it is a convolution of
    one weight for each channel, a `Scale` where it shifts nothing.
    """
    net = Editor(graph)
    for name in order(graph):
        _into_gain_after(net, name)
    for name in order(net.graph()):
        if net.nodes[name].type == "Gain" and not (_into_layers_before(net, name) or _into_layers_after(net, name)):
            _as_layer(net, name)
    return net.graph()


def _into_gain_after(net: Editor, name: str) -> None:
    """Make one gain of two in a row."""
    after = net.out_of[name]
    if net.nodes[name].type == "Gain" and len(after) == 1 and net.nodes[after[0]].type == "Gain":
        (target,) = after
        if net.into[target] == [name]:
            (first, added), (scale, shift) = _gain(net, name), _gain(net, target)
            parameters = {"scale": first * scale, "shift": added * scale + shift}
            net.nodes[target] = replace(net.nodes[target], parameters=parameters)
            net.bypass(name)


def _into_layers_before(net: Editor, name: str) -> bool:
    scale, shift = _gain(net, name)
    before = list(dict.fromkeys(net.into[name]))
    if any(set(net.out_of[source]) != {name} for source in before):
        return False
    if not all(_scalable(net, source) for source in before):
        return False
    once = [source for source in before if net.into[name].count(source) == 1]
    takes = next((source for source in once if net.nodes[source].type in WEIGHTED and _plain(net, source)), None)
    if shift.any() and takes is None:
        return False
    for source in before:
        node = net.nodes[source]
        net.nodes[source] = _rows(node, scale, shift if source == takes else None)
    net.bypass(name)
    return True


def _into_layers_after(net: Editor, name: str) -> bool:
    scale, shift = _gain(net, name)
    after = list(dict.fromkeys(net.out_of[name]))
    for target in after:
        node = net.nodes[target]
        if node.type not in WEIGHTED or net.into[target] != [name] or not _plain(net, target):
            return False
        if shift.any() and node.type in CONVOLUTIONS and _pads(node):
            return False
    for target in after:
        net.nodes[target] = _columns(net.nodes[target], scale, shift)
    net.bypass(name)
    return True


def _as_layer(net: Editor, name: str) -> None:
    scale, shift = _gain(net, name)
    node = net.nodes[name]
    space = len(node.input_shape) - 1
    if not shift.any():
        net.nodes[name] = replace(node, type="Scale", parameters={"scale": scale})
        return
    if not 0 <= space < len(CONVOLUTIONS):
        raise UnsupportedModuleError(
            f"module {name!r}: expected signals of channels and at most two axes of space, found samples of shape "
            f"{node.input_shape}",
            name,
        )
    weight = np.diag(scale) if space == 0 else scale.reshape(-1, 1, *[1] * space)
    kind, parameters = weighted(weight, shift, space, groups=1 if space == 0 else len(scale))
    net.nodes[name] = replace(node, type=kind, parameters=parameters)


def _gain(net: Editor, name: str) -> tuple[np.ndarray, np.ndarray]:
    node = net.nodes[name]
    return node.array("scale"), node.array("shift")


def _scalable(net: Editor, name: str) -> bool:
    """Whether the result of this node can be scaled for each channel by its weights."""
    node = net.nodes[name]
    return node.type in WEIGHTED or (node.type == "Scale" and node.array("scale").ndim < 2)


def _plain(net: Editor, name: str) -> bool:
    """Whether this is a matrix of two axes or a convolution."""
    node = net.nodes[name]
    return node.type in CONVOLUTIONS or node.array("weight").ndim == 2


def _rows(node: Node, scale: np.ndarray, shift: np.ndarray | None) -> Node:
    """A layer whose result is scaled, and shifted, for each channel: the first axis of what it gives."""
    if node.type == "Scale":
        return replace(node, parameters={"scale": node.array("scale").reshape(-1) * scale})
    parameters = dict(node.parameters)
    for field in {"weight", "bias"} & set(parameters):
        values = node.array(field)
        parameters[field] = values * scale.reshape(-1, *[1] * (values.ndim - 1))
    return _shifted(node, parameters, shift)


def _columns(node: Node, scale: np.ndarray, shift: np.ndarray) -> Node:
    """A layer whose input is scaled, and shifted, for each channel."""
    weight = node.array("weight")
    parameters = dict(node.parameters)
    if node.type not in CONVOLUTIONS:
        parameters["weight"] = weight * scale
        return _shifted(node, parameters, weight @ shift)
    groups, rest = node.number("groups"), [1] * (weight.ndim - 2)
    by_row = [values.reshape(groups, 1, -1).repeat(len(weight) // groups, 1) for values in (scale, shift)]
    own, added = (values.reshape(len(weight), -1, *rest) for values in by_row)
    parameters["weight"] = weight * own
    return _shifted(node, parameters, (weight * added).reshape(len(weight), -1).sum(1))


def _shifted(node: Node, parameters: dict[str, Value], shift: np.ndarray | None) -> Node:
    """The layer with these parameters, its bias larger by `shift`."""
    bias = parameters.get("bias")
    if shift is not None and shift.any():
        parameters["bias"] = shift + bias if isinstance(bias, np.ndarray) else shift
    kind = "Affine" if node.type == "Linear" and "bias" in parameters else node.type
    return replace(node, type=kind, parameters=parameters)


def _pads(node: Node) -> bool:
    padding = node.parameters["padding"]
    if padding == "same":
        return any(k > 1 for k in node.array("weight").shape[2:])
    return isinstance(padding, tuple) and any(padding)
