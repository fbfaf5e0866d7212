"""Every variant of the CUDA kernels, chosen by shape and device limits, on emulated devices: equal bits."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from drawn import assert_equal, counts, inputs, normal
from make_nir import numbers
from test_ordered import CONV, ROUTES, Conv, expected_conv, found_conv
from test_recurrent_neuron import FIRES, Population, branch, compiled_arguments

from neurocuda.ops import NeuronState, Surrogate, backends, reference

C: Any = importlib.import_module("neurocuda._C") if backends.is_usable(backends.backends()["cpu"]) else None
pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(getattr(C, "kernels", "") != "emulated", reason="no device is emulated: make emulate"),
]

OPS = torch.ops.neurocuda


@contextmanager
def device(monkeypatch: pytest.MonkeyPatch, **limits: int) -> Iterator[dict[str, int]]:
    """An emulated device with limits; afterwards the dict holds the launches of each kernel."""
    before, launched = C.launches(), {}
    with monkeypatch.context() as patch:
        for name, value in limits.items():
            patch.setenv(f"NEUROCUDA_EMULATION_{name.upper()}", str(value))
        yield launched
    for name, number in C.launches().items():
        if number > before.get(name, 0):
            launched[name.strip("()").split("<")[0]] = number - before.get(name, 0)


class Recurrent(NamedTuple):
    """A population, and device limits that select one variant."""

    variant: str
    shape: tuple[int, ...]
    batch: int
    limits: dict[str, int]
    steps: int = 4


VARIANTS = [
    Recurrent("recurrent_resident", (38,), 41, {"processors": 3}),  # blocks of eight samples, the last of one
    Recurrent("recurrent_resident", (33,), 5, {"processors": 132}),
    Recurrent("recurrent_resident", (2, 20), 9, {"processors": 4}),
    Recurrent("recurrent_resident", (240,), 2, {"processors": 1}),  # the largest that fits
    Recurrent("recurrent_resident", (241,), 3, {"processors": 1}),  # the weight stays in global memory
    Recurrent("recurrent_resident", (512,), 2, {"processors": 132}),
    Recurrent("recurrent_resident", (64,), 7, {"processors": 2, "shared": 4000}),
    Recurrent("recurrent_one_step", (513,), 2, {"processors": 16}),
    Recurrent("recurrent_one_step", (1100,), 2, {"processors": 132, "shared": 64 << 10}),
    Recurrent("recurrent_one_step", (2, 530), 3, {"processors": 33, "blocks": 2}),
    Recurrent("recurrent_grid", (513,), 3, {"processors": 17}),  # one group, a warp for each sample
    Recurrent("recurrent_grid", (513,), 23, {"processors": 19}, steps=3),  # more samples than warps
    Recurrent("recurrent_grid", (520,), 37, {"processors": 36}, steps=3),  # two groups
    Recurrent("recurrent_grid", (2, 530), 2, {"processors": 72}),
    Recurrent("recurrent_grid", (1100,), 2, {"processors": 132}),
]


@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_recurrent(case: Recurrent, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, fires in enumerate(FIRES):
        draw = numbers("ways", case, fires)
        synapse = (None, "updated", "previous")[draw.integers(3)]
        population = Population(case.shape, synapse, fires, ("to-value", "subtract")[number % 2], "neuron")
        c = population.coefficients(draw, case.batch)
        shape = (case.batch, *case.shape)
        branches = [branch(draw, (case.steps, *shape)) for _ in range(1 + 2 * (number % 2))]
        place = int(draw.integers(len(branches) + 1))
        weight = normal(draw, *case.shape, case.shape[-1], scale=0.5 / case.shape[-1] ** 0.5)
        bias = normal(draw, *case.shape, scale=0.1) if number % 3 else None
        state = NeuronState(normal(draw, *shape, scale=0.1), normal(draw, *shape, scale=0.1) if synapse else None)
        spikes = normal(draw, *shape) if number % 2 else inputs(draw, 0.3, torch.float32, *shape)
        output, after, last, traces = reference.recurrent_neuron(
            [x.float() for x in branches], place, weight, bias, c, state, spikes, Surrogate(), ["v", "recurrent"]
        )
        tensors, kind = compiled_arguments(c)
        with device(monkeypatch, **case.limits) as launched:
            found = OPS.recurrent_neuron(
                branches, place, weight, bias, state.v, state.i, spikes, *tensors, **kind, dtype=torch.float32,
                trace_v=True, trace_recurrent=True,
            )  # fmt: skip
        assert case.variant in launched, launched
        expected = [output, after.v, after.i, last, traces["v"], None, traces["recurrent"]]
        for result, value in zip(found, expected, strict=True):
            if value is not None:
                assert_equal(result, value, case, fires)
        counts[f"variants of {case.variant}"] += 1


@pytest.mark.parametrize("limits", [{"processors": 132}, {"processors": 1, "blocks": 2}], ids=str)
@pytest.mark.parametrize("rows", [3, 33, 200])
@pytest.mark.parametrize("out", [3, 16, 70])
def test_linear(out: int, rows: int, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    draw = numbers("ways of linear", out, rows)
    for into, density, batch in ((1100, 0.02, ()), (65, 0.4, (2,)), (64, 1.0, ()), (31, "real", (3,)), (0, 1.0, ())):
        x = inputs(draw, density, torch.float32, rows, *batch, into)
        weight, bias = normal(draw, *batch, out, into), normal(draw, *batch, out)
        expected = reference.ordered_linear(x, weight, bias)
        for route in ROUTES:
            with device(monkeypatch, **limits) as launched:
                found = OPS.ordered_linear(x, weight, bias, route=route)
            assert_equal(found, expected, into, density, route)
            assert ("ordered_lists" in launched) == (rows <= 32)
            counts["variants of ordered_linear"] += 1


@pytest.mark.parametrize("limits", [{"processors": 132}, {"processors": 1, "blocks": 2}], ids=str)
@pytest.mark.parametrize("case", [*CONV[:4], CONV[5], CONV[13]], ids=str)
def test_conv(case: Conv, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    draw = numbers("ways of conv", case)
    for density in (0.02, 0.4, "real"):
        x = inputs(draw, density, torch.uint8 if density == 0.02 else torch.float32, 2, case.into, *case.space)
        weight, bias = case.weight(draw), normal(draw, case.out)
        expected = expected_conv(x.float(), weight, bias, case)
        for route in ROUTES:
            with device(monkeypatch, **limits):
                assert_equal(found_conv(x, weight, bias, case, route=route), expected, density, route)
            counts["variants of ordered_conv"] += 1


def test_packed_weights_that_are_not_aligned() -> None:
    draw = numbers("aligned")
    x, weight = normal(draw, 40, 12), normal(draw, 9, 12)
    prepacked = OPS.ordered_linear_prepack(weight)
    shifted = torch.empty(prepacked.numel() + 1)[1:].view(prepacked.shape).copy_(prepacked)
    assert_equal(OPS.ordered_linear(x, weight, prepacked=shifted), reference.ordered_linear(x, weight, None))
