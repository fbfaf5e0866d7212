"""Checkpoints of training: written atomically, and read only by a run with the same settings."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neurocuda.errors import ArgumentError, FileError


class Position(NamedTuple):
    """The next batch to train on: its phase, epoch and number."""

    phase: int
    epoch: int
    batch: int

    def done(self, phase: int, epoch: int, batches: int) -> int:
        """The number of batches of an epoch that are done."""
        if (phase, epoch) == (self.phase, self.epoch):
            return self.batch
        return batches if (phase, epoch) < (self.phase, self.epoch) else 0


@dataclass(frozen=True)
class Found:
    """The content of a checkpoint; `generators` are their states at the start of the epoch."""

    position: Position
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    generators: list[Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The file of a run of training. `run` is the fingerprint of the run."""

    path: str | os.PathLike[str]
    run: str

    def read(self) -> Found | None:
        """The content of the file, None without a file. Raises `FileError`, or `ArgumentError` for another run."""
        path = Path(self.path)
        if not path.exists():
            return None
        try:
            content = torch.load(path, weights_only=True)
            run, position = content["run"], Position(*content["position"])
            found = Found(position, content["parameters"], content["optimizer"], content["generators"])
        except Exception as error:  # torch.load raises many types of errors
            raise FileError(f"{path}: expected a checkpoint of finetune, found what cannot be read: {error}") from error
        if run != self.run:
            raise ArgumentError(
                f"checkpoint: expected {path} to be of this run, found one of other settings, weights or thresholds; "
                "remove it, or name another"
            )
        return found

    def write(
        self, parameters: nn.Module, optimizer: torch.optim.Optimizer, at: Position, states: list[Tensor]
    ) -> None:
        """Writes a temporary file, and renames it to `path`."""
        path = Path(self.path)
        content = {
            "run": self.run,
            "position": tuple(at),
            "parameters": parameters.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generators": states,
        }
        beside = path.with_name(path.name + ".partial")
        try:
            with beside.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error}") from error


def fingerprint(settings: tuple[object, ...], network: nn.Module) -> str:
    """A hash of the settings and of the initial parameters."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
