"""torch.library.opcheck on every registered operator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from drawn import inputs, leaves, normal
from make_nir import numbers
from test_neuron import LAYOUTS, Kind, leaves_of, some
from test_recurrent_neuron import Population, compiled_arguments
from torch import Tensor

from neurocuda.ops import NeuronState, backends

OPS = torch.ops.neurocuda
Sample = tuple[Any, tuple[Any, ...], dict[str, Any]]

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.sanitized,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]


def neurons() -> Iterator[Sample]:
    plain = {"reaching": False, "subtract": False, "previous": False, "many": False, "late": False}
    general = Kind("CubaLIF", takes_effect="late", bound="bounded")
    for kind in (Kind("LIF"), Kind("LI"), Kind("CubaLIF", "reaching", "subtract", "previous"), general):
        for layout, gradients in itertools.product(("plain", "channels last", "constant"), (False, True)):
            case = some(kind, shape=(3, 2, 4), layout=layout)
            branches, c, state = leaves_of(case)
            coefficients = [c.decay_v, c.gain_v, c.bias_v, c.decay_i, c.gain_i, c.threshold, c.v_reset, c.v_min]
            fields = {"reaching": kind.when == "reaching", "subtract": kind.reset == "subtract"}
            fields["late"] = kind.takes_effect == "late"
            flags = plain | fields | {"previous": kind.synapse == "previous"}
            if not gradients:
                branches = [b.detach() for b in branches]
                state = NeuronState(*[None if s is None else s.detach() for s in state])
                coefficients = [None if value is None else value.detach() for value in coefficients]
            args = (branches, state.v, state.i, *coefficients)
            traces = {"trace_v": True, "trace_i": kind.has_synapse}
            yield OPS.neuron.default, args, flags | traces | {"dtype": torch.float32}
            if gradients:
                continue
            yield OPS.neuron.default, args, flags
            arriving = {"of_output": torch.ones(branches[0].shape), "wanted": [True] * 11}
            yield OPS.neuron_backward.default, args, flags | arriving
            yield OPS.neuron_backward.default, args, flags | {"of_v": state.v, "wanted": [True, *[False] * 10]}
            if kind.fires:
                yield OPS.neuron.default, args, flags | {"packed": True}
                yield OPS.neuron.default, args, flags | {"dtype": torch.uint8}


def recurrent_neurons() -> Iterator[Sample]:
    draw = numbers("opcheck")
    for synapse, fires, mode in (
        ("updated", "above", "neuron"),
        (None, "many", "scalar"),
        ("previous", "never", "sample"),
    ):
        c = Population((5,), synapse, fires, "to-value", mode).coefficients(draw, 2)
        tensors, kind = compiled_arguments(c)
        branches = [normal(draw, 3, 2, 5), normal(draw, 3, 2, 5)]
        weight, v, i, spikes = normal(draw, 5, 5), normal(draw, 2, 5), normal(draw, 2, 5), torch.zeros(2, 5)
        still = (branches, 1, weight, None, v, i if synapse else None, spikes, *tensors)
        moving = (leaves(*branches), 1, *leaves(weight, normal(draw, 5), v, i if synapse else None, spikes, *tensors))
        traced = {"trace_v": True, "trace_i": synapse is not None, "trace_recurrent": True}
        yield OPS.recurrent_neuron.default, moving, kind
        yield OPS.recurrent_neuron.default, moving, kind | traced
        yield OPS.recurrent_neuron.default, still, kind | traced | {"prepacked": OPS.ordered_linear_prepack(weight)}
        if fires != "never":
            yield OPS.recurrent_neuron.default, still, kind | {"dtype": torch.uint8}
        arriving = {"of_output": normal(draw, 3, 2, 5), "wanted": [True] * 14}
        yield OPS.recurrent_neuron_backward.default, still, kind | arriving


def branch_sums() -> Iterator[Sample]:
    for layout, gradients in itertools.product(LAYOUTS, (False, True)):
        branches, _, _ = leaves_of(some(Kind("LI"), shape=(3, 2, 4), layout=layout, branches=3))
        branches = branches if gradients else [b.detach() for b in branches]
        yield OPS.branch_sum.default, (branches,), {}


def ordered_layers() -> Iterator[Sample]:
    draw = numbers("opcheck")
    for batch in ((), (2,)):
        values = (inputs(draw, 0.3, torch.float32, 4, *batch, 6), normal(draw, *batch, 5, 6), normal(draw, 5))
        yield OPS.ordered_linear.default, tuple(leaves(*values)), {}
        yield (
            OPS.ordered_linear.default,
            (values[0].bool(), values[1]),
            {"prepacked": OPS.ordered_linear_prepack(values[1])},
        )
        yield OPS.ordered_linear_prepack.default, (values[1],), {}
    planar = ((4, 5, 6), (6, 2, 3, 2), ([1, 2], [1, 0, 2, 1], [2, 1], 2))
    for frame, kernel, how in (planar, ((4, 9), (6, 4, 3), ([2], [1, 0], [2], 1))):
        values = (inputs(draw, 0.3, torch.float32, 2, *frame), normal(draw, *kernel), normal(draw, 6))
        yield OPS.ordered_conv.default, (*leaves(*values), *how), {}
        yield OPS.ordered_conv.default, (values[0].bool(), values[1], None, *how), {}
        yield OPS.ordered_conv_prepack.default, (values[1], how[-1]), {}


def bits_and_spikes() -> Iterator[Sample]:
    spikes = torch.rand(3, 2, 5) > 0.5
    bits = OPS.pack_spikes(spikes)
    yield OPS.pack_spikes.default, (spikes,), {}
    yield OPS.unpack_spikes.default, (bits, [2, 5]), {"dtype": torch.float16}


def pools() -> Iterator[Sample]:
    x = normal(numbers("opcheck"), 2, 3, 6, 7)
    window = ([2, 3], [2, 1], [1, 0])
    for pool in (OPS.sum_pool2d, OPS.avg_pool2d):
        yield pool.default, (*leaves(x), *window), {}
        yield pool.default, (x.bool(), *window), {}


def memory() -> Iterator[Sample]:
    yield OPS.empty.default, ([0, 3],), {}  # what else it holds is not defined


SAMPLES = (
    [*neurons(), *recurrent_neurons(), *branch_sums(), *ordered_layers(), *bits_and_spikes(), *pools(), *memory()]
    if backends.is_usable(backends.backends()["cpu"])
    else []
)
NAMES = [f"{sample[0]}-{number}" for number, sample in enumerate(SAMPLES)]


def test_every_operator_has_a_sample() -> None:
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("neurocuda::")}
    assert {operator.name() for operator, _, _ in SAMPLES} == registered


def test_every_operator_that_gives_gradients_is_asked_for_them() -> None:
    asked = {op for op, args, _ in SAMPLES if any(t.requires_grad for t in tensors_of(args))}
    assert asked == {OPS.neuron.default, OPS.recurrent_neuron.default, OPS.branch_sum.default} | {
        OPS.ordered_linear.default,
        OPS.ordered_conv.default,
        OPS.sum_pool2d.default,
        OPS.avg_pool2d.default,
    }


@pytest.mark.parametrize("sample", SAMPLES, ids=NAMES)
def test_opcheck(sample: Sample) -> None:
    torch.library.opcheck(*sample)


def tensors_of(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_of(value)
