"""What is trained: quantised rectifiers and spiking neurons of one set of weights, against formulas and an executor."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import digit_models
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from neurocuda import ArgumentError, Graph, Node, Surrogate, convert, use_backend
from neurocuda.convert.snn import SNN
from neurocuda.convert.training.trainable import Trainable
from neurocuda.ops.pointwise import convolve

HOW = Surrogate("triangle", 1.0)
SETTINGS: dict[str, Any] = {"stride": (1, 1), "dilation": (1, 1)}


def grid(*shape: int, seed: int) -> np.ndarray:
    """Multiples of 1/16: sums are exact in any order."""
    return np.random.default_rng(seed).integers(-6, 8, shape) / 16


def conv(name: str, shape: tuple[int, ...], out: int, kernel: int, seed: int, **changes: Any) -> Node:
    options = {**SETTINGS, "padding": (kernel // 2,) * 2, "groups": 1, **changes}
    size = tuple((n - 1) // s + 1 for n, s in zip(shape[1:], options["stride"], strict=True))
    weight = grid(out, shape[0] // options["groups"], kernel, kernel, seed=seed)
    parameters = {"weight": weight, "bias": grid(out, seed=seed + 1), **options}
    return Node(name, "Conv2d", parameters, shape, (out, *size))


def same(name: str, kind: str, shape: tuple[int, ...], **parameters: Any) -> Node:
    return Node(name, kind, parameters, shape, shape)


def residual(offset: float = 0.0) -> Graph:
    """stem -> r0 -> (a -> r1 -> b) + r0 -> r2 -> (grouped c) + down -> r3 -> pool -> flatten -> hidden -> r4 -> fc.

    Two populations of other thresholds meet before c and down as well: r2 + r0. `offset` is added to every bias.
    """
    image, half = (4, 6, 6), (8, 3, 3)
    window = {"kernel_size": (3, 3), "stride": (3, 3), "padding": (0, 0)}
    flatten = Node("flatten", "Flatten", {"start_dim": 0, "end_dim": -1}, (8, 1, 1), (8,))
    nodes = [
        same("input", "Input", (2, 6, 6)),
        conv("stem", (2, 6, 6), 4, 3, 0),
        same("r0", "ReLU", image),
        conv("a", image, 4, 3, 2),
        same("r1", "ReLU", image),
        conv("b", image, 4, 3, 4),
        same("r2", "ReLU", image),
        conv("c", image, 8, 3, 6, groups=2, stride=(2, 2)),
        conv("down", image, 8, 1, 8, stride=(2, 2)),
        same("gain", "Scale", half, scale=np.array([0.5, 1, 2, 1, 1, 0.5, 1, 1])),
        same("r3", "ReLU", half, cap=np.array(6.0)),
        Node("pool", "SumPool2d", window, half, (8, 1, 1)),
        flatten,
        Node("hidden", "Affine", {"weight": grid(6, 8, seed=10), "bias": grid(6, seed=11)}, (8,), (6,)),
        same("r4", "ReLU", (6,)),
        Node("fc", "Affine", {"weight": grid(3, 6, seed=12), "bias": grid(3, seed=13)}, (6,), (3,)),
        same("output", "Output", (3,)),
    ]
    trunk = "input stem r0 a r1 b r2 c r3 pool flatten hidden r4 fc output".split()
    edges = [*pairwise(trunk), ("r0", "r2"), ("r0", "c"), ("r2", "down"), ("down", "gain"), ("gain", "r3")]
    biased = {n.name: {**n.parameters, "bias": n.array("bias") + offset} for n in nodes if "bias" in n.parameters}
    nodes = [replace(node, parameters=biased.get(node.name, node.parameters)) for node in nodes]
    return Graph({node.name: node for node in nodes}, tuple(edges))


CHANNELS = {"r0": 4, "r1": 4, "r2": 4, "r3": 8, "r4": 6}


def powers(seed: int = 0) -> dict[str, np.ndarray]:
    """Thresholds that are powers of two: what divides by them stays on a grid."""
    draw = np.random.default_rng(seed)
    return {name: 2.0 ** draw.integers(-2, 2, channels) for name, channels in CHANNELS.items()}


def images(batch: int = 5, seed: int = 0) -> Tensor:
    return torch.randint(0, 9, (batch, 2, 6, 6), generator=torch.Generator().manual_seed(seed)) / 8


def by_hand(graph: Graph, x: Tensor, rectify: Any) -> Tensor:
    """The residual network, written out."""
    p = {name: {f: torch.tensor(node.array(f)).float() for f in ("weight", "bias", "scale") if f in node.parameters}
         for name, node in graph.nodes.items()}  # fmt: skip
    r0 = rectify("r0", functional.conv2d(x, **p["stem"], padding=1))
    r1 = rectify("r1", functional.conv2d(r0, **p["a"], padding=1))
    r2 = rectify("r2", functional.conv2d(r1, **p["b"], padding=1) + r0)
    down = convolve(r2, **p["down"], stride=2) * p["gain"]["scale"].reshape(-1, 1, 1)
    r3 = rectify("r3", functional.conv2d(r2 + r0, **p["c"], padding=1, groups=2, stride=2) + down)
    r4 = rectify("r4", functional.linear(r3.sum((2, 3)), **p["hidden"]))
    return functional.linear(r4, **p["fc"])


def test_with_rectifiers_it_is_the_graph() -> None:
    def rectify(name: str, z: Tensor) -> Tensor:
        return z.clamp(0, 6.0 if name == "r3" else None)

    x = images() * 4
    found = Trainable(residual(), powers(), HOW).rectified(x)
    torch.testing.assert_close(found, by_hand(residual(), x, rectify))


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_levels_are_those_of_the_formula(count: int) -> None:
    """Clip, floor and shift (Bu et al. 2022), in another way of writing."""
    thetas = powers()
    # Sevenths are on no grid: sums are rounded, and none may come so near to a tie that its order decides.
    graph, from_ties = residual(0.0 if count != 7 else 0.004), []

    def rectify(name: str, z: Tensor) -> Tensor:
        theta = torch.from_numpy(thetas[name]).float().reshape(-1, *[1] * (z.dim() - 2))
        level = z * count / theta + 0.5
        from_ties.append((level - level.round()).abs().min())
        return theta * torch.clip(torch.floor(level) / count, 0, 1)

    torch.testing.assert_close(Trainable(graph, thetas, HOW).levels(images(), count), by_hand(graph, images(), rectify))
    if count == 7:
        assert min(from_ties) > 1e-3


def small(weight: np.ndarray) -> Graph:
    out, width = weight.shape
    nodes = [same("input", "Input", (width,)), Node("fc", "Linear", {"weight": weight}, (width,), (out,))]
    nodes += [same("r", "ReLU", (out,)), same("output", "Output", (out,))]
    return Graph({node.name: node for node in nodes}, (("input", "fc"), ("fc", "r"), ("r", "output")))


@pytest.mark.parametrize("timesteps", [1, 2, 4, 7, 32])
def test_levels_are_the_mean_over_time_of_spikes(timesteps: int) -> None:
    """Of one population under a constant input: the theorem of Bu et al., away from ties."""
    net = Trainable(small(np.random.default_rng(0).normal(size=(7, 5))), {"r": np.linspace(0.5, 3, 7)}, HOW)
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    levels, spikes = net.levels(x, timesteps), net.spikes(x, timesteps).mean(0)
    torch.testing.assert_close(levels, spikes)
    assert levels.count_nonzero() > 500


@pytest.mark.parametrize("timesteps", [1, 4, 9])
def test_spikes_are_those_of_the_network_that_comes_of_it(timesteps: int) -> None:
    """Equal bits with the executor of the converted graph, for weights on a grid."""
    net = Trainable(residual(), powers(), HOW)
    snn = SNN(net.graph(), net.thresholds(), timesteps=timesteps)
    with torch.no_grad():
        found, expected = net.spikes(images(), timesteps), snn.steps(images(), timesteps)
        assert torch.equal(found, expected)
        assert torch.equal(found.mean(0), snn(images()))
    assert len(found.unique()) >= 3


def test_what_is_learned_goes_into_the_graph() -> None:
    net = Trainable(residual(), powers(), HOW)
    for name, theta in net.thresholds().items():
        assert np.array_equal(theta, powers()[name]), name
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randint(-1, 2, parameter.shape) / 16)
    again = Trainable(net.graph(), net.thresholds(), HOW)
    for found, expected in zip(again.learned, net.learned, strict=True):
        assert torch.equal(found, expected)
    torch.testing.assert_close(again.spikes(images(), 4), net.spikes(images(), 4))
    assert {name: node.type for name, node in net.graph().nodes.items()} == {
        name: node.type for name, node in residual().nodes.items()
    }


def gradients(net: Trainable, x: Tensor, run: Any) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, 3)
    (run(net, x) * weights).sum().backward()
    found = {name: p.grad for name, p in net.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@pytest.mark.parametrize("timesteps", [1, 4, 9])
def test_rates_are_the_mean_over_time_of_spikes(timesteps: int) -> None:
    net = Trainable(residual(), powers(), HOW)
    with torch.no_grad():
        torch.testing.assert_close(net.rates(images(), timesteps), net.spikes(images(), timesteps).mean(0))
        with torch.autocast("cpu", torch.bfloat16):
            narrow = net.rates(images(), timesteps), net.spikes(images(), timesteps).mean(0)
        torch.testing.assert_close(*narrow, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("way", ["levels", "rates"])
def test_gradients_are_those_of_a_straight_through_estimate(way: str) -> None:
    """To weights and to thresholds: what rounds, or what spikes, taken for the clip."""
    x = images() + torch.rand(5, 2, 6, 6, generator=torch.Generator().manual_seed(1)) / 100
    odd = {name: theta * 1.1 for name, theta in powers().items()}  # off the grid nothing lies on a corner
    net = Trainable(residual(), odd, HOW)
    found = gradients(net, x, lambda net, x: getattr(net, way)(x, 4))

    twin = Trainable(residual(), odd, HOW)
    counted: dict[str, Tensor] = {}
    with torch.no_grad():
        twin.spikes(x, 4, counted)
    thetas = dict(zip(CHANNELS, twin.log_thresholds, strict=True))

    def straight(net: Trainable, x: Tensor) -> Tensor:
        p = {key: net.learned[place] for key, place in net._places.items()}

        def rectify(name: str, z: Tensor) -> Tensor:
            theta = thetas[name].exp2().reshape(-1, *[1] * (z.dim() - 2))
            scaled = torch.clamp(z / theta, 0, 1)
            rounded = torch.clamp(torch.floor(z / theta * 4 + 0.5) / 4, 0, 1)
            given = rounded if way == "levels" else counted[name]
            return theta * (scaled + (given - scaled).detach())

        def conv2d(x: Tensor, name: str, **options: Any) -> Tensor:
            return convolve(x, p[name, "weight"], p[name, "bias"], **options)

        r0 = rectify("r0", conv2d(x, "stem", padding=1))
        r2 = rectify("r2", conv2d(rectify("r1", conv2d(r0, "a", padding=1)), "b", padding=1) + r0)
        down = conv2d(r2, "down", stride=2) * p["gain", "scale"]
        r3 = rectify("r3", conv2d(r2 + r0, "c", padding=1, groups=2, stride=2) + down)
        r4 = rectify("r4", functional.linear(r3.sum((2, 3)), p["hidden", "weight"], p["hidden", "bias"]))
        return functional.linear(r4, p["fc", "weight"], p["fc", "bias"])

    expected = gradients(twin, x, straight)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
        assert gradient.any(), name


@pytest.mark.parametrize("timesteps", [1, 4])
def test_gradients_of_spikes_are_those_of_the_reference(timesteps: int) -> None:
    net = Trainable(residual(), powers(), HOW)
    twin = copy.deepcopy(net)
    found = gradients(net, images(), lambda net, x: net.spikes(x, timesteps).mean(0))
    with use_backend("reference"):
        expected = gradients(twin, images(), lambda net, x: net.spikes(x, timesteps).mean(0))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
        assert gradient.any(), name


def test_one_input_and_one_output() -> None:
    graph = residual()
    twice = Graph({**graph.nodes, "more": same("more", "Output", (3,))}, (*graph.edges, ("fc", "more")))
    with pytest.raises(ArgumentError, match="expected one output, found 2: more, output"):
        Trainable(twice, powers(), HOW)


def test_spikes_are_those_of_the_converted_network_with_its_maxima() -> None:
    x = (digit_models.digits()[2][:6] * 8).round() / 8
    snn = convert(digit_models.trained("pooled"), digit_models.digits()[0], percentile=99.0, samples=50, report=False)
    powers = {name: 2.0 ** np.round(np.log2(theta)) for name, theta in snn.thresholds.items()}
    graph = Graph({name: _on_grid(node) for name, node in snn.rectified.nodes.items()}, snn.rectified.edges)
    assert any(node.metadata for node in graph.nodes.values())
    with torch.no_grad():
        found = Trainable(graph, powers, HOW).spikes(x, 12)
        assert torch.equal(found, SNN(graph, powers, timesteps=12).steps(x, 12))


def _on_grid(node: Node) -> Node:
    grid = {f: np.round(node.array(f) * 64) / 64 for f in ("weight", "bias") if f in node.parameters}
    return replace(node, parameters={**node.parameters, **grid})
