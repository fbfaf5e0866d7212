"""Native `recurrent_neuron` against the reference: equal bits and gradients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from devices import on_each_device
from drawn import DTYPES, assert_equal, counts, inputs, leaves, normal, settings
from make_nir import numbers
from torch import Tensor

from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, backends, reference

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.sanitized,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]

OPS = torch.ops.neurocuda
FIRES = ("never", "above", "reaching", "many")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
OUTPUTS = {
    "never": FLOATS,
    "above": (*FLOATS, torch.uint8, torch.bool),
    "reaching": (torch.float32, torch.uint8),
    "many": (*FLOATS, torch.uint8),
}


class Population(NamedTuple):
    """A recurrent population of any shape whose last axis the weight connects."""

    shape: tuple[int, ...]
    synapse: str | None
    fires: str
    reset: str
    mode: str
    takes_effect: str = "now"
    bound: str = "unbounded"

    def coefficients(self, draw: np.random.Generator, batch: int) -> NeuronCoefficients:
        sizes = {
            "scalar": (),
            "channel": (*self.shape[:1], *[1] * (len(self.shape) - 1)),
            "neuron": self.shape,
            "sample": (batch, *self.shape),
        }[self.mode]

        def uniform(low: float, high: float) -> Tensor:
            return torch.from_numpy(draw.uniform(low, high, sizes).astype(np.float32)).reshape(sizes)

        chosen: dict[str, Any] = {
            "decay_v": uniform(0.8, 1),
            "gain_v": uniform(0.5, 1),
            "bias_v": uniform(-0.01, 0.05),
        }
        if self.synapse is not None:
            chosen |= {"decay_i": uniform(0.5, 0.9), "gain_i": uniform(0.5, 1), "synapse": self.synapse}
        if self.fires != "never":
            chosen |= {"threshold": uniform(0.3, 0.6), "v_reset": uniform(-0.1, 0.1), "reset": self.reset}
            chosen |= {"spike_when": "reaching"} if self.fires == "reaching" else {}
            chosen |= {"spikes_per_step": "many"} if self.fires == "many" else {}
            chosen |= {"reset_delay": 1} if self.takes_effect == "late" else {}
            chosen |= {"v_min": uniform(-0.3, 0.05)} if self.bound == "bounded" else {}
        return NeuronCoefficients(**chosen)


POPULATIONS = [
    Population(shape, synapse, fires, reset, mode)
    for shape, synapse, fires, reset, mode in itertools.product(
        [(1,), (2,), (5,), (8,), (16,), (38,), (70,), (129,), (151,), (372,), (600,), (2, 9), (2, 3, 17)],
        [None, "updated", "previous"],
        FIRES,
        ["to-value", "subtract"],
        ["scalar", "channel", "neuron", "sample"],
    )
    if fires != "never" or reset == "to-value"
]
GENERAL = [("now", "bounded"), ("late", "unbounded"), ("late", "bounded")]
POPULATIONS += [
    Population(shape, synapse, fires, reset, mode, takes_effect, bound)
    for (shape, mode), synapse, fires, reset, (takes_effect, bound) in itertools.product(
        [((5,), "neuron"), ((129,), "scalar"), ((600,), "channel"), ((2, 9), "sample")],
        [None, "updated", "previous"],
        FIRES[1:],
        ["to-value", "subtract"],
        GENERAL,
    )
    if (fires, takes_effect) != ("many", "late")
]


def compiled_arguments(c: NeuronCoefficients) -> tuple[list[Tensor | None], dict[str, bool]]:
    kind = {
        "reaching": c.spike_when == "reaching",
        "subtract": c.reset == "subtract",
        "previous": c.synapse == "previous",
        "many": c.spikes_per_step == "many",
        "late": c.reset_delay == 1,
    }
    return [c.decay_v, c.gain_v, c.bias_v, c.decay_i, c.gain_i, c.threshold, c.v_reset, c.v_min], kind


def branch(draw: np.random.Generator, shape: Sequence[int]) -> Tensor:
    """A signal [T, B, *shape] of a random type and layout."""
    layout = draw.integers(6)
    if layout == 0:
        return inputs(draw, 0.3, DTYPES[draw.integers(len(DTYPES))], *shape)
    values = normal(draw, *shape, scale=0.7)
    if layout == 1:
        return values[:1].expand(shape)
    if layout == 2:
        return values.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == 3:
        return torch.stack([values, values * 2], -1)[..., 1]
    if layout == 4:
        return torch.zeros(()).expand(shape)
    return values


@on_each_device
@pytest.mark.parametrize("fires", FIRES)
@pytest.mark.parametrize("synapse", [None, "updated", "previous"])
def test_equal_bits(synapse: str | None, fires: str) -> None:
    emitted = set()
    for case in POPULATIONS:
        if (case.synapse, case.fires) != (synapse, fires):
            continue
        draw = numbers("recurrent", case)
        batch, steps = (1, 2, 5)[draw.integers(3)], (1, 2, 9)[draw.integers(3)]
        c = case.coefficients(draw, batch)
        shape = (batch, *case.shape)
        branches = [branch(draw, (steps, *shape)) for _ in range(draw.integers(1, 9))]
        place = int(draw.integers(len(branches) + 1))
        weight = normal(draw, *case.shape, case.shape[-1], scale=0.5 / case.shape[-1] ** 0.5)
        bias_shape = (None, (), (1,), case.shape[-1:], case.shape)[draw.integers(5)]
        bias = None if bias_shape is None else normal(draw, *bias_shape, scale=0.1).reshape(bias_shape)
        state = NeuronState(normal(draw, *shape, scale=0.1), normal(draw, *shape, scale=0.1) if synapse else None)
        spikes = (torch.zeros(shape), inputs(draw, 0.3, torch.float32, *shape), normal(draw, *shape))[draw.integers(3)]
        record = ["v", "recurrent", *(["i"] if synapse else [])]
        output, after, last, traces = reference.recurrent_neuron(
            [x.float() for x in branches], place, weight, bias, c, state, spikes, Surrogate(), record
        )
        emitted.update(output.unique().tolist() if fires != "never" else [])
        nothing = torch.empty(0)
        expected = {
            "output": output,
            "v": after.v,
            "i": nothing if after.i is None else after.i,
            "spikes": last,
            "trace_v": traces["v"],
            "trace_i": traces.get("i", nothing),
            "trace_recurrent": traces["recurrent"],
        }
        tensors, kind = compiled_arguments(c)
        prepacked = OPS.ordered_linear_prepack(weight)
        for threads, flush in ((1, False), (2, False), (1, True)):
            with settings(threads, flush):
                found = OPS.recurrent_neuron(
                    branches, place, weight, bias, state.v, state.i, spikes, *tensors, **kind, dtype=torch.float32,
                    trace_v=True, trace_i=bool(synapse), trace_recurrent=True, prepacked=prepacked if flush else None,
                )  # fmt: skip
                for (name, value), result in zip(expected.items(), found, strict=True):
                    assert_equal(result, value, name, case, batch, steps, place, threads, flush)
                counts["recurrent_neuron"] += 1
                for dtype in OUTPUTS[fires]:
                    state_and_kind = (state.v, state.i, spikes, *tensors, *kind.values(), dtype)
                    cast, *_ = OPS.recurrent_neuron(branches, place, weight, bias, *state_and_kind, prepacked=prepacked)
                    most = 255 if dtype == torch.uint8 else None  # where it stays, however many spikes there are
                    assert_equal(cast, output.clamp(max=most).to(dtype) if most else output.to(dtype), case, dtype)
    if fires != "never":
        assert {0.0, 1.0} <= emitted, "cases that never fire show nothing"


@on_each_device
def test_no_steps_and_no_samples() -> None:
    c = Population((3,), None, "above", "to-value", "scalar").coefficients(numbers("none"), 1)
    tensors, kind = compiled_arguments(c)
    for steps, batch in ((0, 2), (2, 0)):
        v, spikes = torch.rand(batch, 3), torch.ones(batch, 3)
        found = OPS.recurrent_neuron(
            [torch.ones(steps, batch, 3)], 0, torch.ones(3, 3), None, v, None, spikes, *tensors, **kind
        )
        assert found[0].shape == (steps, batch, 3)
        assert_equal(found[1], v)
        assert_equal(found[3], spikes)


@pytest.mark.parametrize("fires", FIRES)
@pytest.mark.parametrize("synapse", [None, "updated", "previous"])
@pytest.mark.parametrize("kind", ["fast-sigmoid", "arctan", "triangle"])
def test_gradients(synapse: str | None, fires: str, kind: Any) -> None:
    surrogate = Surrogate(kind, 2.0)
    usual = itertools.product(
        [(5,), (2, 3)], ["scalar", "neuron", "sample"], ["to-value", "subtract"], [("now", "unbounded")]
    )
    general = itertools.product([(5,)], ["neuron"], ["to-value", "subtract"], GENERAL) if fires != "never" else []
    for shape, mode, reset, choices in [*usual, *general]:
        if (fires, choices[0]) == ("many", "late"):
            continue
        draw = numbers("gradient", shape, mode, reset, synapse, fires)
        case = Population(shape, synapse, fires, reset, mode, *choices)
        steps, batch = 6, 2
        full = (batch, *shape)
        c = case.coefficients(draw, batch)
        tensors, flags = compiled_arguments(c)
        values = [
            normal(draw, steps, *full, scale=0.5),
            inputs(draw, 0.3, torch.float32, steps, *full),
            normal(draw, *shape, shape[-1], scale=0.5),
            normal(draw, *shape, scale=0.1),
            normal(draw, *full, scale=0.1),
            normal(draw, *full, scale=0.1) if synapse else None,
            inputs(draw, 0.3, torch.float32, *full),
            *tensors,
        ]
        ours, theirs = leaves(*values), leaves(*values)
        found = OPS.recurrent_neuron(
            ours[:2], 1, *ours[2:], **flags, trace_v=True, trace_i=bool(synapse), trace_recurrent=True,
            surrogate=surrogate.kind, slope=surrogate.slope,
        )  # fmt: skip
        names = ["decay_v", "gain_v", "bias_v", "decay_i", "gain_i", "threshold", "v_reset", "v_min"]
        flag_names = ("spike_when", "reset", "synapse", "spikes_per_step", "reset_delay")
        settings_of = {name: getattr(c, name) for name in flag_names}
        theirs[7:] = leaves(*[None if t is None else t.expand(full).clone() for t in tensors])
        own = NeuronCoefficients(**dict(zip(names, theirs[7:], strict=True)), **settings_of)
        record = ["v", "recurrent", *(["i"] if synapse else [])]
        output, after, last, traces = reference.recurrent_neuron(
            theirs[:2], 1, theirs[2], theirs[3], own, NeuronState(theirs[4], theirs[5]), theirs[6], surrogate, record,
        )  # fmt: skip
        expected = [output, after.v, after.i, last, traces["v"], traces.get("i"), traces["recurrent"]]
        toward = [None if value is None else normal(draw, *value.shape) for value in expected]
        sum((a * t).sum() for a, t in zip(found, toward, strict=True) if t is not None).backward()
        sum((a * t).sum() for a, t in zip(expected, toward, strict=True) if t is not None).backward()
        # One term after the other as in the reference, but where a current or a potential is used three times or more.
        exact = {0, 1, 4, 5, 6} if fires != "never" and synapse != "previous" else set()
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if a is None or b is None or b.grad is None:  # the reference does not use it
                assert a is None or a.grad is None or not a.grad.any(), number
                continue
            if number in exact:
                assert_equal(a.grad, b.grad, number, case)
                continue
            shared = b.grad.double().sum_to_size(a.shape)
            # Each sum over time, samples or neurons has its own order: it rounds by 2^-24 of the terms, a few times.
            room = 2**-19 * b.grad.abs().double().sum_to_size(a.shape).max()
            furthest = (a.grad.double() - shared).abs().max()
            assert furthest <= room, (number, furthest, room, case)


def test_errors_name_the_argument() -> None:
    c = Population((3,), None, "above", "to-value", "scalar").coefficients(numbers("none"), 1)
    tensors, kind = compiled_arguments(c)
    branch, state = torch.ones(4, 2, 3), torch.zeros(2, 3)
    for place, square, spikes, word in [
        (2, torch.ones(3, 3), state, "expected place from 0 to 1"),
        (0, torch.ones(4, 3), state, "expected weight in float32 of shape"),
        (0, torch.ones(3, 3), state[:1], "expected spikes of shape"),
    ]:
        with pytest.raises(ValueError, match=word):
            OPS.recurrent_neuron([branch], place, square, None, state, None, spikes, *tensors, **kind)
