"""Neuron modules: the bits of an executor, state, parameters, gradients, copies, errors."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from comparison import graph_of
from raw_nodes import chain
from torch import Tensor

import neurocuda
from neurocuda import ArgumentError, Discretization, Executor, NeuroCUDAWarning, State, Surrogate, nn, use_backend
from neurocuda.graph import PRIMITIVES
from neurocuda.ops import backends

DT = 1e-4
SHAPE = (3, 4, 2)
KINDS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")
FIELDS = {
    "I": ("r",),
    "IF": ("r", "v_threshold", "v_reset"),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
}
CHOICES = {"tau": 3 * DT, "tau_syn": 2 * DT, "tau_mem": 4 * DT, "v_leak": 0.25, "v_reset": -0.125, "w_in": 1.5}
SIZES = {"one": (), "channel": SHAPE[:1], "channel and row": SHAPE[:2], "full": SHAPE, "column": (1, 1, SHAPE[2])}

DISCRETIZATIONS = {
    "as it is": Discretization(),
    "exponential": Discretization(integrator="exponential"),
    "reaching": Discretization(spike_when="reaching"),
    "subtract": Discretization(reset="subtract"),
    "previous": Discretization(synapse="previous"),
    "many": Discretization(spike_when="reaching", reset="subtract", spikes_per_step="many"),
    "gain r": Discretization(if_gain="r"),
    "late": Discretization(output_delay=1, reset="subtract"),
    "other step": Discretization(dt=2.5e-4, integrator="exponential"),
    "feedback": Discretization(feedback="weight-output"),
}


def parameters(kind: str, d: Discretization, size: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Values about those of CHOICES, float64, that no narrower type holds."""
    numbers = np.random.default_rng(seed)
    unit = 1.0 if d.if_gain == "r" or kind not in ("I", "IF") else 1 / d.dt
    base = {**CHOICES, "r": 1.5 * unit, "v_threshold": 0.75}
    return {name: base[name] * numbers.uniform(0.8, 1.25, size) for name in FIELDS[kind]}


def module(kind: str, values: dict[str, Any], **options: Any) -> nn.Neuron:
    neuron = getattr(nn, kind)(**values, **options)
    assert isinstance(neuron, nn.Neuron)
    return neuron


def executor(kind: str, values: dict[str, Any], shape: tuple[int, ...], **options: Any) -> Executor:
    arrays = {name: np.asarray(value, np.float64) for name, value in values.items()}
    return Executor(graph_of(chain({"n": {"type": kind, **arrays}}, shape)), **options)


def drive(steps: int = 17, batch: int = 5, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    return torch.randn(steps, batch, *shape, generator=torch.Generator().manual_seed(seed)) + 0.5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DISCRETIZATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_has_the_bits_of_an_executor(kind: str, name: str, size: str) -> None:
    """In one call, and in three calls with the state passed on."""
    d = DISCRETIZATIONS[name]
    values = parameters(kind, d, SIZES[size])
    neuron, net = module(kind, values, discretization=d), executor(kind, values, SHAPE, discretization=d)
    x = drive()
    with torch.no_grad():
        expected, after = net(x)
        y, state = neuron(x, return_state=True)
        assert torch.equal(y, expected)
        for quantity, tensor in state.tensors.items():
            assert torch.equal(tensor, after.tensors[f"n.{quantity}"]), quantity
        assert {f"n.{quantity}" for quantity in state.tensors} == set(after.tensors)
        pieces, carried = [], None
        for part in x.split([1, 9, 7]):
            piece, carried = neuron(part, carried, return_state=True)
            pieces.append(piece)
        assert torch.equal(torch.cat(pieces), expected)
        with use_backend("reference"):
            assert torch.equal(neuron(x), expected)
    if PRIMITIVES[kind].is_spiking:
        assert 0.02 < expected.clamp(max=1).mean() < 0.98


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (3,), (3, 6)])
def test_signals_of_any_rank(kind: str, shape: tuple[int, ...]) -> None:
    values = parameters(kind, Discretization(), shape[:1])
    x = drive(9, 2, shape)
    expected, _ = executor(kind, values, shape)(x)
    y = module(kind, values)(x)
    assert torch.equal(y, expected)
    assert y.shape == x.shape
    assert y[:0].shape == module(kind, values)(x[:0]).shape


@pytest.mark.parametrize("layout", ["transposed", "channels last", "expanded"])
def test_signals_of_any_layout(layout: str) -> None:
    neuron = module("LIF", parameters("LIF", Discretization(), SHAPE[:1]))
    x = drive()
    odd = {
        "transposed": x.movedim(0, -1).contiguous().movedim(-1, 0),
        "channels last": x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
        "expanded": x[:1].expand(x.shape),
    }[layout]
    assert not odd.is_contiguous()
    assert torch.equal(neuron(odd), neuron(odd.contiguous()))


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.bool])
def test_narrower_types(dtype: torch.dtype, late: Any) -> None:
    """Exact in float32; a floating-point dtype is that of the output."""
    x = (drive() * 4).round().clamp(0, 5).to(dtype)
    neuron = module("LIF", {"tau": 3 * DT, "v_threshold": 0.25}, discretization=Discretization(output_delay=late))
    for backend in [name for name, state in backends.backends().items() if name in ("cpu", "reference")]:
        if backends.is_usable(backends.backends()[backend]):
            with use_backend(backend):
                y, expected = neuron(x), neuron(x.float())
            assert y.dtype == (dtype if dtype.is_floating_point else torch.float32)
            assert torch.equal(y.float(), expected)
            assert expected.any()


LEARNT = [(kind, name) for kind in KINDS for name in ("as it is", "subtract", "late")]


@pytest.mark.parametrize("size", ["one", "channel", "full"])
@pytest.mark.parametrize(("kind", "name"), LEARNT)
def test_gradients_are_those_of_the_reference(kind: str, name: str, size: str) -> None:
    """To the input, the state, and every parameter; those of an executor, bit for bit, and those of autograd."""
    d, surrogate = DISCRETIZATIONS[name], Surrogate("arctan", 2.0)
    values = parameters(kind, d, SIZES[size])
    x = drive()
    weights = drive(seed=1)

    def gradients(run: Callable[[Tensor], Tensor], of: torch.nn.Module) -> dict[str, Tensor]:
        x_ = x.clone().requires_grad_()
        (run(x_) * weights).sum().backward()
        assert x_.grad is not None
        found = {name.rpartition(":")[2]: p.grad for name, p in of.named_parameters() if p.grad is not None}
        return {"x": x_.grad, **found}

    neuron = module(kind, values, discretization=d, surrogate=surrogate, learn=FIELDS[kind])
    found = gradients(neuron, neuron)
    assert {name for name, _ in neuron.named_parameters()} == set(FIELDS[kind])
    twin = copy.deepcopy(neuron)
    twin.zero_grad()
    with use_backend("reference"):
        by_autograd = gradients(twin, twin)
    net = executor(kind, values, SHAPE, discretization=d, surrogate=surrogate, learn=FIELDS[kind])
    expected = gradients(lambda x: net(x)[0], net)
    assert set(found) - {"v_reset"} == set(expected) - {"v_reset"}
    for name, gradient in found.items():
        assert gradient.any() or name == "v_reset", name
        aligned = expected[name].reshape(gradient.shape) if name in expected else gradient
        assert torch.equal(gradient, aligned), name
        torch.testing.assert_close(gradient, by_autograd.get(name, gradient), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_through_the_state(kind: str) -> None:
    neuron = module(kind, parameters(kind, Discretization(), ()))
    whole, halves = drive().requires_grad_(), drive().requires_grad_()
    weights = drive(seed=1)
    (neuron(whole) * weights).sum().backward()
    first, state = neuron(halves[:8], return_state=True)
    (torch.cat([first, neuron(halves[8:], state)]) * weights).sum().backward()
    assert whole.grad is not None
    assert whole.grad.any()
    assert halves.grad is not None
    torch.testing.assert_close(halves.grad, whole.grad)
    x = drive().requires_grad_()
    _, state = neuron(x[:8], return_state=True)
    neuron(x[8:], state.detach()).sum().backward()
    assert x.grad is not None
    assert not x.grad[:8].any()


def test_keep_state() -> None:
    values = parameters("CubaLIF", Discretization(), ())
    keeps, plain = module("CubaLIF", values, keep_state=True), module("CubaLIF", values)
    x = drive()
    whole, last = plain(x, return_state=True)
    assert torch.equal(torch.cat([keeps(x[:6]), keeps(x[6:])]), whole)
    assert keeps.state is not None
    for name, tensor in last.tensors.items():
        assert torch.equal(keeps.state.tensors[name], tensor)
    assert not torch.equal(keeps(x), whole)
    nn.reset_state(torch.nn.Sequential(torch.nn.Identity(), keeps))
    assert keeps.state is None
    assert torch.equal(keeps(x), whole)
    assert torch.equal(plain(x), whole)
    assert plain.state is None
    again = keeps(x[6:], plain(x[:6], return_state=True)[1])  # an explicit state replaces the kept one
    assert torch.equal(again, whole[6:])


def test_detach_state() -> None:
    model = torch.nn.Sequential(nn.LI(3 * DT, keep_state=True), nn.LI(2 * DT, keep_state=True))
    for _ in range(3):
        x = drive().requires_grad_()
        model(x).sum().backward()
        nn.detach_state(model)
    model(drive().requires_grad_()).sum().backward()
    loss = model(drive().requires_grad_()).sum()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_an_input_of_one_adds_one_without_r() -> None:
    for d in (Discretization(), Discretization(dt=3e-3), Discretization(if_gain="r"), Discretization(dt=1.0)):
        x = drive().round()
        assert torch.equal(nn.I(discretization=d)(x), x.cumsum(0))
        assert torch.equal(
            nn.IF(discretization=d)(torch.full((7, 1), 0.5)).flatten(), torch.tensor([0, 0, 1.0] * 3)[:7]
        )


def small() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        nn.PerStep(torch.nn.Conv2d(2, 4, 3, padding=1)),
        nn.LIF(np.linspace(4, 9, 4) * DT / 3, r=8 / 3, learn="tau", keep_state=True),
        nn.PerStep(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 3))),
        nn.CubaLI(tau_syn=2 * DT, tau_mem=3 * DT),
    )


def run(model: torch.nn.Module) -> Tensor:
    nn.reset_state(model)
    with torch.no_grad():
        y: Tensor = model(drive(6, 3, (2, 5, 5)).to(next(model.parameters()).dtype))
    return y


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_equal_and_independent(name: str) -> None:
    model = small()
    expected = run(model)
    model(drive(6, 3, (2, 5, 5)))  # leaves a kept state with gradients
    other = COPIES[name](model)
    x = drive(4, 3, (2, 5, 5))
    assert torch.equal(other(x), model(x))  # from the kept state
    assert torch.equal(run(other), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    assert torch.equal(run(model), expected)
    assert not torch.equal(run(other), expected)


def test_state_dict() -> None:
    model, other = small(), small()
    assert {name for name in model.state_dict() if name[0] == "1"} == {f"1.{name}" for name in FIELDS["LIF"]}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.mul_(1.25)
    assert not torch.equal(run(other), run(model))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(run(other), run(model))


CASTS: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "double and float": lambda model: model.double().float(),
    "device": lambda model: model.to("cpu", torch.float32),
}


@pytest.mark.parametrize("name", CASTS)
def test_casts_keep_neuron_parameters(name: str) -> None:
    model = small()
    run(model)
    neurons = (1, 3)
    before = {n: t.detach().clone() for k in neurons for n, t in model[k].state_dict(prefix=f"{k}.").items()}
    gradient = torch.ones_like(model[1].tau)
    model[1].tau.grad = gradient.clone()
    cast = CASTS[name](model)
    assert cast is model
    for n, tensor in before.items():
        assert model.state_dict()[n].dtype == torch.float64
        assert torch.equal(model.state_dict()[n], tensor)
    assert isinstance(model[1].tau, torch.nn.Parameter)
    assert torch.equal(model[1].tau.grad, gradient)
    assert model[1].state is not None
    assert model[1].state.tensors["v"].dtype == torch.float32
    assert run(model).dtype == next(model.parameters()).dtype


def test_meta_device() -> None:
    model = small().to("meta")
    assert model[1].tau.device.type == "meta"
    assert model(torch.empty(6, 3, 2, 5, 5, device="meta")).shape == (6, 3, 3)


def test_autocast() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, state = nn.LIF(3 * DT)(nn.PerStep(torch.nn.Linear(5, 4))(drive(6, 3, (5,))), return_state=True)
    assert y.dtype == torch.bfloat16
    assert state.tensors["v"].dtype == torch.float32


@pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there")
def test_torch_compile_and_export() -> None:
    model = small()
    compiled = torch.compile(model, fullgraph=True)
    x = drive(6, 3, (2, 5, 5))
    with torch.no_grad():
        for _ in range(2):  # from rest, then from the kept state
            nn.reset_state(model)
            expected = [model(x), model(x)]
            nn.reset_state(model)
            found = [compiled(x), compiled(x)]
            assert all(map(torch.equal, found, expected))
            assert not torch.equal(*expected)
    nn.reset_state(model)
    model(x).square().sum().backward()
    expected_grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    nn.reset_state(model)
    compiled(x).square().sum().backward()
    rounded = x.numel() / 2 * torch.finfo(torch.float32).eps  # sums over time, batch and space, in another order
    for name, p in model.named_parameters():
        largest = float(expected_grads[name].abs().max())
        torch.testing.assert_close(p.grad, expected_grads[name], rtol=rounded, atol=rounded * largest, msg=name)
    plain = torch.nn.Sequential(*small()[2:])
    spikes = drive(6, 3, (4, 5, 5)).round()
    exported = torch.export.export(plain, (spikes,)).module()
    assert torch.equal(exported(spikes), plain(spikes))


def test_nodes() -> None:
    """The node of a module, written into a graph, is what an executor runs."""
    values = parameters("CubaLIF", Discretization(), SHAPE[:1])
    neuron = module("CubaLIF", {**values, "r": np.full(SHAPE, 2.0)}, learn="tau_mem")
    node = neuron.node("some.name", SHAPE)
    assert (node.name, node.type, node.input_shape, node.output_shape) == ("some.name", "CubaLIF", SHAPE, SHAPE)
    assert node.array("tau_mem").shape == SHAPE[:1]
    assert node.array("r").shape == ()
    assert {node.array(name).dtype for name in node.parameters} == {np.dtype(np.float64)}
    with torch.no_grad():
        neuron.tau_mem.mul_(2)
    assert np.array_equal(neuron.node("n", SHAPE).array("tau_mem"), node.array("tau_mem") * 2)


def test_per_step_folds_time_into_the_batch() -> None:
    x = drive(6, 3, (2, 5, 5))
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.MaxPool2d(2))
    twin = copy.deepcopy(layer)
    y = nn.PerStep(layer)(x)
    assert torch.equal(y, twin(x.flatten(0, 1)).unflatten(0, (6, 3)))
    assert torch.equal(layer[1].running_mean, twin[1].running_mean)
    layer.eval()
    torch.testing.assert_close(nn.PerStep(layer)(x), torch.stack([layer(frame) for frame in x]))
    assert nn.PerStep(layer)(x[:0]).shape == (0, 3, 4, 1, 1)


def test_repr() -> None:
    text = str(nn.LIF([2e-3] * 3, 1.5, learn=("tau",), discretization=Discretization(dt=1e-3, reset="subtract")))
    assert text == (
        "LIF(tau[3] 0.002..0.002, r=1.5, v_leak=0, v_threshold=1, v_reset=0, learn=(tau), dt=0.001, reset='subtract')"
    )


LIF3 = nn.LIF([2e-4, 3e-4, 4e-4])
KEEPS = nn.LIF(3e-4, keep_state=True)
KEEPS(torch.zeros(2, 3, 4))

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no number": (lambda: nn.LIF("fast"), "LIF, tau: expected real numbers"),
    "ragged": (lambda: nn.LIF([[1], [1, 2]]), "LIF, tau: expected real numbers"),
    "negative": (lambda: nn.LIF([1e-3, -1e-3]), "LIF, tau: expected values > 0, found -0.001 at index (1,)"),
    "NaN": (lambda: nn.CubaLI(1e-3, 1e-3, w_in=float("nan")), "CubaLI, w_in: expected finite numbers, found nan"),
    "overflow": (lambda: nn.IF(1e300), "IF, coefficient 'gain_v': expected finite float32 numbers, found overflow"),
    "none": (lambda: nn.IF(v_threshold=torch.zeros(0)), "IF, v_threshold: expected at least one value"),
    "learned elsewhere": (
        lambda: nn.LIF(torch.nn.Parameter(torch.ones(3))),
        "LIF, tau: expected a tensor without gradients, found one with gradients (learn='tau'",
    ),
    "unknown to learn": (lambda: nn.LI(1.0, learn=("tua",)), "LI, learn: expected some of ['tau', 'r', 'v_leak']"),
    "no discretization": (lambda: nn.IF(discretization="euler"), "IF, discretization: expected a Discretization"),
    "no surrogate": (lambda: nn.LI(1.0, surrogate=5), "LI, surrogate: expected a Surrogate, found 5 (int)"),
    "many from no threshold": (
        lambda: nn.IF(v_threshold=-1.0, discretization=Discretization.sinabs()),
        "IF, v_threshold: expected values > 0 with spikes_per_step='many', found -1",
    ),
    "no tensor": (lambda: LIF3(np.zeros((2, 3, 3))), "LIF, x: expected a tensor [T, B, *shape]"),
    "no axes": (lambda: LIF3(torch.zeros(3)), "LIF, x: expected a tensor [T, B, *shape]"),
    "float64": (lambda: LIF3(torch.zeros(2, 3, 3).double()), "a dtype exact in it, found (2, 3, 3) torch.float64"),
    "no time": (lambda: LIF3(torch.zeros(2, 3)), "LIF, tau: expected one number, or the first axes of"),
    "other channels": (lambda: LIF3(torch.zeros(2, 2, 4)), "of a signal [T, B, 4], found shape (3,)"),
    "elsewhere": (lambda: LIF3(torch.zeros(2, 2, 3, device="meta")), "LIF, x: expected a tensor on cpu, found one on"),
    "no state": (lambda: LIF3(torch.zeros(2, 2, 3), torch.zeros(2, 3)), "LIF, state: expected the State"),
    "state of another": (
        lambda: LIF3(torch.zeros(2, 2, 3), nn.CubaLI(1.0, 1.0)(torch.zeros(2, 2, 3), return_state=True)[1]),
        "LIF, state: expected entries ['v'], found a difference in ['i']",
    ),
    "state of another batch": (
        lambda: LIF3(torch.zeros(2, 2, 3), State({"v": torch.zeros(5, 3)})),
        "LIF, state, entry 'v': expected (2, 3) torch.float32 on cpu, found (5, 3)",
    ),
    "kept of another batch": (
        lambda: KEEPS(torch.zeros(2, 2, 4)),
        "the kept state does not fit this input: call",
    ),
    "node of another shape": (lambda: LIF3.node("n", (4,)), "LIF, tau: expected one number"),
    "PerStep of a function": (lambda: nn.PerStep(torch.relu), "PerStep, module: expected a torch.nn.Module"),
    "PerStep of a frame": (lambda: nn.PerStep(torch.nn.ReLU())(torch.zeros(3)), "PerStep, x: expected a tensor [T, B"),
    "PerStep that joins frames": (
        lambda: nn.PerStep(torch.nn.Flatten(0))(torch.zeros(2, 3, 4)),
        "PerStep, output of Flatten: expected a tensor [6, ...], one row for each time step and sample, found",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ArgumentError, match=re.escape(message)):
        call()


def test_coarse_steps_warn() -> None:
    with pytest.warns(NeuroCUDAWarning, match=re.escape("LIF: tau = 5e-05 s is shorter than dt = 0.0001 s")) as caught:
        nn.LIF(5e-5)
    assert [warning.filename for warning in caught] == [__file__]


def test_public_names() -> None:
    assert neurocuda.nn is nn
    assert set(KINDS) < set(nn.__all__)
