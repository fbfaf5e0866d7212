"""Bias correction: cut off at its thresholds, every channel keeps the mean that it had before it is rectified."""

import numpy as np
import pytest
import torch
from rectified_graphs import values
from test_relu_to_spiking import NETWORKS, network

from neurocuda.convert.bias_correction import corrected
from neurocuda.graph import Graph, Node

RNG = np.random.default_rng(11)


def cut(graph: Graph, theta: dict[str, np.ndarray]) -> Graph:
    """The network whose rectifiers saturate at one threshold each."""
    nodes = {
        name: Node(name, "ReLU", {"cap": np.array(float(theta[name].max()))}, node.input_shape, node.output_shape)
        for name, node in graph.nodes.items()
        if node.type == "ReLU"
    }
    return Graph({**graph.nodes, **nodes}, graph.edges)


def means(graph: Graph, x: np.ndarray, name: str) -> np.ndarray:
    """The mean of each channel of what a node takes."""
    found = values(graph, x)
    total = sum(found[a] for a, b in graph.edges if b == name)
    return np.moveaxis(total, 1, 0).reshape(total.shape[1], -1).mean(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_means_are_kept_where_a_layer_has_a_bias(name: str) -> None:
    nodes, edges = NETWORKS[name]
    graph = network(nodes, edges)
    x = RNG.normal(0, 1, (20, *graph.nodes["input"].output_shape)).astype(np.float32)
    whole = values(graph, x)
    theta = {n: np.array(0.4 * whole[n].max()) for n, node in graph.nodes.items() if node.type == "ReLU"}
    better = corrected(graph, theta, torch.from_numpy(x))
    assert better.nodes.keys() == graph.nodes.keys()
    shifts = []
    for target, node in graph.nodes.items():
        if node.type not in ("ReLU", "Output"):
            continue
        sources = [a for a, b in graph.edges if b == target]
        biased = [a for a in sources if "bias" in graph.nodes[a].parameters]
        able = any([b for a, b in graph.edges if a == source] == [target] for source in biased)
        wanted = means(graph, x, target)
        error, before = (np.abs(means(cut(g, theta), x, target) - wanted).max() for g in (better, graph))
        if able:
            assert error < 1e-4 * np.abs(wanted).max() + 1e-6, target
            shifts.append(before)
    assert not shifts or max(shifts) > 1e-3 or len(shifts) == 1


def test_nothing_changes_where_nothing_is_cut_off() -> None:
    nodes, edges = NETWORKS["an identity shortcut"]
    graph = network(nodes, edges)
    x = RNG.normal(0, 1, (5, 3, 6, 6)).astype(np.float32)
    better = corrected(graph, {"r1": np.array(1e6), "r2": np.array(1e6)}, torch.from_numpy(x))
    for name, node in graph.nodes.items():
        if "bias" in node.parameters:
            assert np.array_equal(better.nodes[name].array("bias"), node.array("bias")), name
