"""The membrane potentials before the first step: zero, v_reset, v_leak, or those of a file."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captured import captured
from devices import here
from graph_checks import read
from raw_nodes import chain, node
from stateful import built, busy, drive, network
from torch import Tensor

import neurocuda
from neurocuda import Discretization, Executor, GraphError, nn
from neurocuda.discretization.coefficients import INITIAL_V
from neurocuda.ops.backends import use_backend


def lone(type: str, discretization: Discretization, metadata: Any = None, **fields: Any) -> Executor:
    raw = chain({"n": {**node(type, **fields), "metadata": metadata or {}}}, (1,))
    return network(raw, discretization=discretization)


def spikes(v: np.float32, x: list[float], decay: float, gain: float, leak: float, reset: float, reaching: bool) -> Any:
    """A neuron with threshold 1, by hand: dv = decay (leak - v) + gain x."""
    found = []
    for value in x:
        v = np.float32(v + np.float32(decay) * (np.float32(leak) - v) + np.float32(gain * value))
        fired = v >= 1 if reaching else v > 1
        found.append(float(fired))
        v = np.float32(reset) if fired else v
    return found


def run(net: Executor, x: list[float]) -> Any:
    y, _ = net(torch.tensor(x, device=here()).reshape(-1, 1, 1))
    return y.flatten().tolist()


def test_spikingjelly_starts_at_v_reset() -> None:
    """IFNode(v_threshold=1, v_reset=0.25) of SpikingJelly 2.0.0, as its exporter writes it: r = 1 / dt."""
    net = lone("IF", Discretization.spikingjelly(initial_state="v_reset"), r=1e4, v_threshold=1.0, v_reset=0.25)
    x = [0.25] * 12
    assert run(net, x) == spikes(np.float32(0.25), x, 0.0, 1.0, 0.0, 0.25, True)


def test_norse_starts_at_v_leak() -> None:
    """LIF of Norse 1.1.0 with v_leak = 0.5 and dt = 1 ms."""
    d = Discretization.norse(initial_state="v_leak")
    net = lone("LIF", d, tau=0.01, r=1.0, v_leak=0.5, v_threshold=1.0, v_reset=0.0)
    x = [0.9] * 30
    assert run(net, x) == spikes(np.float32(0.5), x, 0.1, 0.1, 0.5, 0.0, False)


@pytest.mark.parametrize(
    ("type", "setting", "fields", "expected"),
    [
        ("I", "v_reset", {"r": 1e4}, 0.0),
        ("LI", "v_reset", {"v_leak": 0.5}, 0.0),
        ("LI", "v_leak", {"v_leak": 0.5}, 0.5),
        ("IF", "v_leak", {"v_reset": 0.25}, 0.0),
        ("IF", "v_reset", {"v_reset": 0.25}, 0.25),
        ("CubaLIF", "v_leak", {"v_leak": -0.5, "v_reset": 0.25}, -0.5),
        ("CubaLIF", "v_reset", {"v_leak": -0.5, "v_reset": 0.25}, 0.25),
        ("CubaLI", "v_leak", {"v_leak": -0.5}, -0.5),
    ],
)
def test_the_potential_before_the_first_step(type: str, setting: Any, fields: Any, expected: float) -> None:
    """After no steps the state is the one before the first."""
    taus = () if type in ("I", "IF") else ("tau",) if "Cuba" not in type else ("tau_syn", "tau_mem")
    fields = {"r": 1e4, **dict.fromkeys(taus, 1e-3), **({"v_threshold": 1.0} if type.endswith("IF") else {}), **fields}
    for d, start in (
        (Discretization(initial_state=setting), expected),
        (Discretization(initial_state=setting, reset_to="zero"), 0.0 if setting == "v_reset" else expected),
    ):
        _, state = lone(type, d, **fields)(torch.zeros(0, 2, 1, device=here()))
        assert state.tensors["n.v"].tolist() == [[start], [start]], d
    stated = lone(type, Discretization(initial_state=setting), {INITIAL_V: 0.75}, **fields)
    assert stated(torch.zeros(0, 1, 1, device=here()))[1].tensors["n.v"].item() == 0.75
    module = getattr(nn, type)(**fields, discretization=Discretization(initial_state=setting)).to(here())
    net = lone(type, Discretization(initial_state=setting), **fields)
    x = torch.ones(4, 2, 1, device=here())
    assert torch.equal(module(x), net(x)[0])


def two_starts() -> tuple[dict[str, Any], Discretization]:
    raw = busy()
    raw["nodes"]["a"] |= {"v_reset": np.array([0.125, 0.25, -0.25, 0.0])}
    raw["nodes"]["held"] |= {"metadata": {INITIAL_V: np.array([0.5, 0.25, 0.0, -1.0])}}
    return raw, Discretization(initial_state="v_reset")


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("simulated", [False, True])
def test_every_call_from_rest_starts_there(frozen: bool, simulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, d = two_starts()
    net = network(raw, discretization=d, frozen=frozen)
    if simulated:
        captured(net, monkeypatch)
    for x in (drive(), drive(batch=2)):
        for factor in (1.0, 1.0, 1.5):
            for name, value in net.named_buffers():
                if name == "a:v_reset":
                    value.mul_(factor)
            with use_backend("reference"):
                expected, after = net(x)
                recorded = net.run(x, record={"a": "v"}).recordings["a"]["v"]
            for call in range(4):
                with torch.no_grad():
                    y, state = net(x)
                assert torch.equal(y, expected), (factor, call)
                assert all(torch.equal(state.tensors[name], after.tensors[name]) for name in after.tensors)
            assert torch.equal(net.run(x, record={"a": "v"}).recordings["a"]["v"], recorded)
            parts, state = [], None
            for step in x.split(1):
                y, state = net(step, state)
                parts.append(y)
            assert torch.equal(torch.cat(parts), expected), factor


def test_gradients_reach_the_start() -> None:
    raw, d = two_starts()

    def gradients(backend: str) -> dict[str, Tensor]:
        with use_backend(backend) if backend else nullcontext():
            net = network(raw, discretization=d, learn={"v_reset", "v_leak"})
            x = drive().requires_grad_()
            net(x)[0].square().sum().backward()
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    found, expected = gradients(""), gradients("reference")
    assert "a:v_reset" in expected
    assert bool(expected["a:v_reset"].any())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=0, msg=name)  # float32 sums in another order


@pytest.mark.parametrize("value", ["0.5", np.nan, np.inf, 1e300, np.zeros(3), np.zeros((2, 2)), {"v": 1.0}])
def test_a_stated_potential_that_does_not_fit_is_refused(value: Any, tmp_path: Path) -> None:
    raw = chain({"n": {**node("LIF"), "metadata": {INITIAL_V: value}}}, (2,))
    graph = read(raw, tmp_path / "graph.nir")
    with pytest.raises(GraphError, match=f"node 'n'.*{INITIAL_V}.*expected .*found"):
        neurocuda.load(graph)


def test_certificates_know_the_start() -> None:
    raw = chain({"held": node("I", r=1e4), "w": node("Linear", weight=np.ones((1, 1), np.float32))}, (1,))
    proof = neurocuda.certify(built(raw), steps=8).proofs[0]
    assert proof.exact, proof
    raw["nodes"]["held"] |= {"metadata": {INITIAL_V: 0.3}}
    proof = neurocuda.certify(built(raw), steps=8).proofs[0]
    assert not proof.exact
    assert "held" in proof.reason
    assert "potential other than zero" in proof.reason
