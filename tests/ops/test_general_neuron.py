"""Native `neuron` with a late reset or a lower bound: the bits and gradients of the reference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from devices import on_each_device
from make_nir import numbers
from test_neuron import (
    LAYOUTS,
    MODES,
    OUTPUTS,
    SILENT,
    THREADS,
    Case,
    Kind,
    assert_case,
    assert_gradients,
    assert_not_numbers,
    cases,
    general_kinds,
    some,
)

from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, backends, native

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.sanitized,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]

KINDS = list(general_kinds())
ONE, ZERO = torch.tensor(1.0), torch.tensor(0.0)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@on_each_device
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_matrix(kind: Kind) -> None:
    fired = []
    for case in cases(kind)[KINDS.index(kind) % 11 :: 11]:
        torch.set_num_threads(case.threads)
        fired.append(assert_case(case))
    assert 0.05 < np.mean(fired) < 0.95, "a case that never fires, or always, shows nothing"


def test_matrix_holds_every_value() -> None:
    found = [case for number, kind in enumerate(KINDS) for case in cases(kind)[number % 11 :: 11]]
    for name, values in (("output", OUTPUTS), ("mode", MODES), ("layout", LAYOUTS), ("threads", THREADS)):
        assert {getattr(case, name) for case in found} == set(values), name


@on_each_device
@pytest.mark.parametrize("threads", THREADS)
def test_many_tiles(threads: int) -> None:
    torch.set_num_threads(threads)
    for number, kind in enumerate(KINDS):
        mode, layout = MODES[number % 5], LAYOUTS[number % 4]
        shape = ((30_011,), (13, 40, 57))[number % 2]
        assert_case(Case(kind, torch.float32, OUTPUTS[number % 3], mode, layout, 2, shape, 3, 2, threads, ("v",)))


@on_each_device
@pytest.mark.parametrize("output", OUTPUTS)
def test_values_that_are_not_numbers(output: str) -> None:
    for kind in KINDS:
        if output == "packed" and kind.many == "many":
            continue
        assert_not_numbers(Case(kind, torch.float32, output, "mixed", "plain", 1, (5, 7), 4, 2, 1, ()))


@on_each_device
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_gradients_equal_those_of_the_reference(kind: Kind) -> None:
    for surrogate in (Surrogate(), Surrogate("arctan", 2.0), Surrogate("triangle", 0.7)):
        assert_gradients(some(kind), surrogate)
        assert_gradients(some(kind, mode="neuron", batch=1, steps=20), surrogate)
    for parts in ("output", "v", "traces"):
        assert_gradients(some(kind), SILENT, parts)
    for number, layout in enumerate(LAYOUTS):
        if layout != "silent":
            assert_gradients(some(kind, shape=(3, 2, 5), layout=layout, mode=MODES[number]), SILENT)


@on_each_device
def test_a_late_reset_is_that_of_snntorch() -> None:
    """mem = beta * mem + x - reset * threshold, or beta * (1 - reset) * mem + x, with reset = mem > threshold."""
    beta, threshold = 0.75, 1.0
    x = torch.from_numpy(numbers("late").integers(-4, 7, (60, 1, 50)).astype(np.float32) / 4)
    for reset in ("subtract", "to-value"):
        c = NeuronCoefficients(
            ONE * beta,
            ONE,
            ZERO,
            threshold=ONE * threshold,
            v_reset=ZERO,
            reset=reset,
            reset_delay=1,  # type: ignore[arg-type]
        )
        spikes, _, traces = native.neuron([x], c, NeuronState(torch.zeros(1, 50)), SILENT, ["v"])
        mem = torch.zeros(1, 50)
        for step in range(60):
            fired = (mem - threshold > 0).float()
            mem = (
                beta * mem + x[step] - fired * threshold
                if reset == "subtract"
                else beta * ((1 - fired) * mem) + x[step]
            )
            assert torch.equal(traces["v"][step], mem), (reset, step)
            assert torch.equal(spikes[step], (mem - threshold > 0).float()), (reset, step)
        assert 0.05 < spikes.mean() < 0.5


@on_each_device
def test_a_lower_bound_is_applied_after_the_reset() -> None:
    x = torch.tensor([-3.0, 0.5, 1.5, 1.0]).reshape(4, 1, 1)
    c = NeuronCoefficients(ONE, ONE, ZERO, threshold=ONE, v_reset=-2 * ONE, v_min=-ONE)
    spikes, _, traces = native.neuron([x], c, NeuronState(torch.zeros(1, 1)), SILENT, ["v"])
    assert spikes.flatten().tolist() == [0, 0, 0, 1]
    assert traces["v"].flatten().tolist() == [-1, -0.5, 1, -1]


@on_each_device
def test_what_does_not_fit_is_named() -> None:
    x, v = torch.ones(4, 2, 3), torch.zeros(2, 3)
    neuron = torch.ops.neurocuda.neuron
    refused = [
        ({"v_min": ONE}, "expected a threshold and v_reset with v_min"),
        ({"late": True}, "expected a threshold and v_reset, and no many, with late"),
        ({"threshold": ONE, "v_reset": ONE, "many": True, "late": True}, "no many, with late"),
        ({"threshold": ONE, "v_reset": ONE, "v_min": torch.ones(2)}, "v_min of a shape that broadcasts"),
        ({"threshold": ONE, "v_reset": ONE, "v_min": ONE.double()}, "expected v_min in float32"),
        ({"i": v, "decay_i": ONE, "gain_i": ONE, "threshold": ONE, "late": True}, "expected a threshold and v_reset"),
    ]  # fmt: skip
    for options, message in refused:
        absent = dict.fromkeys(("i", "decay_i", "gain_i", "threshold", "v_reset"))
        with pytest.raises(ValueError, match=message):
            neuron(branches=[x], v=v, decay_v=ONE, gain_v=ONE, bias_v=ONE, **(absent | options))
