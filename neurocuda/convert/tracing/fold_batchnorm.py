"""Folds scales and shifts of channels, such as BatchNorm, into neighbouring weights, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurocuda.convert.tracing.symbolic import CHANNEL_AFFINE, Sketch, convolution_parameters
from neurocuda.graph import Node, align


def fold(sketch: Sketch) -> None:
    """Replace every ChannelAffine of a sketch.

    It is folded into the layers and Scales before it if no other node reads them, the shift into one. Otherwise, for a
    signal of one axis, it is folded into the matrices after it. Otherwise it becomes a Scale, or, with a shift, a
    depthwise convolution of size 1, since a following convolution with padding cannot absorb the shift.
    """
    targets: dict[str, list[str]] = {name: [] for name in sketch.nodes}
    for name, sources in sketch.into.items():
        for source in sources:
            targets[source].append(name)
    for name in [name for name, node in sketch.nodes.items() if node.type == CHANNEL_AFFINE]:
        node = sketch.nodes[name]
        alone = all(targets[source] == [name] for source in sketch.into[name])
        if alone and _goes_back(sketch, node):
            _fold_back(sketch, node)
            _bypass(sketch, targets, name)
        elif _goes_forward(sketch, node, targets[name]):
            _fold_forward(sketch, node, targets[name])
            _bypass(sketch, targets, name)
        else:
            _write(sketch, node, targets)


def _bypass(sketch: Sketch, targets: dict[str, list[str]], name: str) -> None:
    """Removes a node; its sources become sources of its targets."""
    sources = sketch.into.pop(name)
    for target in dict.fromkeys(targets[name]):
        before = sketch.into[target]
        sketch.into[target] = [new for old in before for new in (sources if old == name else [old])]
    for source in set(sources):
        others = [target for target in targets[source] if target != name]
        targets[source] = others + targets[name] * sources.count(source)
    del sketch.nodes[name], targets[name]


def _values(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift, each of size 1 or with as many axes as the signal."""
    rank = len(node.input_shape)
    return align(node.array("scale"), rank), align(node.array("shift"), rank)


def _channelwise(values: np.ndarray) -> bool:
    return values.size == 1 or values.size == values.shape[0]


def _takes_shift(node: Node, shift: np.ndarray) -> bool:
    return node.primitive.is_matrix or (node.primitive.is_convolution and _channelwise(shift))


def _goes_back(sketch: Sketch, node: Node) -> bool:
    scale, shift = _values(node)
    sources = [sketch.nodes[source] for source in sketch.into[node.name]]
    scaled = all(
        source.primitive.weight_field and (not source.primitive.is_convolution or _channelwise(scale))
        for source in sources
    )
    return scaled and (not shift.any() or any(_takes_shift(source, shift) for source in sources))


def _fold_back(sketch: Sketch, node: Node) -> None:
    scale, shift = _values(node)
    for source in sketch.into[node.name]:
        before = sketch.nodes[source]
        mine = shift if _takes_shift(before, shift) else np.zeros_like(shift)
        sketch.nodes[source] = _folded(before, scale, mine)
        shift = shift - mine


def _folded(node: Node, scale: np.ndarray, shift: np.ndarray) -> Node:
    parameters, primitive = dict(node.parameters), node.primitive
    if primitive.weight_field == "scale":
        parameters["scale"] = align(node.array("scale"), len(node.input_shape)) * scale
        return replace(node, parameters=parameters)
    weight = node.array("weight")
    scale, shift = (_per_output(node, values) for values in (scale, shift))
    trailing = weight.ndim - 1 if primitive.is_convolution else 1
    parameters["weight"] = weight * scale.reshape(*scale.shape, *(1,) * trailing)
    if "bias" not in parameters and not shift.any():
        return replace(node, parameters=parameters)
    bias = node.array("bias") if "bias" in parameters else np.zeros(())
    parameters["bias"] = np.broadcast_to(bias * scale + shift, node.bias_shape).copy()
    return replace(node, type="Affine" if primitive.is_matrix else node.type, parameters=parameters)


def _per_output(node: Node, values: np.ndarray) -> np.ndarray:
    """Values of the output's channels or elements at the shape of the bias."""
    if node.primitive.is_convolution:
        return np.broadcast_to(values.reshape(-1), node.bias_shape)
    return np.broadcast_to(values, node.bias_shape)


def _goes_forward(sketch: Sketch, node: Node, targets: list[str]) -> bool:
    matrices = all(
        sketch.nodes[target].primitive.is_matrix and sketch.into[target] == [node.name] for target in targets
    )
    return matrices and bool(targets) and len(node.input_shape) == 1 and bool(_values(node)[1].any())


def _fold_forward(sketch: Sketch, node: Node, targets: list[str]) -> None:
    scale, shift = (np.broadcast_to(values, node.output_shape) for values in _values(node))
    for target in targets:
        after = sketch.nodes[target]
        weight = after.array("weight")
        bias = after.array("bias") if "bias" in after.parameters else np.zeros(weight.shape[0])
        parameters = {"weight": weight * scale, "bias": bias + weight @ shift}
        sketch.nodes[target] = replace(after, type="Affine", parameters=parameters)


def _write(sketch: Sketch, node: Node, targets: dict[str, list[str]]) -> None:
    """Writes a Scale, a depthwise convolution, or a Scale beside an Affine without input, whose bias is the shift."""
    scale, shift = _values(node)
    shape = node.input_shape
    sketch.nodes[node.name] = replace(node, type="Scale", parameters={"scale": scale})
    if not shift.any():
        return
    if len(shape) in (2, 3) and _channelwise(scale) and _channelwise(shift):
        rank = len(shape) - 1
        weight = np.broadcast_to(scale.reshape(-1), shape[:1]).reshape(-1, 1, *(1,) * rank).copy()
        bias = np.broadcast_to(shift.reshape(-1), shape[:1]).copy()
        parameters = convolution_parameters(weight, bias, shape[0])
        sketch.nodes[node.name] = replace(node, type=f"Conv{rank}d", parameters=parameters)
        return
    parameters = {"weight": np.zeros((*shape, 1)), "bias": np.broadcast_to(shift, shape).copy()}
    constant = sketch.unused(f"{node.name}.shift")
    sketch.put(Node(constant, "Affine", parameters, (*shape[:-1], 1), shape), ())
    targets[constant] = list(targets[node.name])
    for target in dict.fromkeys(targets[node.name]):
        before = sketch.into[target]
        sketch.into[target] = [new for old in before for new in ([old, constant] if old == node.name else [old])]
