"""Compares the recorded networks of other simulators with NeuroCUDA, under the preset of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import neurocuda
from neurocuda import Discretization

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Result:
    """How one run of a simulator compares with NeuroCUDA's.

    Args:
        outputs: Number of outputs, 0 if one of the two refused the network.
        different: Number of outputs that differ.
        message: "equal", the first difference, or the refusal.
        ulp: The largest difference of the membrane potentials in float32 steps, or None if they were not told.
    """

    outputs: int
    different: int
    message: str
    ulp: int | None = None

    @property
    def equal(self) -> bool:
        """Whether every output is equal."""
        return self.outputs > 0 and self.different == 0


@dataclass(frozen=True)
class Recorded:
    """The files of one network; see `record.case`."""

    path: Path

    @property
    def arrays(self) -> Any:
        """The archive."""
        return np.load(self.path)

    @property
    def about(self) -> dict[str, Any]:
        """Tool, name, dt, changes, rates, and refusals."""
        return json.loads(str(self.arrays["about"]))  # type: ignore[no-any-return]

    def file(self, form: str) -> Path:
        """The .nir file, "written" or "exported"."""
        return self.path.parent / f"{self.path.stem}.{form}.nir"


def native(recorded: Recorded, form: str) -> Result:
    """The native run against NeuroCUDA's run of a file with the native preset."""
    about = recorded.about
    if form in about:
        return Result(0, 0, about[form])
    return _compared(recorded, form, "native", _preset(about, native=True, **about["changes"]))


def imported(recorded: Recorded, form: str) -> Result:
    """The run of the simulator's import of a file against NeuroCUDA's with the preset."""
    about = recorded.about
    for refusal in (form, f"imported {form}"):
        if refusal in about:
            return Result(0, 0, about[refusal])
    return _compared(recorded, form, f"imported {form}", _preset(about, native=False))


def _preset(about: dict[str, Any], native: bool, **changes: Any) -> Discretization:
    return Discretization.preset(about["tool"], native=native, dt=about["dt"], **changes)


def _compared(recorded: Recorded, form: str, run: str, discretization: Discretization) -> Result:
    arrays = recorded.arrays
    theirs = {key.removeprefix(run + " "): arrays[key] for key in arrays if key.startswith(run + " ")}
    last = max(key for key in theirs if key.startswith("spikes"))
    try:
        ours, membranes = _run(recorded.file(form), discretization, arrays["x"])
    except neurocuda.NeuroCUDAError as error:
        return Result(0, 0, f"NeuroCUDA refuses it: {error}")
    found = [theirs[key] for key in sorted(theirs) if key.startswith("membranes")]
    distances = [_ulp(*pair) for pair in zip(found, membranes, strict=False)]
    ulp = max((d for d in distances if d is not None), default=None)
    different = np.argwhere(ours != theirs[last])
    if len(different) == 0:
        return Result(ours.size, 0, "equal", ulp)
    step, sample, neuron = map(int, different[0])
    values = f"{theirs[last][step, sample, neuron]:g}, here {ours[step, sample, neuron]:g}"
    return Result(ours.size, len(different), f"step {step}, sample {sample}, neuron {neuron}: {values}", ulp)


def _run(path: Path, discretization: Discretization, x: Array) -> tuple[Array, list[Array]]:
    """The outputs in one call, and the membrane potentials after each step."""
    net = neurocuda.load(path, discretization, frozen=True)
    outputs = net.output(torch.from_numpy(x))
    assert isinstance(outputs, torch.Tensor)
    membranes: dict[str, list[Array]] = {}
    state = None
    for step, now in enumerate(x):
        y, state = net(torch.from_numpy(now[None]), state)
        assert torch.equal(y, outputs[step : step + 1])
        for key, value in state.tensors.items():
            if key.endswith(".v"):
                membranes.setdefault(key, []).append(value.numpy().copy())
    return outputs.numpy(), [np.stack(v) for v in membranes.values()]


def _ulp(a: Array, b: Array) -> int | None:
    """The largest distance in units of the last place, those of 1/16 for smaller values; None where one overflows."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    spacing = np.spacing(np.maximum(np.maximum(abs(a), abs(b)), np.float32(2**-4)))
    return int(np.ceil((abs(a - b) / spacing).max()))
