"""Infinite thresholds and time constants: a neuron that never fires, a membrane that does not leak."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import oracle
import pytest
import torch
from make_nir import DT, graph, input_, linear, neuron, output, signal
from torch import Tensor

import neurocuda
from neurocuda import Discretization, Executor
from neurocuda.discretization import PRESETS
from neurocuda.discretization.coefficients import coefficients, neuron_parameters
from neurocuda.graph import Graph, build

INF = np.inf
NEURONS = ("IF", "LIF", "CubaLIF")


def network(kind: str, **changes: object) -> dict[str, object]:
    return graph("in>w w>n n>out", **{"in": input_(4)}, w=linear(4, 4), n=neuron(kind, 4, **changes), out=output(4))


def read(raw: dict[str, object]) -> Graph:
    found, problems = build(raw, "graph", None)
    assert found is not None, problems
    return found


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", NEURONS)
def test_a_neuron_with_an_infinite_threshold_never_fires(kind: str, preset: str) -> None:
    d = Discretization.preset(preset, dt=DT)
    read_out = read(network(kind, v_threshold=np.array([1, INF, 1, INF])))
    c = coefficients(read_out.nodes["n"], neuron_parameters(read_out.nodes["n"]), d)
    values = [getattr(c, field.name) for field in fields(c)]
    assert all(value.isfinite().all() for value in values if isinstance(value, Tensor))
    x = torch.from_numpy(signal(40, 2, 4))
    for frozen in (False, True):
        result = Executor(read_out, d, frozen=frozen).run(x, record={"n": ("spikes", "v")})
        assert result.recordings["n"]["v"].isfinite().all()
        assert not result.recordings["n"]["spikes"][..., [1, 3]].any()
        assert result.recordings["n"]["spikes"][..., [0, 2]].any()
    finite = Executor(read(network(kind, v_threshold=np.array([1.0, 1e30, 1.0, 1e30]))), d)
    assert torch.equal(result.output, finite(x)[0])


@pytest.mark.parametrize("integrator", ["euler", "exponential"])
@pytest.mark.parametrize("kind", ["LI", "LIF", "CubaLI", "CubaLIF"])
def test_an_infinite_time_constant_does_not_leak(kind: str, integrator: str) -> None:
    names = ("tau",) if kind in ("LI", "LIF") else ("tau_mem", "tau_syn")
    raw = network(kind, **{name: np.array([INF, 4 * DT, INF, 4 * DT]) for name in names})
    node = read(raw).nodes["n"]
    c = coefficients(node, neuron_parameters(node), Discretization(integrator=integrator))
    for decay, gain in ((c.decay_v, c.gain_v), (c.decay_i, c.gain_i)):
        if decay is not None and gain is not None:
            assert decay[[0, 2]].tolist() == [1, 1]
            assert gain[[0, 2]].tolist() == [0, 0]
            assert gain[[1, 3]].all()
    x = signal(30, 2, 4)
    expected = oracle.run(raw, {"in": x}, {"integrator": integrator}).outputs["out"]
    assert torch.equal(
        Executor(read(raw), Discretization(integrator=integrator))(torch.from_numpy(x))[0], torch.from_numpy(expected)
    )


def test_an_infinite_threshold_is_learned_quantized_written_and_certified(tmp_path: object) -> None:
    read_out = read(network("IF", v_threshold=np.array([1, INF, 1, 1])))
    net = Executor(read_out, learn=("v_threshold",))
    net(torch.from_numpy(signal(40, 2, 4)))[0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    neurocuda.write(read_out, f"{tmp_path}/copy.nir")
    assert neurocuda.read(f"{tmp_path}/copy.nir").nodes["n"].array("v_threshold").tolist() == [1, INF, 1, 1]
    for reset in ("to-value", "subtract"):
        d = Discretization(reset=reset)
        quantized = neurocuda.quantize(read_out, discretization=d).graph
        assert quantized.nodes["n"].array("v_threshold")[1] == INF
        assert Executor(quantized, d).run(torch.from_numpy(signal(40, 2, 4)), record={"n": ("v",)})
