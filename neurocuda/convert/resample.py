"""Adaptive averages over windows of several sizes, which NIR does not have, as what it has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neurocuda.convert.editing import Editor
from neurocuda.convert.rectified import order
from neurocuda.convert.values import weighted
from neurocuda.graph import Graph, Shape

AXES = {1: ("x",), 2: ("y", "x")}
"""Names for the axes of space, by how many there are. A Resample node has a matrix [new, old] for each."""


def lower(graph: Graph) -> Graph:
    """The same network without Resample nodes: in the weights of linear layers after it, or as convolutions."""
    net = Editor(graph)
    for name in order(graph):
        if net.nodes[name].type == "Resample" and not _into_matrices(net, name):
            _as_convolutions(net, name)
    return net.graph()


def _into_matrices(net: Editor, name: str) -> bool:
    """Where nothing but a Flatten and then linear layers take it: their weights times the averages, in float64."""
    node = net.nodes[name]
    flats = net.out_of[name]
    matrices = [target for flat in flats for target in net.out_of[flat]]
    for flat in flats:
        if net.nodes[flat].type != "Flatten" or net.into[flat] != [name] or len(net.nodes[flat].output_shape) != 1:
            return False
    for matrix in matrices:
        if net.nodes[matrix].type not in ("Affine", "Linear") or len(net.into[matrix]) != 1:
            return False
    for matrix in dict.fromkeys(matrices):
        weight = net.nodes[matrix].array("weight")
        weight = weight.reshape(len(weight), *node.output_shape)
        weight = weight @ node.array("x")
        if "y" in node.parameters:
            weight = node.array("y").T @ weight
        weight = weight.reshape(len(weight), -1)
        parameters = {**net.nodes[matrix].parameters, "weight": weight}
        net.nodes[matrix] = replace(net.nodes[matrix], parameters=parameters, input_shape=weight.shape[1:])
    for flat in flats:
        size = int(np.prod(node.input_shape))
        net.nodes[flat] = replace(net.nodes[flat], input_shape=node.input_shape, output_shape=(size,))
    net.bypass(name)
    return True


def _as_convolutions(net: Editor, name: str) -> None:
    """Each row of an axis is cut out and spread over the new rows, each column likewise."""
    node = net.nodes[name]
    space = len(node.input_shape) - 1
    sources, shape = net.into[name], node.input_shape
    for axis, letter in enumerate(AXES[space]):
        matrix = node.array(letter)
        new, old = matrix.shape
        if np.array_equal(matrix, np.eye(old)):
            continue
        spread = (*shape[: axis + 1], new, *shape[axis + 2 :])
        results = []
        for place in range(old):
            row = (*shape[: axis + 1], 1, *shape[axis + 2 :])
            cut = np.eye(old)[place]
            one = _depthwise(net, f"{name}.{letter}{place}.cut", cut, axis, 0, sources, shape, row)
            taps = matrix[::-1, place]
            results.append(_depthwise(net, f"{name}.{letter}{place}", taps, axis, new - 1, [one], row, spread))
        sources, shape = results, spread
    net.replace_by(name, sources)


def _depthwise(
    net: Editor, name: str, taps: np.ndarray, axis: int, pad: int, sources: list[str], shape: Shape, given: Shape
) -> str:
    """A convolution of each channel along one axis of space."""
    space = len(shape) - 1
    line = [len(taps) if other == axis else 1 for other in range(space)]
    weight = np.broadcast_to(taps.reshape(line), (shape[0], 1, *line))
    pads = [pad if other == axis else 0 for other in range(space)]
    kind, parameters = weighted(weight, None, space, padding=pads, groups=shape[0])
    return net.add(name, kind, parameters, sources, shape, given)
