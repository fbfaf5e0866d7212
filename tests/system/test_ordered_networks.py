"""Networks of large layers and free weights that are summed in the defined order on demand: one result, however run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from commands import command
from torch import Tensor

import neurocuda
from neurocuda import Executor, use_backend

T, B = 6, 3


@pytest.fixture(scope="module")
def large() -> nir.NIRGraph:
    """Two convolutions, a shortcut and a linear layer, each of more than 2^20 multiply-adds; no weight on a grid."""
    draw = np.random.default_rng(0)

    def conv(out: int, into: int) -> nir.Conv2d:
        weight = draw.normal(0, 0.4, (out, into, 3, 3)).astype(np.float32)
        return nir.Conv2d((32, 32), weight, (1, 1), (1, 1), (1, 1), 1, draw.normal(0, 0.1, out).astype(np.float32))

    def fire(*shape: int) -> nir.LIF:
        ones = np.ones(shape)
        return nir.LIF(tau=1e-3 * ones, r=10 * ones, v_leak=0 * ones, v_threshold=ones, v_reset=0 * ones)

    nodes = {
        "input": nir.Input(np.array([16, 32, 32])),
        "conv1": conv(16, 16),
        "lif1": fire(16, 32, 32),
        "conv2": conv(16, 16),
        "lif2": fire(16, 32, 32),
        "flatten": nir.Flatten({"input": np.array([16, 32, 32])}, 0, -1),
        "fc": nir.Linear(draw.normal(0, 0.02, (100, 16 * 32 * 32)).astype(np.float32)),
        "output": nir.Output(np.array([100])),
    }
    return nir.NIRGraph(nodes, [*pairwise(nodes), ("lif1", "lif2")])


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(T, B, 16, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.3


def whole(net: Executor, x: Tensor) -> Tensor:
    y: Tensor = net(x)[0]
    return y


def sample_by_sample(net: Executor, x: Tensor) -> Tensor:
    return torch.cat([net(x[:, n : n + 1])[0] for n in range(B)], 1)


def step_by_step(net: Executor, x: Tensor) -> Tensor:
    state, steps = None, []
    for part in x.split(1):
        y, state = net(part, state)
        steps.append(y)
    return torch.cat(steps)


def on_other_threads(net: Executor, x: Tensor) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        return whole(net, x)
    finally:
        torch.set_num_threads(before)


def by_the_definition(net: Executor, x: Tensor) -> Tensor:
    with use_backend("reference"):
        return whole(net, x)


WAYS: tuple[tuple[Callable[[Executor, Tensor], Tensor], dict[str, Any]], ...] = (
    (whole, {"chunk": 1}),
    (whole, {"chunk": 4}),
    (sample_by_sample, {}),
    (step_by_step, {}),
    (on_other_threads, {}),
    (by_the_definition, {}),
)


@pytest.mark.parametrize(("way", "how"), WAYS)
def test_the_same_bits_however_it_runs(
    way: Callable[[Executor, Tensor], Tensor], how: dict[str, Any], large: nir.NIRGraph, x: Tensor
) -> None:
    with torch.no_grad():
        expected = whole(neurocuda.load(large, ordered=True), x)
        found = way(neurocuda.load(large, ordered=True, **how), x)
    assert expected.any()
    differs = (found != expected).nonzero()
    assert not len(differs), f"first at [T, B, output] {differs[0].tolist()} of {len(differs)}"


def test_it_is_the_users_choice_and_the_schedule_says_so(large: nir.NIRGraph, tmp_path: Path) -> None:
    for ordered, how in ((False, "library"), (True, "ordered")):
        stages = neurocuda.load(large, ordered=ordered).schedule.stages
        found = {entry.node.name: entry for stage in stages for entry in stage.nodes}
        assert {found[name].how for name in ("conv1", "conv2", "fc")} == {how}
        assert ("requested" in found["fc"].why) == ordered
    nir.write(tmp_path / "large.nir", large)
    assert "requested" not in command("info", tmp_path / "large.nir")[0]
    assert "requested" in command("info", tmp_path / "large.nir", "--ordered")[0]


def test_the_command_runs_it(large: nir.NIRGraph, x: Tensor, tmp_path: Path) -> None:
    nir.write(tmp_path / "large.nir", large)
    np.save(tmp_path / "x.npy", x.numpy())
    command("run", tmp_path / "large.nir", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npz", "--ordered")
    with torch.no_grad():
        expected = whole(neurocuda.load(large, ordered=True), x)
    with np.load(tmp_path / "y.npz") as written:
        assert np.array_equal(written["output"], expected.numpy())


def test_the_command_verifies_it(large: nir.NIRGraph, tmp_path: Path) -> None:
    """What library layers need not pass."""
    nir.write(tmp_path / "large.nir", large)
    out, _ = command("verify", tmp_path / "large.nir", "--steps", "3", "--batch", "2", "--ordered")
    report = out.partition("Certificate")[0]
    assert "equal bits in all of them" in report
    assert "library" not in report
