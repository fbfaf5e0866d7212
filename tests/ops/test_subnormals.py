"""Subnormal numbers are kept, forward and backward, whatever torch.set_flush_denormal says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from devices import on_each_device
from drawn import assert_equal, leaves, settings
from torch import Tensor

from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, backends, native, reference

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.sanitized,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]

STEPS = 5000
TINY = float(np.finfo(np.float32).tiny)
SMALL = torch.tensor([[[1e-40, 1e-44, 0.0]], [[3e-39, 1e-45, 1e-40]]])  # made here: 1e-40 is 0 in a thread that flushes
SILENT = Surrogate()


def silent(synapse: str | None) -> NeuronCoefficients:
    """A LIF, or a CubaLIF, without bias: with no input it only decays."""
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    current: Any = {"decay_i": torch.tensor(0.97), "gain_i": one, "synapse": synapse} if synapse else {}
    return NeuronCoefficients(torch.tensor(0.98), one, zero, threshold=torch.tensor(99.0), v_reset=zero, **current)


def under(flush: bool, threads: int, run: Callable[[], list[Tensor]]) -> list[Tensor]:
    """What `run` returns in a new thread, whose helpers start with what that thread was told of subnormals."""

    def flushes() -> bool:
        return (torch.tensor([1e-40]) * 1.5).view(torch.int32).item() == 0

    def task() -> list[Tensor]:
        with settings(threads, flush):
            assert flushes() == flush, "this machine cannot flush subnormal numbers"
            found = run()
            assert flushes() == flush, "the setting of the thread is as it was"
            return found

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(task).result()


def decayed(module: Any, recurrent: bool, synapse: str | None, samples: int, copies: int) -> list[Tensor]:
    """The state after all steps without input, and the gradients from it to the state before; 16 neurons, copied."""
    v = torch.linspace(0.1, 1, 16).repeat(samples, copies)
    v, i = leaves(v, v.flip(1).contiguous() if synapse else None)
    x = torch.zeros(()).expand(STEPS, *v.shape)
    c, state = silent(synapse), NeuronState(v, i)
    if recurrent:  # one weight for each neuron: each sum is one product, whoever computes it
        weight, spikes = torch.eye(v.shape[1]), torch.zeros_like(v)
        output, after, *_ = module.recurrent_neuron([x], 1, weight, None, c, state, spikes, SILENT)
    else:
        output, after, *_ = module.neuron([x], c, state, SILENT)
    assert not output.any(), "a silent neuron"
    ends, starts = [[s for s in both if s is not None] for both in (after, state)]
    return [*[s.detach() for s in ends], *torch.autograd.grad(ends, starts, [torch.ones_like(s) for s in ends])]


@on_each_device
@pytest.mark.parametrize("synapse", [None, "updated", "previous"])
@pytest.mark.parametrize("recurrent", [False, True], ids=["neuron", "recurrent"])
def test_a_silent_population_decays_as_the_reference(recurrent: bool, synapse: str | None) -> None:
    expected = decayed(reference, recurrent, synapse, 1, 1)
    for value in expected:
        assert 0 < value.abs().min() < TINY, "it has to reach the subnormal numbers"
    samples, copies = (4, 1) if recurrent else (1, 256)  # enough for two threads to share
    for flush, threads in itertools.product((False, True), (1, 2)):
        found = under(flush, threads, lambda: decayed(native, recurrent, synapse, samples, copies))
        for name, ours, theirs in zip(("end", "end", "gradient", "gradient"), found, expected, strict=False):
            assert_equal(ours, theirs.repeat(samples, copies), name, flush, threads)


def gradients_of_one(module: Any, recurrent: bool) -> list[Tensor]:
    """Output and gradients of a leaky integrator all of whose inputs and arriving gradients are subnormal."""
    one = torch.ones(())
    values = leaves(SMALL, SMALL.flip(2), torch.eye(3), torch.zeros(1, 3), torch.zeros(1, 3), one, one, torch.zeros(()))
    *branches, weight, v, spikes, decay_v, gain_v, bias_v = values
    c = NeuronCoefficients(decay_v, gain_v, bias_v)
    if recurrent:
        output, *_ = module.recurrent_neuron(branches, 1, weight, None, c, NeuronState(v), spikes, SILENT)
    else:
        values = [*branches, v, decay_v, gain_v, bias_v]
        output, *_ = module.neuron(branches, c, NeuronState(v), SILENT)
    to_tiny = torch.autograd.grad(output, values, SMALL, retain_graph=True)
    return [output.detach(), *to_tiny, *torch.autograd.grad(output, values, torch.ones_like(output))]


@on_each_device
@pytest.mark.parametrize("recurrent", [False, True], ids=["neuron", "recurrent"])
def test_subnormal_inputs_and_gradients(recurrent: bool) -> None:
    expected = gradients_of_one(reference, recurrent)
    for flush in (False, True):
        found = under(flush, 1, lambda: gradients_of_one(native, recurrent))
        for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_equal(ours, theirs, number, flush)


@on_each_device
def test_subnormal_sums_of_branches() -> None:
    expected = reference.branch_sum([SMALL, SMALL])
    for flush in (False, True):
        (found,) = under(flush, 1, lambda: [native.branch_sum([SMALL, SMALL])])
        assert_equal(found, expected, flush)
