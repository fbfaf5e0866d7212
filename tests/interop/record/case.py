"""A network of one simulator: built, run, exported and imported there, and written to files."""

from __future__ import annotations

import contextlib
import io
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

STEPS, BATCH, INPUTS, NEURONS = 16, 25, 32, 64
"""T x B x N = 25,600 outputs. 16 steps with decays of 1/2 keep sums on the grid within 24 bits."""

SPACING = 1 / 8
RATES = (0.05, 0.5)


@dataclass(frozen=True)
class Run:
    """What two populations computed.

    Args:
        spikes: [T, B, N] of each population, the last one of the output.
        membranes: [T, B, N] of each population after each step; empty if the simulator does not tell them.
    """

    spikes: list[Array]
    membranes: list[Array]


@dataclass(frozen=True)
class Case:
    """A network of two populations: Linear, neurons, Linear, neurons.

    Args:
        tool: A name of `neurocuda.discretization.settings.PRESETS`.
        name: The class of the simulator and its arguments.
        dt: The length of a step in the written file, in seconds, or 1 for simulators that count steps.
        written: weights -> the network by hand in NIR, for the preset of a native network with `changes`.
        run: (weights, x) -> the native run.
        export: weights, x -> the graph of the simulator's exporter, or None if it has none.
        load: (graph, x) -> the run of the simulator's import, or None if it has no importer.
        changes: Fields of `Discretization` in which this network differs from the simulator's default.
        module: weights -> the network as one module, for `neurocuda.from_module`, or None if that has no such tool.
    """

    tool: str
    name: str
    dt: float
    written: Callable[[list[Array]], nir.NIRGraph]
    run: Callable[[list[Array], Array], Run]
    export: Callable[[list[Array], Array], nir.NIRGraph] | None
    load: Callable[[nir.NIRGraph, Array], Run] | None
    changes: Mapping[str, Any] = field(default_factory=dict)
    module: Callable[[list[Array]], Any] | None = None

    @property
    def file_name(self) -> str:
        """The name without characters that file systems or pytest dislike."""
        return f"{self.tool}-" + "".join(c if c.isalnum() else "_" for c in self.name).strip("_")


def inputs() -> Array:
    """Random spikes [T, B, inputs], 0 or 1."""
    rng = np.random.default_rng(0)
    return (rng.random((STEPS, BATCH, INPUTS)) < 0.3).astype(np.float32)


def chain(
    w: list[Array], first: nir.NIRNode, second: nir.NIRNode, back: nir.NIRNode | None = None, nested: bool = False
) -> nir.NIRGraph:
    """Linear, neurons, Linear, neurons; `back` is the weight from the second population to itself.

    `nested` puts the loop into a graph of its own, as some importers expect it.
    """
    nodes = {
        "input": nir.Input({"input": np.array([INPUTS])}),
        "linear1": nir.Linear(w[0]),
        "neuron1": first,
        "linear2": nir.Linear(w[1]),
        "neuron2": second,
        "output": nir.Output({"output": np.array([NEURONS])}),
    }
    names = list(nodes)
    edges = list(pairwise(names))
    if back is not None and nested:
        size = np.array([NEURONS])
        inner = {
            "input": nir.Input({"input": size}),
            "lif": second,
            "w_rec": back,
            "output": nir.Output({"output": size}),
        }
        links = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
        nodes["neuron2"] = nir.NIRGraph(inner, links, type_check=False)
    elif back is not None:
        # The first name in alphabetical order, that of the edges of a file: in nirtorch the loop comes first.
        nodes["back"] = back
        edges = [("back", "neuron2"), ("neuron2", "back"), *edges]
    return nir.NIRGraph(nodes, edges, type_check=False)


def full(value: Any) -> Array:
    """[N] of a value, or an [N] that is given."""
    return np.broadcast_to(np.asarray(value, dtype=np.float32), (NEURONS,)).copy()


def alternating(*values: float) -> Array:
    """[N]: the values in turns, for parameters that differ from neuron to neuron."""
    return np.resize(np.asarray(values, dtype=np.float32), NEURONS)


def recurrent_weight() -> Array:
    """[N, N] on the grid, of mean zero, without self-connections."""
    weight = np.random.default_rng(7).integers(-1, 2, (NEURONS, NEURONS)) * np.float32(SPACING)
    np.fill_diagonal(weight, 0)
    return weight.astype(np.float32)


def weights(case: Case, x: Array, grid: bool = True) -> list[Array]:
    """Weights with which each population fires in 5 to 50 % of its steps: multiples of the spacing, or any floats."""
    rng = np.random.default_rng(zlib.crc32(case.file_name.encode()))
    base = [rng.integers(-4, 5, (NEURONS, n)).astype(np.float32) for n in (INPUTS, NEURONS)]
    if not grid:
        base = [w + rng.uniform(-0.5, 0.5, w.shape).astype(np.float32) for w in base]
    found = [w * np.float32(SPACING) for w in base]
    for population in range(2):
        # The firing rate grows with the mean of the weights, in units of the spacing.
        for offset in np.arange(-2, 12, 0.125):
            more = np.floor(offset + rng.random(base[population].shape)).astype(np.float32)
            found[population] = (base[population] + more) * np.float32(SPACING)
            if 0.15 <= float((case.run(found, x).spikes[population] > 0).mean()) <= 0.4:
                break
        else:
            raise ValueError(f"{case.tool} {case.name}: population {population + 1} fires too rarely or too often")
    return found


def record(case: Case, folder: Path) -> None:
    """Writes `<case>.npz`, and the files `<case>.written.nir` and `<case>.exported.nir`.

    `<case>.float.nir` is the written file with weights that are not on the grid.
    """
    x = inputs()
    w = weights(case, x)
    native = case.run(w, x)
    rates = [float((s > 0).mean()) for s in native.spikes]
    assert all(RATES[0] <= rate <= RATES[1] for rate in rates), rates
    arrays: dict[str, Any] = {"x": x, "weights 0": w[0], "weights 1": w[1], **_arrays("native", native)}
    told: dict[str, Any] = {"rates": rates}
    for form, build in (("written", lambda: case.written(w)), ("exported", lambda: case.export and case.export(w, x))):
        path = folder / f"{case.file_name}.{form}.nir"
        try:
            graph = _quietly(build)
            if graph is None:
                told[form] = "no exporter"
                continue
            nir.write(path, graph)
        except Exception as error:  # every refusal of a simulator is a result
            told[form] = _message(error)
            continue
        if case.load is None:
            told[f"imported {form}"] = "no importer"
            continue
        try:
            arrays |= _arrays(
                f"imported {form}", _quietly(lambda path=path: case.load(nir.read(path, type_check=False), x))
            )
        except Exception as error:
            told[f"imported {form}"] = _message(error)
    w = weights(case, x, grid=False)
    arrays |= _arrays("float", case.run(w, x))
    nir.write(folder / f"{case.file_name}.float.nir", case.written(w))
    head = {"tool": case.tool, "name": case.name, "dt": case.dt, "changes": dict(case.changes)}
    told["live"] = case.module is not None
    np.savez_compressed(folder / f"{case.file_name}.npz", about=json.dumps({**head, **told}), **arrays)


def _arrays(name: str, run: Run) -> dict[str, Any]:
    found = {f"{name} spikes {i}": np.asarray(s, dtype=np.float32) for i, s in enumerate(run.spikes)}
    return found | {f"{name} membranes {i}": np.asarray(v, dtype=np.float32) for i, v in enumerate(run.membranes)}


def _quietly(call: Callable[[], Any]) -> Any:
    """Importers print warnings."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return call()


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
