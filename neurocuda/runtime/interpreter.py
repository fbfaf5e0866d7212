"""Runs the stages of a lowered schedule over one chunk of time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from neurocuda.compiler.lowering import LoweredNode, LoweredSchedule, LoweredStage
from neurocuda.compiler.schedule import Edge
from neurocuda.compiler.tiling import Span, spans
from neurocuda.graph import NEURONS, SoftReset
from neurocuda.ops import NeuronState, reference
from neurocuda.runtime import layers
from neurocuda.runtime.memory_layout import joined, joined_samples, laid_by_sample, some_steps
from neurocuda.runtime.operands import Delays, Tensors

_TRACED = {"v", "i"}

_STATEFUL = NEURONS | {"Delay"}

_TAKE_BYTES = {"SumPool2d", "AvgPool2d", "Flatten"}
"""What takes uint8 spikes as they are, beside layers of integers and populations."""


@dataclass
class Chunk:
    """A chunk of `steps` steps under way.

    `carry` is the state, rebound as nodes advance; `previous` collects the last outputs that delayed edges
    will carry into the next chunk; `records` the recorded quantities, a list of pieces in time. `ends`: no chunk comes
    after it, and no state is left. `done` are stages that have run, by number. `by_sample`: signals lie sample by
    sample in memory (`frames`).
    """

    steps: int
    batch: int
    carry: dict[str, Tensor]
    records: dict[tuple[str, str], list[Tensor]]
    device: torch.device
    ends: bool = False
    signals: dict[str, Tensor] = field(default_factory=dict)
    previous: dict[str, Tensor] = field(default_factory=dict)
    done: frozenset[int] = frozenset()
    by_sample: bool = False

    def quantities(self, name: str) -> set[str]:
        return {quantity for node, quantity in self.records if node == name}

    def record(self, name: str, quantity: str, value: Tensor) -> None:
        if (name, quantity) in self.records:
            self.records[name, quantity].append(value)


def run_chunk(lowered: LoweredSchedule, tensors: Tensors, inputs: Mapping[str, Tensor], chunk: Chunk) -> None:
    """Run all stages over a chunk; leave the outputs in `chunk.signals` and the new state in `chunk.carry`."""
    if chunk.steps > 1 and not torch.compiler.is_compiling():
        _run_steady(lowered, tensors, inputs, chunk)
    # The pieces fit a CPU's caches; gradients keep every signal anyway.
    cut = chunk.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    chunk.by_sample = cut and lowered.by_sample and torch.get_num_threads() > 1
    pieces: Sequence[Span] = (Span(range(len(lowered.stages)), chunk.steps, chunk.batch),)
    fused = {n for n, stage in enumerate(lowered.stages) if stage.soft_reset and _is_enough(stage.soft_reset, chunk)}
    if cut:
        alone = chunk.ends and not chunk.records
        pieces = spans(lowered, chunk.batch, chunk.steps, torch.get_num_threads(), fused, alone)
    for span in pieces:
        if span.samples < chunk.batch or span.steps < chunk.steps:
            _run_pieces(lowered, span, tensors, inputs, chunk)
        else:
            _run_stages(lowered, span.stages, tensors, inputs, chunk)
    chunk.carry.update(chunk.previous)


def _run_steady(lowered: LoweredSchedule, tensors: Tensors, inputs: Mapping[str, Tensor], chunk: Chunk) -> None:
    """Run once for all steps what comes of inputs that lie in memory once for all steps."""
    names = {name for name, x in inputs.items() if x.stride(0) == 0}
    if not names:
        return
    done = []
    for number, stage in enumerate(lowered.stages):
        node, edges = stage.nodes[0].node, lowered.schedule.edges[stage.nodes[0].node.name]
        follows = edges and all(edge.source in names and not edge.delayed for edge in edges)
        late = f"{node.name}.previous" in chunk.carry
        if node.name in names or (follows and not late and not stage.cyclic and node.type not in _STATEFUL):
            names.add(node.name)
            done.append(number)
    once = replace(chunk, steps=1, records={key: [] for key in chunk.records if key[0] in names}, signals={})
    _run_stages(lowered, done, tensors, {name: x[:1] for name, x in inputs.items()}, once, keep=True)
    for name, signal in once.signals.items():
        chunk.signals[name] = signal.expand(chunk.steps, *signal.shape[1:])
    for (name, quantity), (values,) in once.records.items():
        chunk.record(name, quantity, values.expand(chunk.steps, *values.shape[1:]))
    chunk.done = frozenset(done)


def _run_pieces(
    lowered: LoweredSchedule, span: Span, tensors: Tensors, inputs: Mapping[str, Tensor], chunk: Chunk
) -> None:
    """Run the stages of a span over one piece of the chunk after the other."""
    by_samples = span.samples < chunk.batch
    size, count = (span.samples, chunk.batch) if by_samples else (span.steps, chunk.steps)
    before = chunk.signals
    pieces: dict[str, list[Tensor]] = {}
    left: set[str] = set()
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        piece = _some_samples(chunk, part) if by_samples else _some_steps(chunk, part)
        given = {name: x[:, part] if by_samples else x[part] for name, x in inputs.items()}
        if by_samples and span.steps < chunk.steps:
            _run_pieces(lowered, replace(span, samples=piece.batch), tensors, given, piece)
        else:
            _run_stages(lowered, span.stages, tensors, given, piece)
        left = set(piece.signals)
        for name in left - set(before):
            pieces.setdefault(name, []).append(piece.signals[name])
    for name in set(before) - left:
        del chunk.signals[name]
    for name in sorted(pieces):
        values = pieces.pop(name)
        chunk.signals[name] = joined_samples(values, chunk.by_sample) if by_samples else joined(values)


def _some_samples(chunk: Chunk, part: slice) -> Chunk:
    """Samples of a chunk that leaves nothing but signals."""
    signals = {name: signal[:, part] for name, signal in chunk.signals.items()}
    carry = {name: tensor[part] for name, tensor in chunk.carry.items()}
    return replace(chunk, batch=part.stop - part.start, signals=signals, carry=carry)


def _some_steps(chunk: Chunk, part: slice) -> Chunk:
    signals = {name: some_steps(signal, part) for name, signal in chunk.signals.items()}
    ends = chunk.ends and part.stop == chunk.steps
    return replace(chunk, steps=part.stop - part.start, signals=signals, ends=ends)


def _run_stages(
    lowered: LoweredSchedule,
    numbers: Iterable[int],
    tensors: Tensors,
    inputs: Mapping[str, Tensor],
    chunk: Chunk,
    keep: bool = False,
) -> None:
    for number in numbers:
        stage = lowered.stages[number]
        if number in chunk.done:
            pass
        elif stage.recurrence is not None:
            _run_recurrence(lowered, stage, stage.recurrence, tensors, chunk)
        elif stage.soft_reset is not None and _fuses(lowered, stage.soft_reset, tensors, chunk):
            _run_soft_reset(lowered, stage.soft_reset, tensors, chunk)
        elif stage.cyclic:
            _run_cycle(lowered, stage, tensors, chunk)
        else:
            node = stage.nodes[0].node
            if node.type == "Input":
                x = inputs[node.name]
                chunk.signals[node.name] = laid_by_sample(x) if chunk.by_sample else x
                chunk.record(node.name, "input", inputs[node.name])
                chunk.record(node.name, "output", inputs[node.name])
            else:
                branches = [_signal(edge, chunk) for edge in lowered.schedule.edges[node.name]]
                _compute(stage.nodes[0], branches, tensors, chunk, chunk.steps)
        for name in (entry.node.name for entry in stage.nodes):
            if chunk.ends:
                for quantity in ("v", "i", "history"):  # which nothing else reads
                    chunk.carry.pop(f"{name}.{quantity}", None)
            elif f"{name}.previous" in chunk.carry and f"{name}.previous" not in chunk.previous:
                chunk.previous[f"{name}.previous"] = chunk.signals[name][-1].float()  # autocast makes it narrower
        for name in () if keep else lowered.spent[number]:
            chunk.signals.pop(name, None)  # the weight of a fused recurrence has none


def _signal(edge: Edge, chunk: Chunk) -> Tensor:
    """The signal that an edge brings over the chunk."""
    signal = chunk.signals[edge.source]
    if not edge.delayed:
        return signal
    return torch.cat([chunk.carry[f"{edge.source}.previous"].unsqueeze(0), signal[:-1]])


def _run_cycle(lowered: LoweredSchedule, stage: LoweredStage, tensors: Tensors, chunk: Chunk) -> None:
    """Step through a cycle; a Delay that breaks it speaks before it listens."""
    edges = lowered.schedule.edges
    members = {entry.node.name for entry in stage.nodes}
    outer = {
        (edge.source, edge.delayed): _signal(edge, chunk)
        for name in members
        for edge in edges[name]
        if edge.source not in members
    }
    before = {
        name: chunk.carry[f"{name}.previous"].unsqueeze(0) for name in members if f"{name}.previous" in chunk.carry
    }
    breaking = members & lowered.schedule.breaking_delays
    pasts = {name: list(chunk.carry[f"{name}.history"].unbind(1)) for name in breaking}
    emitted: dict[str, list[Tensor]] = {name: [] for name in members}

    def branches(name: str, step: int, now: Mapping[str, Tensor]) -> list[Tensor]:
        arriving = []
        for edge in edges[name]:
            if edge.source in members:
                arriving.append((before if edge.delayed else now)[edge.source])
            else:
                arriving.append(outer[edge.source, edge.delayed][step : step + 1])
        return arriving

    for step in range(chunk.steps):
        for entry in stage.nodes:
            name = entry.node.name
            if name in breaking:
                depth = chunk.carry[f"{name}.history"].shape[1]
                now = _past_value(pasts[name], tensors.delays[name], depth, step).unsqueeze(0)
                chunk.signals[name] = now
                chunk.record(name, "output", now)
            else:
                _compute(entry, branches(name, step, chunk.signals), tensors, chunk, 1)
        for name in sorted(breaking):
            total = reference.branch_sum(
                branches(name, step, chunk.signals) or [_silence(chunk, pasts[name][0].shape[1:], 1)]
            )
            chunk.record(name, "input", total)
            pasts[name].append(total[0])
        for name in members:
            emitted[name].append(chunk.signals[name])
            if name in before:
                before[name] = chunk.signals[name]
    for name in breaking:
        depth = chunk.carry[f"{name}.history"].shape[1]
        chunk.carry[f"{name}.history"] = torch.stack(pasts[name][-depth:], dim=1)
    for name in members:
        chunk.signals[name] = torch.cat(emitted[name])


def _past_value(past: list[Tensor], delays: Delays, depth: int, step: int) -> Tensor:
    """The values some steps ago, element by element; past[depth + step] would be the present."""
    value: Tensor = past[depth + step - delays.counts[0]]
    for count in delays.counts[1:]:
        value = torch.where(delays.steps == count, past[depth + step - count], value)
    return value


def _run_recurrence(
    lowered: LoweredSchedule, stage: LoweredStage, pair: tuple[str, str], tensors: Tensors, chunk: Chunk
) -> None:
    neuron, weight = pair
    node = next(entry.node for entry in stage.nodes if entry.node.name == neuron)
    edges = lowered.schedule.edges[neuron]
    place = [edge.source for edge in edges].index(weight)
    branches = [_signal(edge, chunk) for edge in edges if edge.source != weight]
    branches = branches or [_silence(chunk, node.input_shape, chunk.steps)]
    previous = chunk.carry[f"{neuron}.previous"]
    read = bool(chunk.quantities(weight)) or "input" in chunk.quantities(neuron)
    wanted = [*(chunk.quantities(neuron) & _TRACED), *(["recurrent"] if read else [])]
    output, state, last, traces = tensors.operators.recurrent_neuron(
        branches,
        place,
        tensors.weights[weight, "weight"],
        tensors.weights.get((weight, "bias")),
        tensors.coefficients[neuron],
        _neuron_state(neuron, chunk),
        previous,
        tensors.surrogate,
        wanted,
        **tensors.packing(next(entry.node for entry in stage.nodes if entry.node.name == weight)),
    )
    current = traces.pop("recurrent", None)
    _keep_neuron_state(neuron, state, chunk)
    for quantity, values in traces.items():
        chunk.record(neuron, quantity, values)
    if current is not None:
        terms = list(branches) if len(edges) > 1 else []
        terms.insert(place, current)
        chunk.record(neuron, "input", tensors.operators.branch_sum(terms))
        chunk.record(weight, "input", torch.cat([previous.unsqueeze(0), output[:-1]]))
        chunk.record(weight, "output", current)
    chunk.record(neuron, "spikes", output)
    chunk.record(neuron, "output", output)
    chunk.signals[neuron], chunk.previous[f"{neuron}.previous"] = output, last


def _is_enough(loop: SoftReset, chunk: Chunk) -> bool:
    """Whether the spikes and the potential are all that is to be recorded of a soft reset."""
    integrator, level, scale = loop.integrator, loop.threshold, loop.scale
    more = chunk.quantities(scale) or chunk.quantities(level) - {"spikes", "output"}
    return not (more or chunk.quantities(integrator) - {"v", "output"})


def _fuses(lowered: LoweredSchedule, loop: SoftReset, tensors: Tensors, chunk: Chunk) -> bool:
    """Whether a soft reset runs as one operator, which has no gradient."""
    if not torch.is_grad_enabled() or not _is_enough(loop, chunk):
        return _is_enough(loop, chunk)
    integrator, level, scale = loop.integrator, loop.threshold, loop.scale
    c = tensors.coefficients[integrator]
    given = [chunk.signals[edge.source] for edge in lowered.schedule.edges[integrator] if edge.source != scale]
    given += [c.decay_v, c.gain_v, c.bias_v, tensors.weights[level, "threshold"], tensors.weights[scale, "scale"]]
    given += [chunk.carry[f"{integrator}.v"], chunk.carry[f"{level}.previous"]]
    return not any(t.requires_grad for t in given)


def _run_soft_reset(lowered: LoweredSchedule, loop: SoftReset, tensors: Tensors, chunk: Chunk) -> None:
    """An I whose Threshold takes spikes off it through a Scale: the arithmetic of the three, in one pass."""
    integrator, level, scale = loop.integrator, loop.threshold, loop.scale
    branches = [_signal(edge, chunk) for edge in lowered.schedule.edges[integrator] if edge.source != scale]
    previous = chunk.carry[f"{level}.previous"]
    branches = branches or [_silence(chunk, previous.shape[1:], chunk.steps)]
    c = tensors.coefficients[integrator]
    threshold = tensors.weights[level, "threshold"]
    population = replace(
        c,
        decay_i=tensors.weights[scale, "scale"],
        gain_i=c.decay_v,  # one
        threshold=threshold,
        spike_when=tensors.spike_when,
        reset="feedback",
        synapse="updated",
        spikes_per_step="one",
    )
    asked = chunk.quantities(integrator)
    spikes, state, traces = tensors.operators.neuron(
        branches,
        population,
        NeuronState(chunk.carry[f"{integrator}.v"], previous),
        tensors.surrogate,
        {"v"} if asked else (),
        **_type(level, tensors),
    )
    for quantity in asked:
        chunk.record(integrator, quantity, traces["v"])
    for quantity in chunk.quantities(level):
        chunk.record(level, quantity, spikes)
    assert state.i is not None
    chunk.carry[f"{integrator}.v"] = state.v
    chunk.carry[f"{level}.previous"] = chunk.previous[f"{level}.previous"] = state.i  # nothing else reads it late
    chunk.signals[level] = spikes


def _type(name: str, tensors: Tensors) -> dict[str, torch.dtype]:
    """The type of the spikes of a population, where it is not the usual one."""
    return {"dtype": torch.uint8} if name in tensors.bytes else {}


def _neuron_state(name: str, chunk: Chunk) -> NeuronState:
    return NeuronState(chunk.carry[f"{name}.v"], chunk.carry.get(f"{name}.i"))


def _keep_neuron_state(name: str, state: NeuronState, chunk: Chunk) -> None:
    chunk.carry[f"{name}.v"] = state.v
    if state.i is not None:
        chunk.carry[f"{name}.i"] = state.i


def _silence(chunk: Chunk, shape: Sequence[int], steps: int) -> Tensor:
    """What a node without incoming edges receives."""
    return torch.zeros((), device=chunk.device).expand(steps, chunk.batch, *shape)


def _compute(lowered: LoweredNode, branches: list[Tensor], tensors: Tensors, chunk: Chunk, steps: int) -> None:
    """Compute one node over `steps` steps: its signal, its records, its part of the state."""
    node = lowered.node
    name = node.name
    branches = branches or [_silence(chunk, node.input_shape, steps)]
    if node.type in NEURONS:
        wanted = chunk.quantities(name) & _TRACED
        c = tensors.coefficients[name]
        output, state, traces = tensors.operators.neuron(
            branches, c, _neuron_state(name, chunk), tensors.surrogate, wanted, **_type(name, tensors)
        )
        _keep_neuron_state(name, state, chunk)
        for quantity, values in traces.items():
            chunk.record(name, quantity, values)
        if "input" in chunk.quantities(name):
            chunk.record(name, "input", tensors.operators.branch_sum(branches))
    else:
        takes_bytes = name in tensors.integers or node.type in _TAKE_BYTES
        x = branches[0] if len(branches) == 1 and takes_bytes else tensors.operators.branch_sum(branches)
        chunk.record(name, "input", x)
        if node.type == "Delay":
            key = f"{name}.history"
            delays = tensors.delays[name]
            steps_ago = delays.counts[0] if len(delays.counts) == 1 else delays.steps
            output, chunk.carry[key] = reference.delay(x, steps_ago, chunk.carry[key])
        else:
            output = layers.compute(x, lowered, tensors)
    chunk.record(name, "spikes", output)
    chunk.record(name, "output", output)
    chunk.signals[name] = output
