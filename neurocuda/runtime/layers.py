"""Evaluates one node over some steps of a chunk: its output, its recordings, its part of the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neurocuda.compiler.lowering import LoweredNode
from neurocuda.compiler.schedule import Edge
from neurocuda.graph import PRIMITIVES, complete
from neurocuda.ops import int8, reference, vendor
from neurocuda.runtime.operands import Operands, convolution_pads

TRACED = {"v", "i"}


@dataclass
class Chunk:
    """A chunk of time steps while it is computed.

    carry: the state, rebound as nodes advance. previous: the last outputs of nodes with a delayed edge, for the next
    chunk. records: recorded quantities, each a list of tiles in time. ends: no chunk follows, and no state is returned.
    done: numbers of the stages that have run. by_sample: signals are stored sample by sample (`is_by_sample`).
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
    """The signal of an edge over the chunk."""
    signal = chunk.signals[edge.source]
    if not edge.delayed:
        return signal
    return torch.cat([chunk.carry[f"{edge.source}.previous"].unsqueeze(0), signal[:-1]])


def silence(chunk: Chunk, shape: Sequence[int], steps: int) -> Tensor:
    """The input of a node without incoming edges."""
    return torch.zeros((), device=chunk.device).expand(steps, chunk.batch, *shape)


def evaluate(lowered: LoweredNode, branches: list[Tensor], operands: Operands, chunk: Chunk, steps: int) -> None:
    """Evaluates a node over `steps` steps, from the branches that arrive."""
    node, name = lowered.node, lowered.node.name
    branches = branches or [silence(chunk, node.input_shape, steps)]
    requested = chunk.quantities(name) if chunk.records else ()
    if name in operands.coefficients:
        carry = chunk.carry
        output, v, i, trace_v, trace_i = operands.bound[name](
            branches,
            carry[f"{name}.v"],
            carry.get(f"{name}.i"),
            dtype=torch.uint8 if name in operands.bytes else torch.float32,
            trace_v="v" in requested,
            trace_i="i" in requested,
        )
        carry[f"{name}.v"] = v
        if f"{name}.i" in carry:
            carry[f"{name}.i"] = i
        recordings = {"v": trace_v, "i": trace_i, "spikes": output, "output": output}
        if "input" in requested:
            recordings["input"] = operands.operators.branch_sum(branches)
    else:
        x = branches[0]
        evaluation = EVALUATIONS[node.type]
        reads_bytes = name in operands.int8 or (evaluation is not None and evaluation.reads_bytes)
        if len(branches) > 1 or not (reads_bytes or x.dtype == torch.float32):
            x = operands.operators.branch_sum(branches)
        if name in operands.delays:
            delays = operands.delays[name]
            steps_ago = delays.counts[0] if len(delays.counts) == 1 else delays.steps
            output, chunk.carry[f"{name}.history"] = reference.delay(x, steps_ago, chunk.carry[f"{name}.history"])
        elif name in operands.bound:  # an ordered layer or a pool
            output = unfold_time(operands.bound[name](fold_time(x)), x)
        else:
            compute = None if evaluation is None else evaluation.compute
            assert compute is not None, node.type
            output = compute(x, lowered, operands)
        recordings = {"input": x, "spikes": output, "output": output}
    for quantity in requested:
        chunk.record(name, quantity, recordings[quantity])
    chunk.signals[name] = output


def is_by_sample(x: Tensor) -> bool:
    """Whether the samples of x [T, B, *shape] are stored one after the other, each over all its steps.

    Threads share the frames of a layer from first to last, and the neurons of a population, each over all steps. Stored
    by sample, both are the same memory: a thread reads what it wrote, and cores with separate caches need not wait.
    """
    steps, batch = x.shape[:2]
    return steps > 1 and batch > 1 and x.stride(0) > 0 and x.stride(1) == steps * x.stride(0)


def to_sample_order(x: Tensor) -> Tensor:
    """x [T, B, *shape], stored sample by sample."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def fold_time(x: Tensor) -> Tensor:
    """Folds time into the batch, [T, B, *shape] to [T * B, *shape], in the signal's own memory order."""
    return (x.transpose(0, 1) if is_by_sample(x) else x).flatten(0, 1)


def unfold_time(frames: Tensor, like: Tensor) -> Tensor:
    """Frames [T * B, *shape], in the order of the folded `like` [T, B, ...], to [T, B, *shape]."""
    steps, batch = like.shape[:2]
    if is_by_sample(like):
        return frames.reshape(batch, steps, *frames.shape[1:]).transpose(0, 1)
    return frames.reshape(steps, batch, *frames.shape[1:])


def _identity(x: Tensor, lowered: LoweredNode, operands: Operands) -> Tensor:
    return x


def _scale(x: Tensor, lowered: LoweredNode, operands: Operands) -> Tensor:
    return x * operands.weights[lowered.node.name, "scale"]


def _threshold(x: Tensor, lowered: LoweredNode, operands: Operands) -> Tensor:
    level = operands.weights[lowered.node.name, "threshold"]
    return reference.threshold(x, level, operands.spike_when, operands.surrogate)


def _flatten(x: Tensor, lowered: LoweredNode, operands: Operands) -> Tensor:
    frames = fold_time(x)
    return unfold_time(frames.reshape(len(frames), *lowered.node.output_shape), x)


def _linear(x: Tensor, lowered: LoweredNode, operands: Operands) -> Tensor:
    name, frames = lowered.node.name, fold_time(x)
    if name in operands.int8:
        result = _integer(frames, lowered, operands, (), (), ())
    else:
        weight, bias = operands.weights[name, "weight"], operands.weights.get((name, "bias"))
        # An exact layer on a GPU avoids the vendor library: inside a user's capture it cannot be called the first time.
        native = lowered.exact and x.is_cuda and not torch.is_grad_enabled()
        result = (operands.operators.ordered_linear if native else vendor.linear)(frames, weight, bias)
    return unfold_time(result, x)


def _convolution(x: Tensor, lowered: LoweredNode, operands: Operands) -> Tensor:
    node, frames = lowered.node, fold_time(x)
    bias = operands.weights[node.name, "bias"].expand(node.output_shape[0])
    stride, dilation, pads = node.numbers("stride"), node.numbers("dilation"), convolution_pads(node)
    groups = node.number("groups")
    if node.name not in operands.int8 and lowered.exact and vendor.may_transform(frames):
        weight = operands.weights[node.name, "weight"]
        result = operands.operators.ordered_conv(frames, weight, bias, stride, pads, dilation, groups)
        return unfold_time(result, x)
    padding = tuple(before for before, _ in pads)
    if any(before != after for before, after in pads):
        frames, padding = reference.pad(frames, pads), (0,) * len(pads)
    if node.name in operands.int8:
        result = _integer(frames, lowered, operands, stride, padding, dilation)
    elif operands.vendor_weight is not None and lowered.laid_out and frames.numel() > 0:
        frames = frames.contiguous(memory_format=torch.channels_last)
        weight = operands.vendor_weight(node, padding)
        result = vendor.convolution_prepacked(frames, weight, bias.contiguous(), stride, padding, dilation, groups)
    else:
        weight = operands.weights[node.name, "weight"]
        if frames.device.type == "cpu" and node.primitive.spatial_axes == 2:
            layout = torch.channels_last if lowered.channels_last else torch.contiguous_format
            frames = frames.contiguous(memory_format=layout)
        result = vendor.convolution(frames, weight, bias, stride, padding, dilation, groups)
    return unfold_time(result, x)


def _integer(
    frames: Tensor,
    lowered: LoweredNode,
    operands: Operands,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    node, numbers = lowered.node, lowered.integers
    assert numbers is not None
    weight, bias = operands.int8[node.name], operands.weights.get((node.name, "bias"))
    bias = None if bias is None else bias.expand(weight.shape[0])
    spacing = 2.0**numbers.signal_step
    return int8.convolution(frames, weight, bias, spacing, stride, padding, dilation, node.groups or 1)


@dataclass(frozen=True)
class Evaluation:
    """compute: the output [T, B, *shape] for the sum x; None: `Operands.bound` does. reads_bytes: x may be uint8."""

    compute: Callable[[Tensor, LoweredNode, Operands], Tensor] | None
    reads_bytes: bool = False


EVALUATIONS: Mapping[str, Evaluation | None] = complete(
    {
        "Input": None,  # the interpreter sets its signal
        "Output": Evaluation(_identity),
        "Identity": Evaluation(_identity),
        "Scale": Evaluation(_scale),
        "Threshold": Evaluation(_threshold),
        "Flatten": Evaluation(_flatten, reads_bytes=True),
        "Affine": Evaluation(_linear),
        "Linear": Evaluation(_linear),
        "Conv1d": Evaluation(_convolution),
        "Conv2d": Evaluation(_convolution),
        "SumPool2d": Evaluation(None, reads_bytes=True),
        "AvgPool2d": Evaluation(None, reads_bytes=True),
        **{name: None for name, primitive in PRIMITIVES.items() if primitive.has_state},  # `evaluate` runs these
    },
    "neurocuda/runtime/layers.py, EVALUATIONS",
)
