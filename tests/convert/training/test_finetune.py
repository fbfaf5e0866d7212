"""Fine-tuning: what it gains; that it repeats itself, and goes on after a kill, to the bit; what it refuses."""

from __future__ import annotations

import copy
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_training import accuracy, digits, loader, run, start, trained
from neuron_models import hand_written
from places import ROOT
from torch import Tensor, nn

import neurocuda
from neurocuda import ArgumentError, FileError, NeuroCUDAError, use_backend
from neurocuda.convert.calibrate import convert
from neurocuda.convert.snn import SNN
from neurocuda.convert.training.finetune import finetune
from neurocuda.ops import backends

pytestmark = pytest.mark.filterwarnings("ignore:channels that were always zero:neurocuda.NeuroCUDAWarning")


def bits(network: nn.Module) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in network.state_dict().items()}


def test_few_steps_are_enough_afterwards() -> None:
    """Bounds hold for every instruction set and number of threads, each of which trains another network."""
    model, (x, y, _, _) = trained(), digits()
    before = bits(model)
    snn = finetune(model, (x, y), 8, 2, rate=3e-2)
    assert isinstance(snn, SNN)
    assert (snn.timesteps, snn.readout_delay) == (2, 0)
    assert accuracy(model) > 98
    assert accuracy(snn) > accuracy(model) - 2.5
    assert snn.report is not None
    agreement = snn.report.at(2).agreement
    assert agreement is not None
    assert agreement > 0.96
    assert bits(model) == before


def test_a_single_step_is_better_afterwards() -> None:
    """Here a network that is only converted loses most: 7 to 10 points, of which training brings back 3 to 8."""
    model, (x, y, _, _) = trained(), digits()
    converted = convert(model, x[:400], timesteps=1, readout_delay=0, report=False)
    snn = finetune(model, (x, y), 8, 1, rate=3e-2, report=False)
    assert accuracy(converted) < accuracy(model) - 4
    assert accuracy(snn) > accuracy(converted) + 1


def test_quantised_training_brings_rectifiers_near_their_levels() -> None:
    from neurocuda.convert.training.trainable import Trainable

    model, x = trained(), digits()[0]
    converted = convert(model, x[:400], timesteps=2, readout_delay=0, report=False)
    snn = finetune(converted, x, 0, 2, quantized_epochs=3, rate=2e-2, report=False)
    errors = []
    for one in (converted, snn):
        net = Trainable(one.rectified, one.thresholds, neurocuda.Surrogate())
        with torch.no_grad():
            scores = net.levels(x, 2).log_softmax(1), model(x).log_softmax(1)
            errors.append(float(nn.functional.kl_div(*scores, reduction="batchmean", log_target=True)))
    assert errors[1] < 0.7 * errors[0]


def test_it_repeats_itself_and_leaves_the_callers_random_numbers_alone() -> None:
    drawn = []
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        results.append(bits(run(None)))
        drawn.append((torch.rand(1).item(), np.random.random(), random.random()))
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        assert drawn[-1] == (torch.rand(1).item(), np.random.random(), random.random())
    assert results[0] == results[1]
    assert drawn[0] != drawn[1]


# Samples read before the end, and batches (of 8 an epoch) between checkpoints: within an epoch, at its end, in the
# second way of training.
KILLS = ((300, 3), (256 + 96 + 1, 3), (256 + 90, 8), (2 * 256 + 200, 4), (3 * 256 + 230, 3))


@pytest.mark.slow
@pytest.mark.parametrize(("last", "every"), KILLS)
def test_after_a_kill_it_goes_on_to_the_same_bits(last: int, every: int, tmp_path: Path) -> None:
    checkpoint = tmp_path / "training.pt"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/support/digits_training.py"), str(checkpoint), str(last), str(every)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoint.is_file()
    assert bits(run(str(checkpoint))) == expected()
    assert bits(run(str(checkpoint))) == expected()  # there is nothing left to do
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]


_expected: dict[str, bytes] = {}


def expected() -> dict[str, bytes]:
    if not _expected:
        _expected.update(bits(run(None)))
    return _expected


def test_another_run_does_not_go_on_from_it(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    x = digits()[0][:64]
    finetune(start(), x, 1, 2, checkpoint=path, report=False)
    with pytest.raises(ArgumentError, match="of other settings, weights or thresholds"):
        finetune(start(), x, 1, 3, checkpoint=path, report=False)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(FileError, match="expected a checkpoint of finetune"):
        finetune(start(), x, 1, 2, checkpoint=path, report=False)
    with pytest.raises(FileError, match="cannot be written"):
        finetune(start(), x, 1, 2, checkpoint=tmp_path / "nowhere" / "c.pt", report=False)


def test_a_loss_of_ones_own() -> None:
    seen = []

    def loss(y: Tensor, labels: Tensor) -> Tensor:
        seen.append((tuple(y.shape), labels.dtype))
        return nn.functional.cross_entropy(y, labels)

    x, y, _, _ = digits()
    finetune(start(), (x[:128], y[:128]), 1, 2, loss=loss, report=False)
    assert seen == [((64, 10), torch.int64)] * 2


def test_values_are_learned_where_there_are_no_classes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
    x = torch.rand(512, 4)
    converted = convert(model, x, timesteps=2, readout_delay=0, report=False)
    snn = finetune(model, x, 20, 2, rate=3e-2, report=False)
    with torch.no_grad():
        errors = [float((one(x) - model(x)).square().mean()) for one in (converted, snn)]
    assert errors[1] < errors[0] / 2


def train(model: nn.Module, steps: int) -> list[float]:
    x, y, _, _ = digits()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for step in range(steps):
        part = slice(64 * step % 1280, 64 * step % 1280 + 64)
        loss = nn.functional.cross_entropy(model(x[part].expand(6, -1, -1, -1, -1))[-1], y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there")
def test_a_network_of_neuron_modules_trains_as_with_the_reference() -> None:
    """The gradients of every parameter, and that they lead somewhere."""
    model, twin = hand_written(), hand_written()
    losses = train(model, 1)
    with use_backend("reference"):
        assert train(twin, 1) == losses
    names = [name for name, _ in model.named_parameters()]
    assert {"lif1.tau", "lif2.v_threshold", "li.tau", "stem.module.weight"} < set(names)
    for name in names:
        found, wanted = model.get_parameter(name).grad, twin.get_parameter(name).grad
        assert wanted is not None
        assert wanted.any(), name
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6, msg=name)
    losses = train(model, 60)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2


X = torch.rand(8, 1, 8, 8)

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no network": (lambda: finetune("net", X), "expected a torch.nn.Module, found a str"),  # type: ignore[arg-type]
    "a network that spikes": (lambda: finetune(hand_written(), X), "network, 'lif1': expected rectifiers, found a LIF"),
    "half an epoch": (lambda: finetune(start(), X, 0.5), "epochs: expected an integer"),  # type: ignore[arg-type]
    "no steps": (lambda: finetune(start(), X, 1, 0), "timesteps: expected an integer >= 1, found 0"),
    "rate": (lambda: finetune(start(), X, rate=-1.0), "rate: expected a number > 0, found -1.0"),
    "every": (lambda: finetune(start(), X, checkpoint_every=0), "checkpoint_every: expected an integer"),
    "no data": (lambda: finetune(start(), None), "data: expected a tensor, a pair (samples, labels), a dataset"),
    "once only": (lambda: finetune(start(), iter([X])), "a loader or list of batches with a length"),
    "empty": (lambda: finetune(start(), []), "data: expected at least one batch, found none"),
    "unequal": (lambda: finetune(start(), (X, torch.zeros(3))), "expected a label for each of 8 samples, found 3"),
    "no batch": (lambda: finetune(start(), [{}], report=False), "data, batch 0: expected a tensor or a pair"),
    "no labels": (
        lambda: finetune(start(), X, loss=nn.functional.cross_entropy, report=False),
        "data, batch 0: expected labels, which the loss takes, found none",
    ),
    "other shape": (lambda: finetune(start(), torch.rand(8, 1, 4, 4), report=False), "data, batch 0: expected samples"),
    "NaN": (lambda: finetune(start(), X * float("nan"), report=False), "data, batch 0: expected a finite loss"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(NeuroCUDAError, match=re.escape(message)):
        call()


def test_the_network_given_is_not_changed() -> None:
    snn, model = start(), copy.deepcopy(trained()).train()
    before = bits(snn), bits(model)
    finetune(snn, X, 1, 2, report=False)
    finetune(model, X, 1, 2, report=False)
    assert (bits(snn), bits(model)) == before
    assert model.training
    assert len(list(loader())) == 8
