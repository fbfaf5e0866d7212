"""Populations as networks have them, large enough for the kernel that CUDA has for their form: equal bits."""

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

from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, backends, compiled, reference

C: Any = importlib.import_module("neurocuda._C") if backends.serves(backends.backends()["cpu"]) else None
pytestmark = pytest.mark.skipif(C is None, reason="neurocuda._C is not there")

SIZE = 270_400
"""Neurons of which threads take several on 132 multiprocessors."""

When, Reset = Literal["above", "reaching"], Literal["to-value", "subtract"]
BITS = "bits"
FORMS = [
    *((torch.float32, output, branches) for output in (torch.float32, torch.uint8) for branches in (1, 2)),
    (torch.float32, BITS, 1),
    *((half, output, 1) for half in (torch.float16, torch.bfloat16) for output in (half, torch.uint8, BITS)),
    *((torch.uint8, output, 1) for output in (torch.uint8, BITS)),
]


def population(
    synapse: bool, when: When, reset: Reset, draw: np.random.Generator, channels: int = 1
) -> tuple[NeuronCoefficients, NeuronState]:
    """Coefficients for each of some channels [channels, 1], or one, and the state of SIZE neurons."""

    def some(low: float, high: float) -> Tensor:
        shape = (channels, 1) if channels > 1 else (1,)
        return torch.from_numpy(draw.uniform(low, high, shape).astype(np.float32))

    gain = 0.2
    c = NeuronCoefficients(
        some(0.5, 1), some(gain, 1), some(-0.1, 0.1), some(0.5, 1) if synapse else None,
        some(gain, 1) if synapse else None, some(0.2, 1), some(-0.5, 0.5),
        spike_when=when, reset=reset,
    )  # fmt: skip
    shape = (1, channels, SIZE // channels)
    return c, NeuronState(normal(draw, *shape), normal(draw, *shape) if synapse else None)


def of_output(spikes: Tensor, output: torch.dtype | str, dtype: torch.dtype) -> Tensor:
    if output == BITS:
        rows = spikes.flatten(1).numpy().astype(bool)
        return torch.from_numpy(np.packbits(rows, axis=1, bitorder="little"))
    assert isinstance(output, torch.dtype)
    return spikes.to(output)


@on_each_device
@pytest.mark.parametrize(("dtype", "output", "branches"), FORMS, ids=str)
def test_equal_bits(dtype: torch.dtype, output: torch.dtype | str, branches: int) -> None:
    kinds = itertools.product((False, True), get_args(When), get_args(Reset))
    for (synapse, when, reset), steps in zip(kinds, itertools.cycle((6, 1, 4, 9)), strict=False):
        draw = np.random.default_rng(steps)
        channels = (1, 5)[steps % 2]
        c, state = population(synapse, when, reset, draw, channels)
        signals = [inputs(draw, "real", dtype, steps, *state.v.shape) for _ in range(branches)]
        before = plain_launches()
        packed, wanted = output == BITS, None if output == BITS else output
        found, after, _ = compiled.neuron(signals, c, state, Surrogate(), dtype=wanted, packed=packed)
        owed, owed_after, _ = reference.neuron([x.float() for x in signals], c, state, Surrogate())
        case = (synapse, when, reset, steps)
        assert_equal(found, of_output(owed, output, dtype), *case)
        assert_equal(after.v, owed_after.v, *case)
        if synapse:
            assert after.i is not None
            assert owed_after.i is not None
            assert_equal(after.i, owed_after.i, *case)
        counts["neuron"] += 1
        assert plain_launches() == before + 1, case


def plain_launches() -> int:
    """As far as an emulated device tells; one that does not counts as it should."""
    if getattr(C, "kernels", "") != "emulated":
        return Always()
    return sum(number for name, number in C.launches().items() if "neuron_plain" in name)


class Always(int):
    """Equal to everything: nobody counts."""

    def __add__(self, other: object) -> Always:
        return self

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@on_each_device
def test_what_has_no_form_goes_the_other_way() -> None:
    draw = np.random.default_rng(0)
    c, state = population(False, "above", "to-value", draw)
    x = inputs(draw, "real", torch.float32, 3, *state.v.shape)
    near = [
        ([x, x.half()], {}),
        ([x, x, x], {}),
        ([x > 0], {"dtype": torch.bool}),
        ([x], {"dtype": torch.float16}),
        ([x], {"record": ["v"]}),
        ([torch.cat([x[..., :1], x], -1)[..., 1:]], {}),  # not at a multiple of 16 bytes
    ]
    for signals, how in near:
        before = plain_launches()
        found, after, traces = compiled.neuron(signals, c, state, Surrogate(), **how)
        record = how.get("record", [])
        owed, owed_after, owed_traces = reference.neuron([s.float() for s in signals], c, state, Surrogate(), record)
        assert_equal(found, owed.to(how.get("dtype", torch.float32)), how)
        assert_equal(after.v, owed_after.v, how)
        assert all(torch.equal(traces[name], owed_traces[name]) for name in record)
        assert plain_launches() == before, how
