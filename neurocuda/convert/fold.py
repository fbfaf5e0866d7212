"""Gains (normalisation, factors) go into the layers beside them; what remains becomes a layer of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurocuda.convert.editing import Editor
from neurocuda.convert.rectified import order
from neurocuda.convert.values import CONVOLUTIONS, weighted
from neurocuda.errors import UnsupportedModuleError
from neurocuda.graph import WEIGHTED, Graph, Node
from neurocuda.graph.fields import check_fields


def fold(graph: Graph) -> Graph:
    """The same network without Gain nodes, all in float64.

    A gain goes into the layers before it where they feed it alone, also through a sum of them; or into the only layers
    after it, if they pad nothing (a shift does not reach into zeros that come later). Otherwise it is a convolution of
    one weight for each channel, a `Scale` where it shifts nothing.
    """
    net = Editor(graph)
    for name in order(graph):
        if net.nodes[name].type == "Gain" and not (_into_layers_before(net, name) or _into_layers_after(net, name)):
            _as_layer(net, name)
    return net.graph()


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
    checked, problems = check_fields(name, kind, parameters)
    assert not problems, problems
    net.nodes[name] = replace(node, type=kind, parameters=checked)


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
