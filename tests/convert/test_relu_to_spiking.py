"""Networks of rectifiers as graphs of soft-reset neurons: their rates approach what the rectifiers give."""

from typing import Any

import numpy as np
import pytest
import torch
from rectified_graphs import network, values

from neurocuda import ArgumentError, Discretization, Executor, Graph, Node
from neurocuda.convert.relu_to_spiking import SPIKES, as_rectifiers, spiking

RNG = np.random.default_rng(3)
INPUT = {"type": "Input", "shape": np.array([3, 6, 6])}
OUTPUT = {"type": "Output", "shape": np.array([4])}
RELU = {"type": "ReLU"}


def conv(outputs: int, inputs: int, kernel: int = 3, groups: int = 1, stride: int = 1) -> dict[str, Any]:
    weight = RNG.normal(0, 1.5 / np.sqrt(inputs * kernel**2), (outputs, inputs // groups, kernel, kernel))
    bias = RNG.normal(0, 0.2, outputs)
    how = {"stride": stride, "padding": kernel // 2, "dilation": 1, "groups": groups}
    return {"type": "Conv2d", "weight": weight, "bias": bias, **how}


def affine(outputs: int, inputs: int) -> dict[str, Any]:
    weight = RNG.normal(0, 1 / np.sqrt(inputs), (outputs, inputs))
    return {"type": "Affine", "weight": weight, "bias": RNG.normal(0, 0.2, outputs)}


FLAT = {"type": "Flatten", "start_dim": 0, "end_dim": -1, "input_type": np.array([4, 6, 6])}
POOL = {"type": "AvgPool2d", "kernel_size": 2, "stride": 2, "padding": 0}
SHAPED = {"type": "Output", "shape": np.array([4, 6, 6])}
ENDS = {"input": INPUT, "output": OUTPUT}

NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "a chain": (
        {**ENDS, "c1": conv(4, 3), "r1": RELU, "c2": conv(4, 4), "r2": RELU, "flat": FLAT, "fc": affine(4, 144)},
        "input c1 r1 c2 r2 flat fc output",
    ),
    "an identity shortcut": (
        {**ENDS, "c1": conv(4, 3), "r1": RELU, "c2": conv(4, 4), "r2": RELU, "flat": FLAT, "fc": affine(4, 144)},
        "input c1 r1 c2 r2 flat fc output, r1 r2",
    ),
    "a shortcut of its own weight": (
        {
            "input": INPUT,
            "output": SHAPED,
            "c1": conv(4, 3),
            "r1": RELU,
            "c2": conv(4, 4),
            "d": conv(4, 3, 1),
            "r2": RELU,
        },
        "input c1 r1 c2 r2 output, input d r2",
    ),
    "grouped and strided convolutions": (
        {
            "input": INPUT,
            "output": {"type": "Output", "shape": np.array([4, 3, 3])},
            "c1": conv(4, 3),
            "r1": RELU,
            "c2": conv(4, 4, groups=2),
            "r2": RELU,
            "c3": conv(4, 4, groups=4, stride=2),
            "r3": RELU,
        },
        "input c1 r1 c2 r2 c3 r3 output",
    ),
    "pools between weights": (
        {
            **ENDS,
            "c1": conv(4, 3),
            "r1": RELU,
            "pool": POOL,
            "c2": conv(4, 4),
            "pool2": {**POOL, "type": "SumPool2d"},
            "r2": RELU,
            "flat": {**FLAT, "input_type": np.array([4, 1, 1])},
            "fc": affine(4, 4),
        },
        "input c1 r1 pool c2 pool2 r2 flat fc output",
    ),
    "a bottleneck without a rectifier": (
        {
            "input": INPUT,
            "output": SHAPED,
            "c1": conv(4, 3),
            "r1": {**RELU, "cap": 1},
            "c2": conv(4, 4, 1),
            "c3": conv(4, 4),
        }
        | {"r2": {**RELU, "cap": 6}, "c4": conv(4, 4, 1)},
        "input c1 r1 c2 c3 r2 c4 output, c2 output",
    ),
    "one layer into several": (
        {"input": INPUT, "output": SHAPED, "c1": conv(4, 3), "r1": RELU, "r2": RELU, "c2": conv(4, 4), "r3": RELU},
        "input c1 r1 c2 r3 output, c1 r2 c2, c1 output",
    ),
    "a maximum of two": (
        {"input": INPUT, "output": SHAPED, "c1": conv(4, 3), "r1": RELU, "a": conv(4, 4, 1, 4), "b": conv(4, 4, 1, 4)}
        | {"r2": RELU, "c2": conv(4, 4), "r3": RELU},
        "input c1 r1 a c2 r3 output, r1 b r2 c2, r2 r3",
    ),
    "a scale between rectifiers": (
        {
            "input": INPUT,
            "output": SHAPED,
            "c1": conv(4, 3),
            "r1": RELU,
            "s": {"type": "Scale", "scale": np.arange(1, 5) / 4},
        }
        | {"r2": RELU},
        "input c1 r1 s r2 output",
    ),
    "a rectified input": (
        {"input": INPUT, "r1": RELU, "c1": conv(4, 3), "r2": RELU, "output": SHAPED},
        "input r1 c1 r2 output",
    ),
    "rectifiers of one number each": (
        {"input": {"type": "Input", "shape": np.array([3])}, "fc1": affine(5, 3), "r1": RELU, "fc2": affine(4, 5)}
        | {"r2": RELU, "output": OUTPUT},
        "input fc1 r1 fc2 r2 output",
    ),
}


def thetas(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """The maximum of each channel, so that nothing saturates."""
    found = values(graph, x)
    return {
        name: np.maximum(np.moveaxis(found[name], 1, 0).reshape(node.output_shape[0], -1).max(1), 0.1)
        for name, node in graph.nodes.items()
        if node.type == "ReLU"
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_rates_approach_the_activations(name: str) -> None:
    nodes, edges = NETWORKS[name]
    graph = network(nodes, edges)
    x = RNG.normal(0, 1, (3, *graph.nodes["input"].output_shape)).astype(np.float32)
    theta = thetas(graph, x)
    net = Executor(spiking(graph, theta))
    steps = 512
    signal = torch.from_numpy(x).expand(steps, *x.shape)
    with torch.no_grad():
        result = net.run(signal, record={relu + SPIKES: "spikes" for relu in theta})
    expected = values(graph, x)
    for relu, units in theta.items():
        rate = result.recordings[relu + SPIKES]["spikes"][64:].double().mean(0).numpy()
        units = units.reshape(units.shape + (1,) * (rate.ndim - 2))
        assert np.abs(rate * units - expected[relu]).max() < 0.05 * units.max(), relu
    output = result.output[64:].double().mean(0).numpy()
    assert np.abs(output - expected["output"]).max() < 0.05 * np.abs(expected["output"]).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_neuron_is_one_fused_soft_reset(name: str) -> None:
    nodes, edges = NETWORKS[name]
    graph = network(nodes, edges)
    theta = {relu: np.array(2.0) for relu, node in graph.nodes.items() if node.type == "ReLU"}
    net = Executor(spiking(graph, theta))
    assert {stage.soft_reset.integrator for stage in net.schedule.stages if stage.soft_reset} == set(theta)


@pytest.mark.parametrize("name", NETWORKS)
def test_as_rectifiers_it_is_the_network_cut_off_at_its_thresholds(name: str) -> None:
    nodes, edges = NETWORKS[name]
    graph = network(nodes, edges)
    x = RNG.normal(0, 1, (3, *graph.nodes["input"].output_shape)).astype(np.float32)
    theta = {relu: np.array(0.7 * most.max()) for relu, most in thetas(graph, x).items()}
    capped = {
        relu: Node(relu, "ReLU", {"cap": level}, graph.nodes[relu].input_shape, graph.nodes[relu].output_shape)
        for relu, level in theta.items()
    }
    expected = values(Graph({**graph.nodes, **capped}, graph.edges), x)
    found = values(as_rectifiers(spiking(graph, theta)), x)
    for relu, level in theta.items():
        assert np.allclose(found[relu] * level, expected[relu], atol=1e-5 * level)
    assert np.allclose(found["output"], expected["output"], atol=1e-5 * np.abs(expected["output"]).max())


def test_feedback_is_last_whatever_the_modules_are_called() -> None:
    for first in ("zz", "~a", "ω", "\U0001f600"):
        nodes = {"input": INPUT, f"{first}1": conv(4, 3), f"{first}2": conv(4, 3), f"{first}3": conv(4, 3)}
        nodes |= {"a": RELU, "output": SHAPED}
        paths = ", ".join(f"input {first}{number} a" for number in (1, 2, 3))
        net = Executor(spiking(network(nodes, f"{paths}, a output"), {"a": np.ones(4)}))
        assert [stage.soft_reset.integrator for stage in net.schedule.stages if stage.soft_reset] == ["a"]


@pytest.mark.parametrize("dt", [1e-4, 1e-3, 1.0, 0.007, 3e-5])
def test_the_gain_is_one_at_the_dt_of_the_graph(dt: float) -> None:
    nodes, edges = NETWORKS["a chain"]
    graph = spiking(network(nodes, edges), {"r1": np.ones(4), "r2": np.ones(4)}, dt=dt)
    assert np.float32(graph.nodes["r1"].array("r") * dt) == 1
    x = torch.from_numpy(RNG.normal(0, 1, (12, 2, 3, 6, 6)).astype(np.float32))
    first, _ = Executor(graph, Discretization(dt=dt))(x)
    usual, _ = Executor(spiking(network(nodes, edges), {"r1": np.ones(4), "r2": np.ones(4)}))(x)
    assert torch.equal(first, usual)


def test_initial_potential() -> None:
    nodes = {"input": {"type": "Input", "shape": np.array([1])}, "r": RELU}
    graph = network({**nodes, "output": {"type": "Output", "shape": np.array([1])}}, "input r output")
    for initial, spikes in ((0.5, [0, 1, 0, 0, 1]), (0.0, [0, 0, 0, 1, 0]), (0.9, [1, 0, 0, 1, 0])):
        net = Executor(spiking(graph, {"r": np.array([2.0])}, initial=initial))
        output, _ = net(torch.full((5, 1, 1), 0.6))  # 0.3 of theta a step
        assert (output.flatten() / 2).tolist() == spikes


@pytest.mark.parametrize(
    ("thresholds", "found"),
    [
        ({}, "'r1'.*found none"),
        ({"r1": np.zeros(4), "r2": np.ones(4)}, "'r1'.*> 0, found values from 0 to 0"),
        ({"r1": np.array([1, np.nan, 1, 1]), "r2": np.ones(4)}, "'r1'.*finite"),
        ({"r1": np.ones(3), "r2": np.ones(4)}, r"fits a signal \(4, 6, 6\), found \(3,\)"),
        ({"r1": np.ones((4, 6, 6, 1)), "r2": np.ones(4)}, r"fits a signal \(4, 6, 6\)"),
    ],
)
def test_thresholds_that_do_not_fit(thresholds: dict[str, np.ndarray], found: str) -> None:
    nodes, edges = NETWORKS["a chain"]
    with pytest.raises(ArgumentError, match=found):
        spiking(network(nodes, edges), thresholds)
