"""Compares the recorded networks of other simulators with NeuroCUDA, under the preset of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
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


def recordings(folder: Path, tool: str = "*") -> list[Recorded]:
    """The recorded networks of a simulator, or of all."""
    paths = sorted(folder.glob(f"{tool}-*.npz"))
    return [Recorded(path) for path in paths if not path.name.endswith(".live.npz")]


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


def live(recorded: Recorded) -> Result:
    """The native run against that of `neurocuda.from_module`; see `live.py`."""
    if not recorded.about["live"]:
        return Result(0, 0, "")
    found = np.load(recorded.path.with_suffix(".live.npz"))
    if "refusal" in found:
        return Result(0, 0, f"NeuroCUDA refuses it: {found['refusal']}")
    membranes = [found[key] for key in sorted(found) if key.startswith("membranes")]
    return _result(recorded.arrays, "native", found["spikes"], membranes)


@dataclass(frozen=True)
class Divergence:
    """The first difference of two runs with float weights.

    Args:
        different: Number of outputs that differ.
        ulp: Distance of the membrane potential from the threshold there, in units of the last place of twice the
            threshold, for two spikes in a step; None if all spikes of both populations are equal.
    """

    different: int
    ulp: float | None


def divergence(recorded: Recorded) -> Divergence:
    """The native run with float weights against NeuroCUDA's run."""
    about, arrays = recorded.about, recorded.arrays
    discretization = _preset(about, native=True, **about["changes"])
    graph = nir.read(recorded.file("float"), type_check=False)
    graph.nodes["hidden"] = nir.Output({"output": np.array([arrays["float spikes 0"].shape[-1]])})
    graph.edges.append(("neuron1", "hidden"))
    spikes, membranes = _run(graph, discretization, arrays["x"])
    ours = [spikes["hidden"], spikes["output"]]
    theirs = [arrays[f"float spikes {i}"] for i in range(2)]
    different = int((ours[1] != theirs[1]).sum())
    steps = [np.flatnonzero((a != b).any(axis=(1, 2))) for a, b in zip(ours, theirs, strict=True)]
    found = [(int(step[0]), population) for population, step in enumerate(steps) if len(step)]
    if not found or "float membranes 1" not in arrays:
        return Divergence(different, None)
    step, population = min(found)
    _, sample, neuron = np.argwhere((ours[population] != theirs[population])[step : step + 1])[0]
    # A spike that leaves one step late is that of the membrane potential before.
    step -= discretization.output_delay
    node = graph.nodes[f"neuron{population + 1}"]
    threshold = np.float32(getattr(node, "nodes", {"lif": node})["lif"].v_threshold[neuron])
    pair = membranes[population], arrays[f"float membranes {population}"]
    # The one that did not fire holds the potential that was compared with the threshold.
    distance = min(abs(float(v[step, sample, neuron]) - float(threshold)) for v in pair)
    return Divergence(different, distance / float(np.spacing(2 * threshold)))


def _preset(about: dict[str, Any], native: bool, **changes: Any) -> Discretization:
    return Discretization.preset(about["tool"], native=native, dt=about["dt"], **changes)


def _compared(recorded: Recorded, form: str, run: str, discretization: Discretization) -> Result:
    arrays = recorded.arrays
    try:
        outputs, membranes = _run(recorded.file(form), discretization, arrays["x"])
    except neurocuda.NeuroCUDAError as error:
        return Result(0, 0, f"NeuroCUDA refuses it: {error}".replace(f"{recorded.path.parent}/", ""))
    return _result(arrays, run, outputs["output"], membranes)


def _result(arrays: Any, run: str, ours: Array, membranes: list[Array]) -> Result:
    """The last population's spikes and the membranes of a recorded run against ours."""
    theirs = arrays[max(key for key in arrays if key.startswith(f"{run} spikes"))]
    found = [arrays[key] for key in sorted(arrays) if key.startswith(f"{run} membranes")]
    distances = [_ulp(*pair) for pair in zip(found, membranes, strict=False)]
    ulp = max((d for d in distances if d is not None), default=None)
    different = np.argwhere(ours != theirs)
    if len(different) == 0:
        return Result(ours.size, 0, "equal", ulp)
    step, sample, neuron = map(int, different[0])
    values = f"{theirs[step, sample, neuron]:g}, here {ours[step, sample, neuron]:g}"
    return Result(ours.size, len(different), f"step {step}, sample {sample}, neuron {neuron}: {values}", ulp)


def _run(source: Any, discretization: Discretization, x: Array) -> tuple[dict[str, Array], list[Array]]:
    """The outputs by name in one call, and the membrane potentials after each step."""
    net = neurocuda.load(source, discretization, frozen=True)
    outputs = _by_name(net.output(torch.from_numpy(x)))
    membranes: dict[str, list[Array]] = {}
    state = None
    for step, now in enumerate(x):
        y, state = net(torch.from_numpy(now[None]), state)
        for name, value in _by_name(y).items():
            np.testing.assert_array_equal(value[0], outputs[name][step])
        for key, value in state.tensors.items():
            if key.endswith(".v"):
                membranes.setdefault(key, []).append(value.numpy().copy())
    return outputs, [np.stack(v) for v in membranes.values()]


def _by_name(outputs: torch.Tensor | dict[str, torch.Tensor]) -> dict[str, Array]:
    named = {"output": outputs} if isinstance(outputs, torch.Tensor) else outputs
    return {name: value.numpy() for name, value in named.items()}


def _ulp(a: Array, b: Array) -> int | None:
    """The largest distance in units of the last place, those of 1/16 for smaller values; None where one overflows."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    spacing = np.spacing(np.maximum(np.maximum(abs(a), abs(b)), np.float32(2**-4)))
    return int(np.ceil((abs(a - b) / spacing).max()))
