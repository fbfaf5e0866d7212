"""Calibration data of all supported forms, as batches of samples with optional labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neurocuda.errors import ArgumentError, check_integer

_BATCH = 100


@dataclass(frozen=True)
class Samples:
    """Batches of samples, each [B, *shape], and the labels [B] of each, None where there are none."""

    batches: tuple[Tensor, ...]
    labels: tuple[Tensor, ...] | None

    @property
    def number(self) -> int:
        """How many samples there are."""
        return sum(len(batch) for batch in self.batches)

    @property
    def all_labels(self) -> Tensor | None:
        """The labels of all samples."""
        return None if self.labels is None else torch.cat(self.labels)


def take(data: Any, most: int | None = None) -> Samples:
    """The first `most` samples of `data`, all of them for None.

    data: a tensor [N, *shape]; a pair (samples, labels) of tensors; a dataset; a loader or any other iterable of
    batches, each a tensor or a pair. Labels are integers [B]; other items of a batch are ignored.
    Raises `ArgumentError` for data without samples, of differing shapes, or not finite.
    """
    if most is not None:
        check_integer("samples", most, 1)
    batches: list[Tensor] = []
    labels: list[Tensor | None] = []
    left = most
    for number, (x, y) in enumerate(_batches(data)):
        _check(x, batches[0] if batches else None, number)
        batches.append(x[:left])
        labels.append(y if y is None else y[:left])
        if left is not None:
            left -= len(batches[-1])
            if left == 0:
                break
    if not batches:
        raise ArgumentError(f"data: expected at least one batch of samples, found {type_name(data)} without any")
    known = [y for y in labels if y is not None]
    return Samples(tuple(batches), tuple(known) if len(known) == len(batches) else None)


def _batches(data: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
    if isinstance(data, Tensor):
        _check_axes(data, "data")
        yield from ((x, None) for x in torch.split(data, _BATCH))
    elif isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = data
        _check_axes(x, "data")
        labels = _labels(y, x, "data")
        parts: Sequence[Tensor | None] = [None] * len(x) if labels is None else torch.split(labels, _BATCH)
        yield from zip(torch.split(x, _BATCH), parts, strict=False)
    elif isinstance(data, Dataset) and hasattr(data, "__len__") and not isinstance(data, Iterable):
        yield from _batches(DataLoader(data, batch_size=_BATCH))
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):
        for number, item in enumerate(data):
            yield _batch(item, f"data, batch {number}")
    else:
        expected = "a tensor, a pair (samples, labels), a dataset or an iterable of batches"
        raise ArgumentError(f"data: expected {expected}, found {type_name(data)}")


def _batch(item: Any, where: str) -> tuple[Tensor, Tensor | None]:
    x, targets = split(item, where)
    _check_axes(x, where)
    return x, _labels(targets, x, where)


def split(item: Any, where: str) -> tuple[Tensor, Any]:
    """The samples of a batch, and its second item if it has one."""
    pair = isinstance(item, tuple | list) and len(item) > 0
    x = item[0] if pair else item
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{where}: expected a tensor or a pair (samples, labels), found {type_name(item)}")
    return x, item[1] if pair and len(item) > 1 else None


def _check_axes(x: Tensor, where: str) -> None:
    if x.ndim < 2:
        raise ArgumentError(f"{where}: expected samples [B, *shape], found a tensor of shape {tuple(x.shape)}")


def _labels(y: Any, x: Tensor, where: str) -> Tensor | None:
    """The labels if they are classes; None for other targets, which have no accuracy."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or y.ndim != 1:
        return None
    if len(y) != len(x):
        raise ArgumentError(f"{where}: expected a label for each of {len(x)} samples, found {len(y)}")
    return y


def _check(x: Tensor, first: Tensor | None, number: int) -> None:
    where = f"data, batch {number}"
    if len(x) == 0:
        raise ArgumentError(f"{where}: expected at least one sample, found a tensor of shape {tuple(x.shape)}")
    if first is not None and (x.shape[1:] != first.shape[1:] or x.dtype != first.dtype):
        expected = f"samples as in the first batch, {tuple(first.shape[1:])} {first.dtype}"
        raise ArgumentError(f"{where}: expected {expected}, found {tuple(x.shape[1:])} {x.dtype}")
    if not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).sum())
        raise ArgumentError(f"{where}: expected finite values, found {bad} that are NaN or infinite")


def type_name(value: object) -> str:
    """The type of a value, as a message states it."""
    return "None" if value is None else f"a {type(value).__name__}"
