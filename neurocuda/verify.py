"""Trials of a graph: runs it in every way that must not change a bit, and names the first value that differs."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from neurocuda.compiler.certificate import Proof
from neurocuda.compiler.grids import InputGrid
from neurocuda.compiler.lowering import BY_LIBRARY, How
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, check_integer
from neurocuda.graph import PRIMITIVES, Graph
from neurocuda.graph.serialization import read
from neurocuda.ops import int8
from neurocuda.runtime.nir_executor import Executor, RunResult
from neurocuda.runtime.state import State

Recordings = Mapping[str, Mapping[str, Tensor]]
"""What was recorded, by node and quantity: [T, B, *shape]."""

_CHUNKS = (1, 7, 32)
_ORDERS = 3
_MOST_STOPS = 8
_SEED = 20


@dataclass(frozen=True)
class Difference:
    """The first value that differs: of which node and quantity, at which step (from 0) and index [B, *shape]."""

    node: str
    quantity: str
    step: int
    index: tuple[int, ...]
    expected: float
    found: float

    def __str__(self) -> str:
        place = f"node {self.node!r}, {self.quantity!r} at step {self.step}, index {self.index}"
        return f"{place}: {_float32_text(self.expected)} became {_float32_text(self.found)}"


@dataclass(frozen=True)
class Trial:
    """One other way to run the graph, and the first difference from the baseline; None where there is none."""

    way: str
    difference: Difference | None


@dataclass(frozen=True)
class Report:
    """The outcome of `verify`: every trial, in order.

    `values` is how many values a trial compares, `spikes` how many spikes the baseline fired; `library` names
    the layers whose last bit is the vendor library's choice.
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
        """Whether every trial gave the bits of the baseline."""
        return all(trial.difference is None for trial in self.trials)


@dataclass(frozen=True)
class _Baseline:
    """The run that all others are compared with: whole batch, usual chunks, the file as it is."""

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
        """How many spikes were fired."""
        firing = [name for name, node in self.net.graph.nodes.items() if node.primitive.emits_spikes]
        return sum(int(self.result.recordings[name]["output"].sum(dtype=torch.float64)) for name in firing)

    def trial(self, way: str, recordings: Recordings, state: State, start: int = 0) -> Trial:
        difference = first_difference(self.result.recordings, recordings, self.order, start)
        last = self.steps - 1
        return Trial(way, difference or state_difference(self.result.state, state, self.order, last))

    def again(self, way: str, net: Executor | None = None) -> Trial:
        """The same run once more, of another network or under other circumstances."""
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
    """Run a NIR file in other chunks, batches, orders, with other threads and in pieces; compare every node.

    x: by name of Input, [T, B, *shape]; None draws one of `steps` steps and `batch` samples (`drawn_input`), and
    strengthens it up to 64-fold if nothing fires.
    Compared at every step with the run in the default chunks: each node's output, each neuron's v and i, and
    the state at the end. `force` is that of `Executor`. Raises `FileError`, `GraphError` or `ArgumentError`.
    """
    graph = read(file)
    net = Executor(graph, discretization, force=force)
    drawn = x is None
    if x is None:
        x = drawn_input(graph, steps, batch)
    record = {name: _quantities(graph, name) for name in graph.nodes}
    order = tuple(name for stage in net.schedule.schedule.stages for name in stage.nodes)
    with torch.no_grad():
        baseline = _Baseline(net, x, record, order, net.run(x, record=record))
        for gain in (8, 64) if drawn else ():
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
    """An input for every Input, [steps, batch, *shape] float32: three in ten values are 1, 2 or 3, the rest 0.

    The same numbers at every call. Raises `ArgumentError` for fewer than one step or sample.
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


def first_difference(
    expected: Recordings, found: Recordings, order: Sequence[str], start: int = 0
) -> Difference | None:
    """The first value of `found` that is not the one of `expected`: earliest step, then first node of `order`.

    So nothing before it differs, and it is no consequence of another difference. `found` begins at step
    `start` of `expected`. Equal is as in torch.equal (-0.0 equals 0.0), and NaN equals NaN. Raises
    `ArgumentError` where shapes differ.
    """
    first: Difference | None = None
    for name in order:
        for quantity, trace in expected[name].items():
            wanted, got = trace[start:], found[name][quantity]
            if wanted.shape != got.shape:
                shapes = f"shape {tuple(wanted.shape)}, found {tuple(got.shape)}"
                raise ArgumentError(f"node {name!r}, {quantity!r}: expected {shapes}")
            at = _first_unequal(wanted, got)
            if at is not None and (first is None or at[0] + start < first.step):
                values = float(wanted[at]), float(got[at])
                first = Difference(name, quantity, at[0] + start, at[1:], *values)
    return first


def state_difference(expected: State, found: State, order: Sequence[str], step: int) -> Difference | None:
    """The first value of two states after `step` that differs, nodes in `order`; None where there is none."""
    place = {name: number for number, name in enumerate(order)}
    entries = sorted(expected.tensors, key=lambda entry: (place[entry.rpartition(".")[0]], entry))
    for entry in entries:
        name, _, quantity = entry.rpartition(".")
        at = _first_unequal(expected.tensors[entry], found.tensors[entry])
        if at is not None:
            values = float(expected.tensors[entry][at]), float(found.tensors[entry][at])
            return Difference(name, f"state {quantity}", step, at, *values)
    return None


def library_layers(net: Executor, x: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The layers that the vendor's library computes, whose last bit may depend on chunk, batch and threads.

    Not those that are proved exact in any order, for these inputs.
    """
    entries = [entry for stage in net.schedule.stages for entry in stage.nodes]
    exact = {proof.node for proof in _proved(net, x)}
    return tuple(entry.node.name for entry in entries if entry.how in BY_LIBRARY and entry.node.name not in exact)


def _proved(net: Executor, x: Mapping[str, Tensor]) -> list[Proof]:
    """The layers with weights that are proved exact, and rest on none of the inputs that break their promise."""
    broken = {name for name, grid in net.certificate.inputs.items() if not _is_on(x[name], grid)}
    proofs = net.certificate.proofs
    return [
        proof for proof in proofs if proof.exact and PRIMITIVES[proof.type].is_weighted and not proof.inputs & broken
    ]


def _is_on(x: Tensor, grid: InputGrid) -> bool:
    x = x.float()
    return bool((((x / grid.step).round() * grid.step == x) & (x >= grid.low) & (x <= grid.high)).all())


def rewrite_in_other_order(file: str | os.PathLike[str], target: str | os.PathLike[str], seed: int) -> None:
    """Copy a NIR file with its nodes, their fields and the edges, nested graphs included, in a random order."""
    generator = np.random.default_rng(seed)
    with h5py.File(file, "r") as old, h5py.File(target, "w", track_order=True) as new:
        _copy_in_other_order(old, new, generator)


def _copy_in_other_order(old: h5py.Group, new: h5py.Group, generator: np.random.Generator) -> None:
    for key in generator.permutation(np.array(sorted(old), dtype=object)):
        item = old[key]
        if isinstance(item, h5py.Group):
            _copy_in_other_order(item, new.create_group(key, track_order=True), generator)
        elif key == "edges" and item.shape:
            new.create_dataset(key, data=generator.permutation(item[()]), dtype=item.dtype)
        else:
            old.copy(key, new)


def _other_chunks(baseline: _Baseline, force: Mapping[str, How] | None) -> Iterator[Trial]:
    sizes = sorted({size for size in _CHUNKS if size < baseline.steps} | {baseline.steps})
    for size in sizes:
        net = Executor(baseline.net.graph, baseline.net.discretization, chunk=size, force=force)
        yield baseline.again(f"in chunks of {size} step{'s' * (size > 1)}", net)


def _other_batches(baseline: _Baseline) -> Iterator[Trial]:
    half = (baseline.batch + 1) // 2
    for size, way in ((half, "batch split into halves"), (1, "batch split into single samples")):
        if size == baseline.batch or (size == 1 and half == 1 and "halves" in way):
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
    """All steps after the first, or a sample of them where they are many."""
    if steps - 1 <= _MOST_STOPS:
        return list(range(1, steps))
    drawn = np.random.default_rng(_SEED).choice(np.arange(1, steps), _MOST_STOPS, replace=False)
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
    """Layers that are proved exact by other means."""
    net = baseline.net
    proofs = _proved(net, baseline.x)
    ways: list[tuple[How, list[str]]] = [("library", [proof.node for proof in proofs])]
    if int8.gains("cpu"):
        ways.append(("integer", [proof.node for proof in proofs if proof.integers is not None]))
    for how, names in ways:
        if names:
            forced = {**(force or {}), **dict.fromkeys(names, how)}
            other = Executor(net.graph, net.discretization, force=forced)
            yield baseline.again(f"what is proved exact, {how} sums", other)


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


def _first_unequal(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    unequal = ~((a == b) | (a.isnan() & b.isnan()))
    if not bool(unequal.any()):
        return None
    return tuple(int(i) for i in unequal.nonzero()[0])


def _float32_text(value: float) -> str:
    """The shortest decimal that means this float32, and its bits."""
    number = np.float32(value)
    return f"{number} (0x{number.view(np.uint32):08x})"
