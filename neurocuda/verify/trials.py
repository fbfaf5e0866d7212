"""`verify`: runs a NIR file in chunks, batches, orders and threads other than the default ones, and compares."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neurocuda.compiler.certificate import Proof
from neurocuda.compiler.grids import InputGrid
from neurocuda.compiler.lowering import BY_LIBRARY, How
from neurocuda.discretization.metadata import settled
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, check_integer
from neurocuda.graph import PRIMITIVES, Graph
from neurocuda.graph.serialization import read
from neurocuda.ops import int8
from neurocuda.runtime.nir_executor import Executor
from neurocuda.runtime.state import RunResult, State
from neurocuda.verify.differences import Difference, Recordings, first_difference, state_difference
from neurocuda.verify.file_order import rewrite_in_other_order

_CHUNKS = (1, 7, 32)
_ORDERS = 3
_MAX_STOPS = 8
_SEED = 20


@dataclass(frozen=True)
class Trial:
    """One run under other conditions.

    Args:
        way: The conditions, such as "in chunks of 7 steps".
        difference: First difference from the baseline; None if all bits are equal.

    Example:
        >>> from neurocuda.verify import Trial
        >>> Trial("on 2 threads", None).difference is None
        True
    """

    way: str
    difference: Difference | None


@dataclass(frozen=True)
class Report:
    """The result of `verify`.

    Args:
        source: Path of the file.
        steps: T, time steps of the run.
        batch: B, samples of the run.
        nodes: Nodes of the graph.
        values: Values that one trial compares.
        spikes: Spike count of the baseline.
        library: Layers that the vendor library sums, whose last bit may depend on chunk, batch and threads.
        trials: The trials, in order.

    Example:
        >>> from neurocuda.verify import Report, Trial
        >>> Report("net.nir", 50, 4, 3, 6000, 120, (), (Trial("on 2 threads", None),)).ok
        True
    """

    source: str
    steps: int
    batch: int
    nodes: int
    values: int
    spikes: int
    library: tuple[str, ...]
    trials: tuple[Trial, ...]

    @property
    def ok(self) -> bool:
        """Whether every trial has the bits of the baseline."""
        return all(trial.difference is None for trial in self.trials)


@dataclass(frozen=True)
class _Baseline:
    """The run that trials are compared with: the full batch, default chunks, the file in its own order."""

    net: Executor
    x: Mapping[str, Tensor]
    record: Mapping[str, tuple[str, ...]]
    order: tuple[str, ...]
    result: RunResult

    @property
    def steps(self) -> int:
        return next(iter(self.x.values())).shape[0]

    @property
    def batch(self) -> int:
        return next(iter(self.x.values())).shape[1]

    @property
    def spikes(self) -> int:
        """Spike count of all neurons and thresholds."""
        firing = [name for name, node in self.net.graph.nodes.items() if node.primitive.emits_spikes]
        return sum(int(self.result.recordings[name]["output"].sum(dtype=torch.float64)) for name in firing)

    def trial(self, way: str, recordings: Recordings, state: State, start: int = 0) -> Trial:
        difference = first_difference(self.result.recordings, recordings, self.order, start)
        last = self.steps - 1
        return Trial(way, difference or state_difference(self.result.state, state, self.order, last))

    def again(self, way: str, net: Executor | None = None) -> Trial:
        """Runs the input again, on another network or under other global settings."""
        result = (net or self.net).run(self.x, record=self.record)
        return self.trial(way, result.recordings, result.state)


def verify(
    file: str | os.PathLike[str],
    discretization: Discretization | None = None,
    x: Mapping[str, Tensor] | None = None,
    *,
    steps: int = 50,
    batch: int = 4,
    force: Mapping[str, How] | None = None,
) -> Report:
    """Runs a NIR file in other chunks, batches, orders, with other threads and in pieces, and compares every bit.

    The baseline is the run in default chunks. Each trial compares, at every time step, the output of each node, v and i
    of each neuron, and the state at the end. If a random input causes no spike, it is scaled by 8, then by 64.

    Args:
        file: Path of the NIR file.
        discretization: Meaning of a time step. Default: that of the file, else `Discretization()`.
        x: Inputs [T, B, *shape] by name; None (default): random ones (`drawn_input`).
        steps: T of the random input, default 50.
        batch: B of the random input, default 4.
        force: Implementation of layers by name, as for `Executor`; None (default): chosen from the graph.

    Returns:
        A `Report` with the outcome of each trial.

    Raises:
        FileError: The file cannot be read.
        GraphError: The graph is invalid.
        ArgumentError: An input or an option does not fit.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from neurocuda import Discretization, nn, to_nir
        >>> from neurocuda.verify import verify
        >>> dt = Discretization(dt=1.0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), nn.LIF(tau=2.0, discretization=dt))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     graph = to_nir(model, f"{folder}/net.nir", torch.rand(1, 1, 3))
        ...     verify(f"{folder}/net.nir", dt, steps=5, batch=2).ok
        True
    """
    graph = read(file)
    net = Executor(graph, settled(graph, discretization), force=force)
    random = x is None
    if x is None:
        x = drawn_input(graph, steps, batch)
    record = {name: _quantities(graph, name) for name in graph.nodes}
    order = tuple(name for stage in net.schedule.schedule.stages for name in stage.nodes)
    with torch.no_grad():
        baseline = _Baseline(net, x, record, order, net.run(x, record=record))
        for gain in (8, 64) if random else ():
            if baseline.spikes:
                break
            x = {name: signal * gain for name, signal in drawn_input(graph, steps, batch).items()}
            baseline = _Baseline(net, x, record, order, net.run(x, record=record))
        if baseline.steps < 1 or baseline.batch < 1:
            found = f"T, B = {baseline.steps}, {baseline.batch}"
            raise ArgumentError(f"x: expected at least one step of one sample, found {found}")
        trials = [
            *_other_chunks(baseline, force),
            *_other_batches(baseline),
            *_other_orders(baseline, file, force),
            *_stopped_and_resumed(baseline),
            *_other_threads(baseline),
            *_other_arithmetic(baseline, force),
        ]
    recordings = baseline.result.recordings
    return Report(
        source=os.fspath(file),
        steps=baseline.steps,
        batch=baseline.batch,
        nodes=len(graph.nodes),
        values=sum(trace.numel() for traces in recordings.values() for trace in traces.values()),
        spikes=baseline.spikes,
        library=library_layers(net, x),
        trials=tuple(trials),
    )


def drawn_input(graph: Graph, steps: int, batch: int) -> dict[str, Tensor]:
    """A random float32 input [steps, batch, *shape] for each Input, with a fixed seed: 30 % are 1, 2 or 3, others 0.

    Raises `ArgumentError` for fewer than one time step or sample.
    """
    for name, count in (("steps", steps), ("batch", batch)):
        check_integer(name, count, 1)
    generator = torch.Generator().manual_seed(_SEED)
    signals = {}
    for name in graph.inputs:
        shape = (steps, batch, *graph.nodes[name].output_shape)
        present = torch.rand(shape, generator=generator) < 0.3
        signals[name] = torch.randint(1, 4, shape, generator=generator).float() * present
    return signals


def library_layers(net: Executor, x: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The layers that the vendor library computes, whose last bit may depend on chunk, batch and threads.

    Layers that are proved exact for these inputs are not among them.
    """
    entries = [entry for stage in net.schedule.stages for entry in stage.nodes]
    exact = {proof.node for proof in _proved(net, x)}
    return tuple(entry.node.name for entry in entries if entry.how in BY_LIBRARY and entry.node.name not in exact)


def _proved(net: Executor, x: Mapping[str, Tensor]) -> list[Proof]:
    """The proofs of the exact layers with weights, without those that rely on an input which is off its grid."""
    off_grid = {name for name, grid in net.certificate.inputs.items() if not _is_on_grid(x[name], grid)}
    proofs = net.certificate.proofs
    exact = [proof for proof in proofs if proof.exact and PRIMITIVES[proof.type].is_weighted]
    return [proof for proof in exact if not proof.inputs & off_grid]


def _is_on_grid(x: Tensor, grid: InputGrid) -> bool:
    x = x.float()
    return bool((((x / grid.step).round() * grid.step == x) & (x >= grid.low) & (x <= grid.high)).all())


def _other_chunks(baseline: _Baseline, force: Mapping[str, How] | None) -> Iterator[Trial]:
    sizes = sorted({size for size in _CHUNKS if size < baseline.steps} | {baseline.steps})
    for size in sizes:
        net = Executor(baseline.net.graph, baseline.net.discretization, chunk=size, force=force)
        yield baseline.again(f"in chunks of {size} step{'s' * (size > 1)}", net)


def _other_batches(baseline: _Baseline) -> Iterator[Trial]:
    half = (baseline.batch + 1) // 2
    for size, way in ((half, "batch split into halves"), (1, "batch split into single samples")):
        if size == baseline.batch or (half == 1 and way.endswith("halves")):
            continue
        parts = [
            baseline.net.run(_part(baseline.x, 1, start, start + size), record=baseline.record)
            for start in range(0, baseline.batch, size)
        ]
        yield baseline.trial(way, _joined(parts, 1), State.cat([part.state for part in parts]))


def _other_orders(
    baseline: _Baseline, file: str | os.PathLike[str], force: Mapping[str, How] | None
) -> Iterator[Trial]:
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, _ORDERS + 1):
            rewritten = Path(folder) / f"order{seed}.nir"
            rewrite_in_other_order(file, rewritten, seed)
            net = Executor(read(rewritten), baseline.net.discretization, force=force)
            yield baseline.again(f"nodes and edges of the file in another order ({seed})", net)


def _stopped_and_resumed(baseline: _Baseline) -> Iterator[Trial]:
    if baseline.steps < 2:
        return
    stops = _stops(baseline.steps)
    state: State | None = None
    parts, saved = [], {}
    for step in range(baseline.steps):
        if step in stops and state is not None:
            saved[step] = _saved_and_read(state)
        parts.append(baseline.net.run(_part(baseline.x, 0, step, step + 1), state, baseline.record))
        state = parts[-1].state
    yield baseline.trial("stopped and resumed at every step", _joined(parts, 0), parts[-1].state)
    for step, restored in saved.items():
        rest = baseline.net.run(_part(baseline.x, 0, step, baseline.steps), restored, baseline.record)
        trial = baseline.trial(f"resumed at step {step} from a saved state", rest.recordings, rest.state, step)
        if trial.difference is not None:
            yield trial
            return
    yield Trial(f"resumed from a saved state at step {', '.join(map(str, stops))}", None)


def _stops(steps: int) -> list[int]:
    """All time steps after the first, or a random sample of them."""
    if steps - 1 <= _MAX_STOPS:
        return list(range(1, steps))
    drawn = np.random.default_rng(_SEED).choice(np.arange(1, steps), _MAX_STOPS, replace=False)
    return sorted(drawn.tolist())


def _saved_and_read(state: State) -> State:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    restored = torch.load(file, weights_only=True)
    assert isinstance(restored, State)
    return restored


def _other_threads(baseline: _Baseline) -> Iterator[Trial]:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            yield baseline.again(f"on {threads} thread{'s' * (threads > 1)}")
    finally:
        torch.set_num_threads(before)


def _other_arithmetic(baseline: _Baseline, force: Mapping[str, How] | None) -> Iterator[Trial]:
    """Layers that are proved exact, computed by the vendor library and as int8 layers."""
    net = baseline.net
    proofs = _proved(net, baseline.x)
    implementations: list[tuple[How, list[str]]] = [("library", [proof.node for proof in proofs])]
    if int8.is_fast("cpu"):
        implementations.append(("integer", [proof.node for proof in proofs if proof.integers is not None]))
    for implementation, names in implementations:
        if names:
            forced = {**(force or {}), **dict.fromkeys(names, implementation)}
            other = Executor(net.graph, net.discretization, force=forced)
            yield baseline.again(f"layers proved exact, {implementation} sums", other)


def _quantities(graph: Graph, name: str) -> tuple[str, ...]:
    node = graph.nodes[name]
    membrane = ("v",) if node.primitive.is_neuron else ()
    return ("output", *membrane, *(("i",) if "tau_syn" in node.parameters else ()))


def _part(x: Mapping[str, Tensor], axis: int, start: int, stop: int) -> dict[str, Tensor]:
    length = min(stop, next(iter(x.values())).shape[axis]) - start
    return {name: signal.narrow(axis, start, length) for name, signal in x.items()}


def _joined(parts: Sequence[RunResult], axis: int) -> Recordings:
    return {
        name: {key: torch.cat([part.recordings[name][key] for part in parts], axis) for key in traces}
        for name, traces in parts[0].recordings.items()
    }
