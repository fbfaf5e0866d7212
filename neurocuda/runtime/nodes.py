"""Runs one node over some steps of a chunk: its output, what is recorded of it, its part of the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neurocuda.compiler.lowering import LoweredNode
from neurocuda.compiler.schedule import Edge
from neurocuda.ops import NeuronState, reference
from neurocuda.runtime.layers import EVALUATIONS
from neurocuda.runtime.operands import Tensors

TRACED = {"v", "i"}


@dataclass
class Chunk:
    """A chunk of `steps` steps under way.

    `carry` is the state, rebound as nodes advance; `previous` collects the last outputs that delayed edges
    will carry into the next chunk; `records` the recorded quantities, a list of pieces in time. `ends`: no chunk comes
    after it, and no state is left. `done` are stages that have run, by number. `by_sample`: signals lie sample by
    sample in memory (`memory_layout`).
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


def signal_of(edge: Edge, chunk: Chunk) -> Tensor:
    """The signal that an edge brings over the chunk."""
    signal = chunk.signals[edge.source]
    if not edge.delayed:
        return signal
    return torch.cat([chunk.carry[f"{edge.source}.previous"].unsqueeze(0), signal[:-1]])


def spike_type(name: str, tensors: Tensors) -> dict[str, torch.dtype]:
    """The type of the spikes of a population, where it is not the usual one."""
    return {"dtype": torch.uint8} if name in tensors.bytes else {}


def neuron_state(name: str, chunk: Chunk) -> NeuronState:
    return NeuronState(chunk.carry[f"{name}.v"], chunk.carry.get(f"{name}.i"))


def keep_neuron_state(name: str, state: NeuronState, chunk: Chunk) -> None:
    chunk.carry[f"{name}.v"] = state.v
    if state.i is not None:
        chunk.carry[f"{name}.i"] = state.i


def silence(chunk: Chunk, shape: Sequence[int], steps: int) -> Tensor:
    """What a node without incoming edges receives."""
    return torch.zeros((), device=chunk.device).expand(steps, chunk.batch, *shape)


def compute(lowered: LoweredNode, branches: list[Tensor], tensors: Tensors, chunk: Chunk, steps: int) -> None:
    """Compute one node over `steps` steps: its signal, its records, its part of the state."""
    node = lowered.node
    name = node.name
    branches = branches or [silence(chunk, node.input_shape, steps)]
    if node.primitive.is_neuron:
        wanted = chunk.quantities(name) & TRACED
        c = tensors.coefficients[name]
        output, state, traces = tensors.operators.neuron(
            branches, c, neuron_state(name, chunk), tensors.surrogate, wanted, **spike_type(name, tensors)
        )
        keep_neuron_state(name, state, chunk)
        for quantity, values in traces.items():
            chunk.record(name, quantity, values)
        if "input" in chunk.quantities(name):
            chunk.record(name, "input", tensors.operators.branch_sum(branches))
    else:
        evaluation = EVALUATIONS[node.type]
        takes_bytes = name in tensors.integers or (evaluation is not None and evaluation.takes_bytes)
        x = branches[0] if len(branches) == 1 and takes_bytes else tensors.operators.branch_sum(branches)
        chunk.record(name, "input", x)
        if node.primitive.is_delay:
            key = f"{name}.history"
            delays = tensors.delays[name]
            steps_ago = delays.counts[0] if len(delays.counts) == 1 else delays.steps
            output, chunk.carry[key] = reference.delay(x, steps_ago, chunk.carry[key])
        else:
            assert evaluation is not None, node.type
            output = evaluation.compute(x, lowered, tensors)
    chunk.record(name, "spikes", output)
    chunk.record(name, "output", output)
    chunk.signals[name] = output
