"""Common combinations of dtypes and sizes, which CUDA runs with a specialized kernel: equal bits."""

from __future__ import annotations

import importlib
import itertools
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from devices import on_each_device
from drawn import assert_equal, counts, inputs, normal
from torch import Tensor

from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, backends, native, reference

C: Any = importlib.import_module("neurocuda._C") if backends.is_usable(backends.backends()["cpu"]) else None
pytestmark = [pytest.mark.emulated, pytest.mark.skipif(C is None, reason="neurocuda._C is not there")]

MANY, FEW = 270_400, 1_005
"""Neurons for several per thread on 132 multiprocessors, and for one per thread."""

When, Reset = Literal["above", "reaching"], Literal["to-value", "subtract"]
BITS = "bits"
F, H, B, U = torch.float32, torch.float16, torch.bfloat16, torch.uint8
FORMS: list[tuple[int, tuple[torch.dtype, ...], torch.dtype | str]] = [
    *((MANY, types, output) for types in ((F,), (F, F), (F, U), (U, F)) for output in (F, U)),
    (MANY, (F,), BITS),
    *((MANY, (half,), output) for half in (H, B) for output in (half, U, BITS)),
    *((MANY, (U,), output) for output in (U, BITS)),
    *((FEW, types, output) for types in ((F,), (F, F)) for output in (F, U)),
    *((FEW, (half,), half) for half in (H, B)),
]


def population(
    size: int, synapse: bool, when: When, reset: Reset, draw: np.random.Generator, channels: int = 1
) -> tuple[NeuronCoefficients, NeuronState]:
    """Coefficients per channel [channels, 1] (or one for all), and the state of `size` neurons."""

    def some(low: float, high: float) -> Tensor:
        shape = (channels, 1) if channels > 1 else (1,)
        return torch.from_numpy(draw.uniform(low, high, shape).astype(np.float32))

    gain = 0.2
    c = NeuronCoefficients(
        some(0.5, 1), some(gain, 1), some(-0.1, 0.1), some(0.5, 1) if synapse else None,
        some(gain, 1) if synapse else None, some(0.2, 1), some(-0.5, 0.5),
        spike_when=when, reset=reset,
    )  # fmt: skip
    shape = (1, channels, size // channels)
    return c, NeuronState(normal(draw, *shape), normal(draw, *shape) if synapse else None)


def in_layout(state: NeuronState, layout: str) -> NeuronState:
    """The state contiguous in memory, expanded from one zero, or with its axes in another memory order."""
    tensors = [state.v, state.i]
    if layout == "rest":
        tensors = [None if t is None else torch.zeros(()).expand_as(t) for t in tensors]
    if layout == "other order":
        tensors = [None if t is None else t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
    assert tensors[0] is not None
    return NeuronState(tensors[0], tensors[1])


def of_output(spikes: Tensor, output: torch.dtype | str) -> Tensor:
    if output == BITS:
        rows = spikes.flatten(1).numpy().astype(bool)
        return torch.from_numpy(np.packbits(rows, axis=1, bitorder="little"))
    assert isinstance(output, torch.dtype)
    return spikes.to(output)


@on_each_device
@pytest.mark.parametrize(("size", "types", "output"), FORMS, ids=str)
def test_equal_bits(size: int, types: tuple[torch.dtype, ...], output: torch.dtype | str) -> None:
    kinds = itertools.product((False, True), get_args(When), get_args(Reset))
    cases = itertools.cycle(((6, "contiguous"), (1, "rest"), (20, "other order"), (4, "rest")))
    for (synapse, when, reset), (steps, layout) in zip(kinds, cases, strict=False):
        draw = np.random.default_rng(steps)
        c, state = population(size, synapse, when, reset, draw, channels=(5, 1)[steps % 2])
        state = in_layout(state, layout)
        signals = [inputs(draw, "real", each, steps, *state.v.shape) for each in types]
        before = plain_launches()
        packed, dtype = output == BITS, None if output == BITS else output
        found, after, _ = native.neuron(signals, c, state, Surrogate(), dtype=dtype, packed=packed)
        owed, owed_after, _ = reference.neuron([x.float() for x in signals], c, state, Surrogate())
        case = (synapse, when, reset, steps, layout)
        assert_equal(found, of_output(owed, output), *case)
        assert_equal(after.v, owed_after.v, *case)
        if synapse:
            assert after.i is not None
            assert owed_after.i is not None
            assert_equal(after.i, owed_after.i, *case)
        counts["neuron"] += 1
        if before is not None:
            assert plain_launches() == before + 1, case


def plain_launches() -> int | None:
    """Launches of the specialized kernel on an emulated device; None on others."""
    if getattr(C, "kernels", "") != "emulated":
        return None
    return sum(number for name, number in C.launches().items() if "neuron_plain" in name)


@on_each_device
def test_other_combinations_use_the_general_kernel() -> None:
    draw = np.random.default_rng(0)
    c, state = population(MANY, False, "above", "to-value", draw)
    x = inputs(draw, "real", torch.float32, 3, *state.v.shape)
    similar = [
        ([x, x.half()], {}),
        ([x, x, x], {}),
        ([x > 0], {"dtype": torch.bool}),
        ([x], {"dtype": torch.float16}),
        ([x], {"record": ["v"]}),
    ]
    for signals, options in similar:
        before = plain_launches()
        found, after, traces = native.neuron(signals, c, state, Surrogate(), **options)
        record = options.get("record", [])
        owed, owed_after, owed_traces = reference.neuron([s.float() for s in signals], c, state, Surrogate(), record)
        assert_equal(found, owed.to(options.get("dtype", torch.float32)), options)
        assert_equal(after.v, owed_after.v, options)
        assert all(torch.equal(traces[name], owed_traces[name]) for name in record)
        assert plain_launches() == before, options
