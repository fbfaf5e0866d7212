"""Runs the cycles of a chunk: as one fused operator where there is one, otherwise step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from neurocuda.compiler.lowering import LoweredSchedule, LoweredStage
from neurocuda.graph import SoftReset
from neurocuda.ops import NeuronState, reference
from neurocuda.runtime.layers import TRACED, Chunk, evaluate, signal_of, silence
from neurocuda.runtime.operands import Delays, Operands


def run_cycle(lowered: LoweredSchedule, stage: LoweredStage, operands: Operands, chunk: Chunk) -> None:
    """Runs a cycle step by step. A Delay that breaks it outputs first and reads its input after the other nodes."""
    edges = lowered.schedule.edges
    members = {entry.node.name for entry in stage.nodes}
    outer = {
        (edge.source, edge.delayed): signal_of(edge, chunk)
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
                now = _past_value(pasts[name], operands.delays[name], depth, step).unsqueeze(0)
                chunk.signals[name] = now
                chunk.record(name, "output", now)
            else:
                evaluate(entry, branches(name, step, chunk.signals), operands, chunk, 1)
        for name in sorted(breaking):
            total = reference.branch_sum(
                branches(name, step, chunk.signals) or [silence(chunk, pasts[name][0].shape[1:], 1)]
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
    """The output of a Delay, element by element from its past inputs; past[depth + step] is the current one."""
    value: Tensor = past[depth + step - delays.counts[0]]
    for count in delays.counts[1:]:
        value = torch.where(delays.steps == count, past[depth + step - count], value)
    return value


def run_recurrence(
    lowered: LoweredSchedule, stage: LoweredStage, pair: tuple[str, str], operands: Operands, chunk: Chunk
) -> None:
    """Runs a neuron and its recurrent weight as one operator. pair: the names of both."""
    neuron, weight = pair
    node = next(entry.node for entry in stage.nodes if entry.node.name == neuron)
    edges = lowered.schedule.edges[neuron]
    place = [edge.source for edge in edges].index(weight)
    branches = [signal_of(edge, chunk) for edge in edges if edge.source != weight]
    branches = branches or [silence(chunk, node.input_shape, chunk.steps)]
    previous = chunk.carry[f"{neuron}.previous"]
    read = bool(chunk.quantities(weight)) or "input" in chunk.quantities(neuron)
    traced = [*(chunk.quantities(neuron) & TRACED), *(["recurrent"] if read else [])]
    output, state, last, traces = operands.operators.recurrent_neuron(
        branches,
        place,
        operands.weights[weight, "weight"],
        operands.weights.get((weight, "bias")),
        operands.coefficients[neuron],
        NeuronState(chunk.carry[f"{neuron}.v"], chunk.carry.get(f"{neuron}.i")),
        previous,
        operands.surrogate,
        traced,
        **({"prepacked": operands.prepacked[weight]} if weight in operands.prepacked else {}),
    )
    current = traces.pop("recurrent", None)
    chunk.carry[f"{neuron}.v"] = state.v
    if state.i is not None:
        chunk.carry[f"{neuron}.i"] = state.i
    for quantity, values in traces.items():
        chunk.record(neuron, quantity, values)
    if current is not None:
        terms = list(branches) if len(edges) > 1 else []
        terms.insert(place, current)
        chunk.record(neuron, "input", operands.operators.branch_sum(terms))
        chunk.record(weight, "input", torch.cat([previous.unsqueeze(0), output[:-1]]))
        chunk.record(weight, "output", current)
    chunk.record(neuron, "spikes", output)
    chunk.record(neuron, "output", output)
    chunk.signals[neuron], chunk.previous[f"{neuron}.previous"] = output, last


def is_enough(loop: SoftReset, chunk: Chunk) -> bool:
    """Whether only spikes and the membrane potential of a soft reset are recorded; the fused operator has no more."""
    integrator, level, scale = loop.integrator, loop.threshold, loop.scale
    more = chunk.quantities(scale) or chunk.quantities(level) - {"spikes", "output"}
    return not (more or chunk.quantities(integrator) - {"v", "output"})


def fuses(lowered: LoweredSchedule, loop: SoftReset, operands: Operands, chunk: Chunk) -> bool:
    """Whether a soft reset runs as one operator, which has no gradient."""
    if not torch.is_grad_enabled() or not is_enough(loop, chunk):
        return is_enough(loop, chunk)
    integrator, level, scale = loop.integrator, loop.threshold, loop.scale
    c = operands.coefficients[integrator]
    tensors = [chunk.signals[edge.source] for edge in lowered.schedule.edges[integrator] if edge.source != scale]
    tensors += [c.decay_v, c.gain_v, c.bias_v, operands.weights[level, "threshold"], operands.weights[scale, "scale"]]
    tensors += [chunk.carry[f"{integrator}.v"], chunk.carry[f"{level}.previous"]]
    return not any(t.requires_grad for t in tensors)


def run_soft_reset(lowered: LoweredSchedule, loop: SoftReset, operands: Operands, chunk: Chunk) -> None:
    """Runs the three nodes of a soft reset as one neuron operator with the same arithmetic."""
    integrator, level, scale = loop.integrator, loop.threshold, loop.scale
    branches = [signal_of(edge, chunk) for edge in lowered.schedule.edges[integrator] if edge.source != scale]
    previous = chunk.carry[f"{level}.previous"]
    branches = branches or [silence(chunk, previous.shape[1:], chunk.steps)]
    c = operands.coefficients[integrator]
    threshold = operands.weights[level, "threshold"]
    population = replace(
        c,
        decay_i=operands.weights[scale, "scale"],
        gain_i=c.decay_v,  # one
        threshold=threshold,
        spike_when=operands.spike_when,
        reset="feedback",
        synapse="updated",
        spikes_per_step="one",
    )
    recorded = chunk.quantities(integrator)
    spikes, state, traces = operands.operators.neuron(
        branches,
        population,
        NeuronState(chunk.carry[f"{integrator}.v"], previous),
        operands.surrogate,
        {"v"} if recorded else (),
        **({"dtype": torch.uint8} if level in operands.bytes else {}),
    )
    for quantity in recorded:
        chunk.record(integrator, quantity, traces["v"])
    for quantity in chunk.quantities(level):
        chunk.record(level, quantity, spikes)
    assert state.i is not None
    chunk.carry[f"{integrator}.v"] = state.v
    chunk.carry[f"{level}.previous"] = chunk.previous[f"{level}.previous"] = state.i  # no other delayed edge reads it
    chunk.signals[level] = spikes
