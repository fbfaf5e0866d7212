"""`finetune`: trains a converted network to compute in few time steps.

Two phases train the same weights and thresholds (`Trainable`). The first, which is optional, has ReLUs quantized to as
many levels as there are steps (QCFS, Bu et al. 2022), and costs as much as training the original. The second runs the
spiking network with the neuron kernels. Its gradients are those of firing rates, or pass back through time with a
surrogate. The targets are the outputs of the original, and labels if the data have them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from neurocuda.convert.calibrate import convert
from neurocuda.convert.calibration_data import split, take, type_name
from neurocuda.convert.evaluate import is_classes, measure
from neurocuda.convert.progress import progress
from neurocuda.convert.relu_network import check_samples
from neurocuda.convert.snn import SNN
from neurocuda.convert.training.checkpoint import Checkpoint, Position, fingerprint
from neurocuda.convert.training.seeding import generators_of, restored, seed_all
from neurocuda.convert.training.trainable import Trainable
from neurocuda.errors import ArgumentError, check_integer
from neurocuda.nn import Neuron
from neurocuda.ops import Surrogate

Loss = Callable[[Tensor, Tensor], Tensor]

_BATCH = 64
_WARM_UP = 20
"""Batches over which the rate rises."""


@dataclass(frozen=True)
class _Phase:
    """A phase of training; `run` computes the output of the network for a batch."""

    name: str
    epochs: int
    run: Callable[[Tensor], Tensor]


def finetune(
    network: nn.Module,
    data: Any,
    epochs: int = 1,
    timesteps: int = 4,
    *,
    quantized_epochs: int = 0,
    rate: float = 1e-2,
    loss: Loss | None = None,
    surrogate: Surrogate | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    samples: int | None = 400,
    report: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
) -> SNN:
    """Trains a spiking network to compute in `timesteps` steps, without a read-out delay, what the original computes.

    The network passed is not changed. Random numbers come from `seed`; the caller's generators are left alone.

    Args:
        network: An `SNN`, or a model that `convert` takes, which is converted first.
        data: A loader with a length that starts again in every epoch, or what `convert` takes, in random batches of 64.
        epochs: Epochs of the spiking network.
        timesteps: Time steps of the trained network.
        quantized_epochs: Epochs before these, of the network with quantized rectifiers.
        rate: Learning rate of Adam, in units of the root mean square of each tensor; it rises over the first batches
            and falls to zero (half a cosine).
        loss: Of the output and the labels of a batch. None: learns the original's values, or its classes and, in equal
            part, the labels where batches have them (integers [B]).
        surrogate: Derivative of a spike, of u in units of theta, for gradients through time. None: gradients of firing
            rates, which takes less than half the time.
        dtype: In which layers with weights run while they train; the weights stay float32.
        seed: Of all random numbers.
        samples: Samples of the report, as `convert` takes them.
        report: Whether to measure the report.
        checkpoint: A file, written every `checkpoint_every` batches. If it exists, training continues from it, to the
            same bits as without a stop, given the same data, machine and number of threads.
        checkpoint_every: Batches between checkpoints.

    Returns:
        The trained network.

    Raises:
        ArgumentError: An argument does not fit.

    Example:
        >>> import neurocuda, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> snn = neurocuda.finetune(model, torch.rand(64, 4), timesteps=4, report=False)
        >>> snn.timesteps
        4
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ArgumentError(f"dtype: expected torch.float32, torch.bfloat16 or torch.float16, found {dtype!r}")
    check_integer("epochs", epochs, 0)
    check_integer("timesteps", timesteps, 1)
    check_integer("quantized_epochs", quantized_epochs, 0)
    check_integer("checkpoint_every", checkpoint_every, 1)
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not (math.isfinite(rate) and rate > 0):
        raise ArgumentError(f"rate: expected a number > 0, found {rate!r}")
    loader = _loader(data)
    with restored():
        seed_all(seed)
        start = _start(network, data, timesteps, samples)
        device = next((p.device for p in start.parameters()), torch.device("cpu"))
        measured = take(data, samples) if report else None
        trained, original = (
            Trainable(start.rectified, start.thresholds, surrogate or Surrogate()).to(device) for _ in range(2)
        )
        original.requires_grad_(False)

        def spiking(x: Tensor) -> Tensor:
            return trained.rates(x, timesteps) if surrogate is None else trained.spikes(x, timesteps).mean(0)

        phases = (
            _Phase("levels", quantized_epochs, lambda x: trained.levels(x, timesteps)),
            _Phase("spikes", epochs, spiking),
        )
        about = (epochs, timesteps, quantized_epochs, rate, repr(surrogate), str(dtype), seed, len(loader))
        run = fingerprint((*about, loss is None), trained)
        file = None if checkpoint is None else Checkpoint(checkpoint, run)
        _train(trained, original, loader, phases, rate, loss, dtype, seed, file, checkpoint_every)
        d = start.network.discretization
        snn = SNN(trained.graph(), trained.thresholds(), timesteps=timesteps, readout_delay=0, dt=d.dt)
        snn.to(device)
        if measured is not None:
            with torch.no_grad():
                snn.report = measure(snn, measured, [original.rectified(x.to(device)) for x in measured.batches])
    return snn


def _start(network: nn.Module, data: Any, timesteps: int, samples: int | None) -> SNN:
    if isinstance(network, SNN):
        return network
    if isinstance(network, nn.Module):
        for name, module in network.named_modules():
            if isinstance(module, Neuron):
                raise ArgumentError(
                    f"network, {name!r}: expected rectifiers, found a {type(module).__name__}; a model that spikes "
                    "already is trained as any other torch module"
                )
    return convert(network, data, timesteps=timesteps, readout_delay=0, samples=samples, report=False)


def _loader(data: Any) -> Any:
    """The batches of an epoch, as a loader or list with a length."""
    if isinstance(data, Tensor) and data.ndim:
        data = TensorDataset(data)
    elif isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) and part.ndim for part in data):
        if len(data[0]) != len(data[1]):
            raise ArgumentError(f"data: expected a label for each of {len(data[0])} samples, found {len(data[1])}")
        data = TensorDataset(*data)
    if isinstance(data, Dataset) and not isinstance(data, Iterable) and len(data):  # type: ignore[arg-type]
        return DataLoader(data, _BATCH, shuffle=True)
    if not (isinstance(data, Sized) and isinstance(data, Iterable)) or isinstance(data, str | bytes | dict | Tensor):
        expected = "a tensor, a pair (samples, labels), a dataset, or a loader or list of batches with a length"
        raise ArgumentError(f"data: expected {expected}, found {type_name(data)}")
    if len(data) == 0:
        raise ArgumentError("data: expected at least one batch, found none")
    return data


def _train(
    trained: Trainable,
    original: Trainable,
    loader: Any,
    phases: tuple[_Phase, ...],
    rate: float,
    loss: Loss | None,
    dtype: torch.dtype,
    seed: int,
    checkpoint: Checkpoint | None,
    every: int,
) -> None:
    """Trains all phases and epochs, from the position of the checkpoint."""
    position = Position(0, 0, 0)
    optimizers = [_optimizer(trained, rate) for _ in phases]
    found = None if checkpoint is None else checkpoint.read()
    if found is not None:
        position = found.position
        trained.load_state_dict(found.parameters)
        if position.phase < len(phases):
            optimizers[position.phase].load_state_dict(found.optimizer)
    with progress() as bar:
        for number, phase in enumerate(phases):
            optimizer, total = optimizers[number], phase.epochs * len(loader)
            task = bar.add_task(f"training {phase.name}", total=total, visible=total > 0)
            for epoch in range(phase.epochs):
                done = position.done(number, epoch, len(loader))
                if (number, epoch) < position[:2]:
                    bar.advance(task, done)
                    continue
                seed_all(seed + 1 + epoch + phases[0].epochs * number)
                generators = generators_of(loader)
                if found is not None and done:
                    for generator, state in zip(generators, found.generators, strict=True):
                        generator.set_state(state)
                states = [generator.get_state() for generator in generators]
                for count, item in enumerate(_batches(loader), 1):
                    bar.advance(task)
                    if count <= done:
                        continue
                    step = epoch * len(loader) + count - 1
                    _set_rate(optimizer, step, total)
                    _step(phase, optimizer, original, item, loss, dtype, f"data, batch {count - 1}")
                    if checkpoint is not None and count % every == 0:
                        checkpoint.write(trained, optimizer, Position(number, epoch, count), states)
        if checkpoint is not None and (found is None or position.phase < len(phases)):
            checkpoint.write(trained, optimizers[-1], Position(len(phases), 0, 0), [])


def _batches(loader: Any) -> Iterator[Any]:
    """The batches of an epoch. Raises `ArgumentError` if their number is not the loader's length."""
    count = 0
    for item in loader:
        count += 1
        if count <= len(loader):
            yield item
    if count != len(loader):
        raise ArgumentError(f"data: expected {len(loader)} batches in every epoch, found {count}")


def _optimizer(trained: Trainable, rate: float) -> torch.optim.Optimizer:
    """Adam with a rate for each tensor, in units of its root mean square; log2 thresholds have a tenth of the rate."""
    groups: list[dict[str, Any]] = []
    for parameter in trained.learned:
        size = float(parameter.detach().square().mean().sqrt())
        groups.append({"params": [parameter], "highest": rate * (size or 1.0)})
    groups.append({"params": list(trained.log_thresholds), "highest": rate / 10})
    return torch.optim.Adam(groups, rate, fused=True)


def _set_rate(optimizer: torch.optim.Optimizer, step: int, total: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / total))


def _step(
    phase: _Phase,
    optimizer: torch.optim.Optimizer,
    original: Trainable,
    item: Any,
    loss: Loss | None,
    dtype: torch.dtype,
    where: str,
) -> None:
    x, labels = split(item, where)
    if not (labels is None or isinstance(labels, Tensor)):
        raise ArgumentError(f"{where}: expected labels as a tensor, found {type_name(labels)}")
    check_samples(where, x, original.source)
    if len(x) == 0:
        raise ArgumentError(f"{where}: expected at least one sample, found a tensor of shape {tuple(x.shape)}")
    device = next(original.parameters()).device
    x = x.to(device).float()
    answer = None
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        y = phase.run(x).float()
        if loss is None:
            with torch.no_grad():
                answer = original.rectified(x).float()
    if answer is not None:
        value = _distance(y, answer, _classes(labels, answer, where))
    elif loss is None or labels is None:
        raise ArgumentError(f"{where}: expected labels, which the loss takes, found none")
    else:
        value = loss(y, labels.to(device))
    if not bool(value.isfinite()):
        raise ArgumentError(f"{where}: expected a finite loss, found {value.item()}; a lower rate may help")
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(value)
    optimizer.step()


def _classes(labels: Tensor | None, answer: Tensor, where: str) -> Tensor | None:
    """The labels of a batch as int64 [B], None for other targets or an output without class scores."""
    if labels is None or labels.is_floating_point() or labels.ndim != 1 or not is_classes(answer):
        return None
    classes = answer.shape[1]
    if len(labels) != len(answer) or bool(((labels < 0) | (labels >= classes)).any()):
        found = f"{len(labels)} from {int(labels.min())} to {int(labels.max())}" if len(labels) else "none"
        raise ArgumentError(f"{where}: expected {len(answer)} labels from 0 to {classes - 1}, found {found}")
    return labels.to(answer.device).long()


def _distance(y: Tensor, target: Tensor, labels: Tensor | None) -> Tensor:
    """The Kullback-Leibler divergence from the original's class scores, or for other outputs the mean square error.

    With labels: the mean of the divergence and the cross entropy.
    """
    if not is_classes(target):
        return functional.mse_loss(y, target)
    logs = functional.log_softmax(y, 1), functional.log_softmax(target, 1)
    divergence = functional.kl_div(*logs, reduction="batchmean", log_target=True)
    return divergence if labels is None else (divergence + functional.cross_entropy(y, labels)) / 2
