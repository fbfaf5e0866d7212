"""Gradients of the input, weights and neuron parameters, against plain autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from devices import here, networks_on_each_device
from raw_nodes import Raw, chain, node, ramp
from stateful import drive, network
from torch import Tensor
from torch.nn import functional

from neurocuda import Discretization, Executor, Surrogate, use_backend

pytestmark = [pytest.mark.emulated, networks_on_each_device]

DT = 1e-4
# float32 sums of some hundred terms in another order
CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 1e-6}


def derivative(distance: Tensor, how: Surrogate) -> Tensor:
    """The surrogate derivatives of the papers that `Surrogate` cites."""
    if how.kind == "fast-sigmoid":
        return 1 / (1 + how.slope * distance.abs()) ** 2
    if how.kind == "arctan":
        return 1 / (1 + (math.pi / 2 * how.slope * distance) ** 2)
    return torch.relu(1 - how.slope * distance.abs())


def spikes(u: Tensor, threshold: Tensor, how: Surrogate) -> Tensor:
    """A step function with the gradient of the surrogate: forward the spike, backward u - threshold, weighted."""
    soft = (u - threshold) * derivative(u - threshold, how).detach()
    return (u > threshold).float() + (soft - soft.detach())


def lif(x: Tensor, p: dict[str, Tensor], how: Surrogate, reset: str) -> Tensor:
    """A LIF over time in plain torch. x: [T, B, N]."""
    gain = DT / p["tau"]
    decay, gain_v, bias_v = (1 - gain).float(), (p["r"] * gain).float(), (p["v_leak"] * gain).float()
    threshold, v_reset = p["v_threshold"].float(), p["v_reset"].float()
    v, out = torch.zeros_like(x[0]), []
    for current in x:
        u = v * decay + (current * gain_v + bias_v)
        s = spikes(u, threshold, how)
        fired = s.detach()
        v = torch.where(fired > 0, v_reset, u) if reset == "to-value" else u - fired * threshold
        out.append(s)
    return torch.stack(out)


def grid(*shape: int, seed: int = 0) -> np.ndarray:
    """Multiples of 1/16: sums are exact in any order, and both computations fire at the same steps."""
    return (np.random.default_rng(seed).integers(-6, 13, shape) / 16).astype(np.float32)


def weights_of(*shape: int, seed: int) -> Tensor:
    """The weights of the terms of a loss."""
    return torch.from_numpy(grid(*shape, seed=seed)).to(here())


def two_layers() -> Raw:
    raw = chain(
        {
            "a": node("Affine", weight=grid(6, 3), bias=grid(6, seed=1)),
            "n": node("LIF", tau=2 * DT, r=2.0, v_threshold=0.5, v_leak=0.25),
            "z": node("Affine", weight=grid(2, 6, seed=2), bias=grid(2, seed=3)),
        }
    )
    raw["nodes"]["out"]["shape"] = np.array([2])
    return raw


def parameters_of(net: Executor) -> dict[str, Tensor]:
    return {n: t.detach().clone().requires_grad_(t.requires_grad) for n, t in net.state_dict(keep_vars=True).items()}


LEARNT = ("tau", "r", "v_leak", "v_threshold", "v_reset")
SURROGATES = [Surrogate(), Surrogate("arctan", 2.0), Surrogate("triangle", 0.5), Surrogate("fast-sigmoid", 1.5)]


@pytest.mark.parametrize("learn", [(), LEARNT])
@pytest.mark.parametrize("reset", ["to-value", "subtract"])
@pytest.mark.parametrize("how", SURROGATES, ids=lambda how: f"{how.kind} {how.slope}")
def test_a_small_network_has_the_gradients_of_plain_torch(how: Surrogate, reset: Any, learn: tuple[str, ...]) -> None:
    net = network(two_layers(), discretization=Discretization(DT, reset=reset), surrogate=how, learn=learn, chunk=7)
    x, twin_x = drive(20, 4).requires_grad_(), drive(20, 4).requires_grad_()
    p = parameters_of(net)
    hidden = lif(functional.linear(twin_x, p["a:weight"], p["a:bias"]), {f: p[f"n:{f}"] for f in LEARNT}, how, reset)
    expected = functional.linear(hidden, p["z:weight"], p["z:bias"])
    y, _ = net(x)
    assert 0.1 < hidden.mean() < 0.9
    assert torch.equal(y, expected)

    weights = weights_of(20, 4, 2, seed=4)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, twin_x.grad, **CLOSE)
    for name, parameter in net.named_parameters():
        if name == "n:v_reset" and reset == "subtract":
            continue  # unused
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
        torch.testing.assert_close(parameter.grad, p[name].grad, **CLOSE)


def test_a_recurrent_network_has_the_gradients_of_plain_torch() -> None:
    weight, bias = grid(3, 3), grid(3, seed=1)
    raw = chain({"n": node("LIF", tau=2 * DT, v_threshold=0.5), "w": node("Affine", weight=weight, bias=bias)})
    raw["edges"] = [("in", "n"), ("n", "w"), ("w", "n"), ("n", "out")]
    net = network(raw)
    assert [entry.how for stage in net.schedule.stages for entry in stage.nodes].count("recurrent") == 2
    x, twin_x = drive(15, 4).requires_grad_(), drive(15, 4).requires_grad_()
    y, _ = net(x)

    p = parameters_of(net)
    v = s = torch.zeros(4, 3, device=here())
    out = []
    for step in range(15):
        u = v * 0.5 + (twin_x[step] + functional.linear(s, p["w:weight"], p["w:bias"])) * 0.5
        s = spikes(u, torch.tensor(0.5), Surrogate())
        v = torch.where(s.detach() > 0, 0.0, u)
        out.append(s)
    expected = torch.stack(out)
    assert 0.1 < expected.mean() < 0.9
    assert torch.equal(y, expected)
    loss = torch.arange(15.0, device=here()).reshape(-1, 1, 1)
    (y * loss).sum().backward()
    (expected * loss).sum().backward()
    torch.testing.assert_close(x.grad, twin_x.grad, rtol=1e-4, atol=1e-4)  # gradients reach some hundreds
    for name in ("w:weight", "w:bias"):
        torch.testing.assert_close(net.get_parameter(name).grad, p[name].grad, rtol=1e-4, atol=1e-4)


def settings(*numbers: int) -> dict[str, Any]:
    return dict(zip(("stride", "padding", "dilation", "groups"), numbers, strict=True))


CONVOLUTIONS = [((2, 9), (4, 2, 3), settings(1, 0, 1, 1)), ((4, 9), (6, 2, 2), settings(2, 1, 2, 2))]
CONVOLUTIONS += [((2, 7, 6), (4, 2, 3, 2), settings(1, 1, 1, 1)), ((4, 7, 6), (4, 1, 2, 3), settings(2, 2, 1, 4))]


@pytest.mark.parametrize("how", ["ordered", "library"])
@pytest.mark.parametrize(("shape", "kernel", "options"), CONVOLUTIONS)
def test_convolutions_have_the_gradients_of_torch(
    shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, int], how: Any
) -> None:
    kind = f"Conv{len(kernel) - 2}d"
    raw = chain({"c": {"type": kind, "weight": grid(*kernel), "bias": grid(kernel[0], seed=1), **options}}, shape)
    net = network(raw, force={"c": how})
    x, twin_x = (drive(3, 2, shape, 5).requires_grad_() for _ in range(2))
    p = parameters_of(net)
    convolve = functional.conv1d if len(kernel) == 3 else functional.conv2d
    expected = convolve(twin_x.flatten(0, 1), p["c:weight"], p["c:bias"], **options).unflatten(0, (3, 2))
    y, _ = net(x)
    assert torch.equal(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, twin_x.grad, **CLOSE)
    for name in ("c:weight", "c:bias"):
        torch.testing.assert_close(net.get_parameter(name).grad, p[name].grad, **CLOSE)


@pytest.mark.parametrize("how", ["ordered", "library"])
@pytest.mark.parametrize("weight", [(4, 3), (2, 4, 3), (2, 5, 4, 3)])
@pytest.mark.parametrize("bias", ["full", "single"])
def test_matrices_have_the_gradients_of_torch(weight: tuple[int, ...], bias: str, how: Any) -> None:
    shape, out = (*weight[:-2], weight[-1]), weight[:-1]
    value = grid(*out, seed=1) if bias == "full" else np.float32(0.25)
    net = network(chain({"w": node("Affine", weight=grid(*weight), bias=value)}, shape), force={"w": how})
    x, twin_x = (drive(3, 2, shape, 5).requires_grad_() for _ in range(2))
    p = parameters_of(net)
    expected = torch.einsum("...oi,tb...i->tb...o", p["w:weight"], twin_x) + p["w:bias"]
    y, _ = net(x)
    assert torch.equal(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, twin_x.grad, **CLOSE)
    for name in ("w:weight", "w:bias"):
        torch.testing.assert_close(net.get_parameter(name).grad, p[name].grad, **CLOSE)


def cuba_li(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    """A CubaLI over time in float64."""
    i, v, out = np.zeros_like(x[0]), np.zeros_like(x[0]), []
    for current in x:
        i = i * (1 - DT / p["tau_syn"]) + current * p["w_in"] * DT / p["tau_syn"]
        v = v * (1 - DT / p["tau_mem"]) + (i * p["r"] + p["v_leak"]) * DT / p["tau_mem"]
        out.append(v)
    return np.stack(out)


def li(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    v, out = np.zeros_like(x[0]), []
    for current in x:
        v = v * (1 - DT / p["tau"]) + (current * p["r"] + p["v_leak"]) * DT / p["tau"]
        out.append(v)
    return np.stack(out)


SMOOTH: dict[str, tuple[Callable[..., np.ndarray], dict[str, list[float]]]] = {
    "LI": (li, {"tau": [3e-4, 5e-4, 2e-3], "r": [1.5, 2, 3], "v_leak": [0.5, 0, -1]}),
    "CubaLI": (
        cuba_li,
        {"tau_syn": [2e-4, 4e-4, 3e-3], "tau_mem": [3e-4, 5e-4, 2e-3], "w_in": [1, 2, 0.5]}
        | {"r": [1.5, 2, 3], "v_leak": [0.5, 0, -1]},
    ),
}


@pytest.mark.parametrize("kind", SMOOTH)
def test_parameters_of_neurons_have_the_gradients_of_finite_differences(kind: str) -> None:
    compute, values = SMOOTH[kind]
    p = {name: np.array(value) for name, value in values.items()}
    net = network(chain({"n": {"type": kind, **p}}), learn=tuple(p))
    x = drive(25, 4)
    y, _ = net(x)
    np.testing.assert_allclose(y.detach().cpu().numpy(), compute(x.cpu().numpy(), p), rtol=1e-5, atol=1e-6)
    y.square().sum().backward()
    for name, value in p.items():
        for k in range(3):
            # in float64, central differences of a relative step of 1e-6 are right to 1e-8 and better
            step = np.zeros(3)
            step[k] = 1e-6 * max(abs(value[k]), 1e-3)
            high, low = ((compute(x.cpu().numpy(), {**p, name: value + sign * step}) ** 2).sum() for sign in (1, -1))
            gradient = net.get_parameter(f"n:{name}").grad
            assert gradient is not None
            assert gradient.dtype == torch.float64
            # the network computes in float32: 25 steps of some rounding errors of 6e-8 each
            assert float(gradient[k]) == pytest.approx((high - low) / (2 * step[k]), rel=1e-4), (name, k)


def linear_network() -> Raw:
    """A chain of all primitives that are linear in their input."""
    nodes = {
        "a": node("Conv2d", weight=grid(4, 2, 3, 2), padding=np.array([1, 0])),
        "b": node("SumPool2d", padding=np.array([1, 0])),
        "c": node("AvgPool2d", stride=1),
        "d": node("LI", tau=np.array([2e-4, 3e-4, 4e-4, 5e-4])),
        "e": node("Flatten", start_dim=1),
        "f": node("Conv1d", weight=grid(3, 2, 2), bias=grid(3), groups=2, padding="same")
        | {"weight": grid(4, 2, 2), "bias": grid(4)},
        "g": node("Delay", delay=np.array([0, 1e-4, 2e-4, 4e-4])),
        "h": node("CubaLI", tau_mem=3e-4, tau_syn=2e-4, v_leak=0.5),
        "i": node("I", r=1e3),
        "j": node("Scale", scale=np.array([1, -2, 0.5, 3])),
        "k": node("Flatten"),
        "m": node("Linear", weight=grid(3, 12, seed=6)),
    }
    raw = chain(nodes, (2, 6, 6))
    raw["edges"] += [("m", "n"), ("n", "m_back"), ("m_back", "n"), ("n", "out")]
    raw["nodes"] |= {"n": node("LI", tau=3e-4), "m_back": node("Linear", weight=ramp(3, 3))}
    raw["nodes"]["out"]["shape"] = np.array([3])
    return raw


def test_a_linear_network_changes_as_its_gradient_says() -> None:
    """<gradient, h> = f(x + h) - f(x) for h of any size, up to rounding."""
    net = network(linear_network(), chunk=5)
    x = drive(16, 2, (2, 6, 6)).requires_grad_()
    weights = weights_of(16, 2, 3, seed=7)
    base = (net(x)[0] * weights).sum()
    base.backward()
    assert x.grad is not None
    for seed in range(5):
        h = drive(16, 2, (2, 6, 6), seed + 10)
        with torch.no_grad():
            change = (net(x + h)[0] * weights).sum() - base.detach()
        # float32 results of a few hundreds: some units of their last bit, 3e-5
        torch.testing.assert_close((x.grad * h).sum(), change, rtol=1e-5, atol=1e-3)


def test_gradients_through_time_reach_the_first_step() -> None:
    net = network(chain({"n": node("LI", tau=1.0)}), chunk=3)
    x = drive(12, 1).requires_grad_()
    net(x)[0][-1].sum().backward()
    assert x.grad is not None
    assert x.grad.ne(0).all()


@pytest.mark.parametrize("quantity", ["input", "output", "v", "i", "spikes"])
def test_gradients_pass_through_recordings(quantity: str) -> None:
    raw = chain({"w": node("Linear", weight=grid(3, 3)), "n": node("CubaLIF", tau_mem=3e-4, tau_syn=2e-4)})
    net = network(raw)
    x = drive(10, 2).requires_grad_()
    net.run(x, record={"n": quantity}).recordings["n"][quantity].sum().backward()
    assert x.grad is not None
    assert x.grad.any()
    assert net.get_parameter("w:weight").grad is not None


def test_learn_takes_one_name_as_a_string() -> None:
    net = network(chain({"n": node("LI")}), learn="tau")
    assert isinstance(net.get_parameter("n:tau"), torch.nn.Parameter)


def test_functional_gradients_are_those_of_a_backward_pass() -> None:
    net = network(chain({"w": node("Affine"), "n": node("LIF")}))
    x = torch.ones(5, 2, 3, device=here())
    weights = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    with use_backend("reference"):  # torch.func does not see through operators in C++
        found = torch.func.grad(lambda w: torch.func.functional_call(net, w, (x,))[0].sum())(weights)
    net(x)[0].sum().backward()
    assert all(torch.equal(found[name], weight.grad) for name, weight in net.named_parameters())
