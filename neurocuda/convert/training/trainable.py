"""`Trainable`: a network of ReLU nodes with learned weights and thresholds, as quantized activations or spikes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurocuda.convert.relu_network import OPERANDS, SUPPORTED, Operands, compute, operand, rectified, walk
from neurocuda.convert.relu_to_spiking import initial_potential
from neurocuda.errors import ArgumentError
from neurocuda.graph import Graph, Node, complete
from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, reference
from neurocuda.ops.backends import operators


@dataclass(frozen=True, eq=False)
class Signal:
    """Frames [N, *shape], and a deferred factor `scale` for each channel.

    Spikes and levels are small integers. Their thresholds are applied to the next weight, which is smaller than the
    frames. `steady` frames are the same at each time step, and stored once: N = B, not T * B.
    """

    frames: Tensor
    scale: Tensor | None = None
    steady: bool = False

    def whole(self) -> Tensor:
        """The frames times the scale."""
        if self.scale is None:
            return self.frames
        return self.frames * _channels(self.scale.to(self.frames.dtype), self.frames.dim())


class Trainable(nn.Module):
    """A network of ReLU nodes as a torch module: `levels` runs it with quantized activations, `spikes` with neurons.

    thresholds: for each ReLU of the graph a value > 0 for each channel [C], or one for all. The parameters are their
    logarithms to base 2, so that they stay positive. Weights, biases and scales are float32 parameters.
    """

    def __init__(self, graph: Graph, thresholds: Mapping[str, np.ndarray], surrogate: Surrogate) -> None:
        super().__init__()
        for kind, names in (("input", graph.inputs), ("output", graph.outputs)):
            if len(names) != 1:
                raise ArgumentError(f"network: expected one {kind}, found {len(names)}: {', '.join(names)}")
        self.source = graph
        self.surrogate = surrogate
        self._places: dict[tuple[str, str], int] = {}
        self.learned = nn.ParameterList()
        self.log_thresholds = nn.ParameterList()  # to base 2
        self._populations: dict[str, int] = {}
        for name, node in graph.nodes.items():
            for field in OPERANDS:
                if field in node.parameters:
                    self._places[name, field] = len(self.learned)
                    self.learned.append(nn.Parameter(_weight(node, field)))
            if node.primitive.is_rectifier:
                self._populations[name] = len(self.log_thresholds)
                values = torch.from_numpy(np.asarray(thresholds[name], np.float64)).log2().float()
                self.log_thresholds.append(nn.Parameter(values))

    def rectified(self, x: Tensor) -> Tensor:
        """The output [B, *shape] for frames x [B, *shape], with unquantized ReLUs."""

        def rectify(node: Node, branches: list[Signal]) -> Signal:
            return Signal(rectified(node, _total(branches), {}))

        return self._output(Signal(x), rectify).whole()

    def levels(self, x: Tensor, count: int) -> Tensor:
        """The output [B, *shape] for frames x [B, *shape], each ReLU quantized to `count` levels up to its theta.

        y = theta * clip(floor(x count / theta + 1/2) / count, 0, 1): clip, floor and shift (Bu et al. 2022, eq. 15),
        which is the mean over `count` steps of a neuron with soft reset that starts at theta / 2.
        """

        def rectify(node: Node, branches: list[Signal]) -> Signal:
            theta, total = self._theta(node), _total(branches)
            gain = _channels(theta.reciprocal(), total.dim())
            with torch.no_grad():
                levels = (total * (gain * count)).add_(0.5).floor_().clamp_(0, count).div_(count)
            return Signal(_rate(total, gain, levels), theta)

        return self._output(Signal(x), rectify).whole()

    def rates(self, x: Tensor, timesteps: int) -> Tensor:
        """The mean [B, *shape] over T steps of `spikes`, with the gradient of firing rates: one backward step.

        Layers are linear, so they map means as they map signals. Backward, the counted rate of a neuron is replaced by
        clip(mean of its input / theta, 0, 1), its limit for large T (spike representation, Meng et al. 2022; rate-based
        backpropagation, Yu et al. 2024).
        """
        counted: dict[str, Tensor] = {}
        with torch.no_grad():
            self.spikes(x, timesteps, counted)

        def rectify(node: Node, branches: list[Signal]) -> Signal:
            theta, total = self._theta(node), _total(branches)
            return Signal(_rate(total, _channels(theta.reciprocal(), total.dim()), counted.pop(node.name)), theta)

        return self._output(Signal(x), rectify).whole()

    def spikes(self, x: Tensor, timesteps: int, counted: dict[str, Tensor] | None = None) -> Tensor:
        """The output [T, B, *shape] for frames x [B, *shape] repeated at each of T steps.

        The neurons are those of `spiking`: gain 1 / theta, threshold 1, reset by subtraction, and the same initial
        potential. Gradients pass back through time with the surrogate derivative of each spike.

        counted: filled with the firing rate of each neuron, spikes per step.
        """
        batch, ops, kind = x.shape[0], operators(x.device), x.device.type
        # Under autocast, spikes have the dtype of the next layer, in which they are exact.
        mixed = torch.is_autocast_enabled(kind) and ops is not reference
        narrow = {"dtype": torch.get_autocast_dtype(kind)} if mixed else {}

        def rectify(node: Node, branches: list[Signal]) -> Signal:
            theta = self._theta(node)
            rank = len(node.input_shape) + 1
            one = torch.ones((1,) * rank, device=x.device)
            zero = torch.zeros_like(one)
            c = NeuronCoefficients(
                decay_v=one,
                gain_v=_channels(theta.reciprocal(), rank),
                bias_v=zero,
                threshold=one,
                v_reset=zero,
                reset="subtract",
            )
            over_time = [_over_time(branch, timesteps, batch) for branch in branches]
            start = NeuronState((one * initial_potential(node)).expand(batch, *node.input_shape))
            output, _, _ = ops.neuron(over_time, c, start, self.surrogate, **narrow)
            frames = _channels_last(output.flatten(0, 1))
            if counted is not None:
                counted[node.name] = _mean(frames, timesteps)
            return Signal(frames, theta)

        return _over_time(self._output(Signal(x, steady=True), rectify), timesteps, batch)

    def graph(self) -> Graph:
        """The graph of ReLU nodes with the current weights."""
        nodes = {}
        for name, node in self.source.nodes.items():
            own = {field: self.learned[place] for (owner, field), place in self._places.items() if owner == name}
            arrays = {
                field: value.detach().cpu().double().numpy().reshape(node.array(field).shape)
                for field, value in own.items()
            }
            nodes[name] = replace(node, parameters={**node.parameters, **arrays})
        return replace(self.source, nodes=nodes)

    def thresholds(self) -> dict[str, np.ndarray]:
        """The current threshold of each ReLU, float64."""
        return {
            name: self.log_thresholds[place].detach().cpu().double().exp2().numpy()
            for name, place in self._populations.items()
        }

    def _theta(self, node: Node) -> Tensor:
        theta: Tensor = self.log_thresholds[self._populations[node.name]].exp2()
        return theta

    def _output(self, x: Signal, rectify: Callable[[Node, list[Signal]], Signal]) -> Signal:
        signals: dict[str, Signal] = {}
        for node, sources, spent in walk(self.source):
            arriving = [signals[source] for source in sources]
            if node.name in self.source.inputs:
                signals[node.name] = x
            elif node.primitive.is_rectifier:
                signals[node.name] = rectify(node, arriving)
            else:
                fields = [field for field in OPERANDS if field in node.parameters]
                operands = {field: self.learned[self._places[node.name, field]] for field in fields}
                signals[node.name] = _LINEAR[node.type](node, _sum(arriving), operands)
            for source in spent:
                del signals[source]
        return signals[self.source.outputs[0]]


class _Rate(torch.autograd.Function):
    """`rate`, whose gradient is that of clip(x * gain, 0, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, rate: Tensor) -> Tensor:
        ctx.save_for_backward(x, gain)
        return rate.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, gain = ctx.saved_tensors
        narrow = gain.to(x.dtype)
        z = x * narrow
        inside = torch.ops.aten.hardtanh_backward(gradients[0], z, 0, 1)
        to_gain = z.copy_(x).mul_(inside).sum_to_size(gain.shape) if ctx.needs_input_grad[1] else None
        return inside.mul_(narrow), to_gain, None


def _rate(x: Tensor, gain: Tensor, rate: Tensor) -> Tensor:
    apply: Callable[..., Tensor] = _Rate.apply
    return apply(x, gain, rate)


def _mean(frames: Tensor, timesteps: int) -> Tensor:
    """The mean over time of spikes [T * B, *shape], added step by step, which is faster than `sum`.

    Counts up to 256 are exact in every type.
    """
    steps = frames.chunk(timesteps)
    total = steps[0].clone() if timesteps <= 256 else steps[0].float()
    for step in steps[1:]:
        total.add_(step)
    return total.div_(timesteps)


def _total(branches: list[Signal]) -> Tensor:
    return reduce(add, [branch.whole() for branch in branches])


def _weight(node: Node, field: str) -> Tensor:
    value = torch.from_numpy(operand(node, field).astype(np.float32))
    return _channels_last(value) if field == "weight" and node.primitive.is_convolution else value


def _channels(value: Tensor, rank: int) -> Tensor:
    """Values [1] or [C], reshaped to broadcast against frames [B, C, *] of `rank` axes."""
    return value.reshape(1, -1, *[1] * (rank - 2)) if rank > 1 else value


def _sum(parts: list[Signal]) -> Signal:
    if len(parts) == 1:
        return parts[0]
    steady = all(part.steady for part in parts)
    repeats = 1 if steady else max(part.frames.shape[0] for part in parts if not part.steady)
    terms = []
    for part in parts:
        frames = part.whole()
        if part.steady and not steady:
            frames = frames.repeat(repeats // frames.shape[0], *[1] * (frames.dim() - 1))
        terms.append(frames)
    return Signal(reduce(add, terms), None, steady)


def _over_time(x: Signal, timesteps: int, batch: int) -> Tensor:
    """The signal as [T, B, *shape]; a steady one is expanded without a copy."""
    frames = x.whole()
    if x.steady:
        return frames.unsqueeze(0).expand(timesteps, *frames.shape)
    return frames.reshape(timesteps, batch, *frames.shape[1:])


def _unscaled(node: Node, x: Signal, operands: Operands) -> Signal:
    """A layer that is linear and keeps channels apart, so the scale is applied after it."""
    return Signal(compute(node, x.frames, operands), x.scale, x.steady)


def _flatten(node: Node, x: Signal, operands: Operands) -> Signal:
    scale = x.scale
    if scale is not None and scale.numel() > 1:
        if len(node.output_shape) > 1:
            return Signal(compute(node, x.whole(), operands), None, x.steady)
        scale = scale.repeat_interleave(node.output_shape[0] // node.input_shape[0])
    return Signal(compute(node, x.frames, operands), scale, x.steady)


def _scale(node: Node, x: Signal, operands: Operands) -> Signal:
    scale = operands["scale"]
    if x.scale is not None and scale.numel() in (1, node.input_shape[0]):
        return Signal(x.frames, x.scale * scale.flatten(), x.steady)
    return Signal(compute(node, x.whole(), operands), None, x.steady)


def _matrix(node: Node, x: Signal, operands: Operands) -> Signal:
    if x.scale is None or len(node.input_shape) > 1:
        return Signal(compute(node, x.whole(), operands), None, x.steady)
    return Signal(compute(node, x.frames, {**operands, "weight": operands["weight"] * x.scale}), None, x.steady)


def _convolution(node: Node, x: Signal, operands: Operands) -> Signal:
    weight = operands["weight"]
    if x.scale is not None:
        groups = node.number("groups")
        by_group = weight.reshape(groups, -1, *weight.shape[1:])  # [groups, out, in, *kernel]
        scale = x.scale.expand(node.input_shape[0]).reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
        weight = (by_group * scale).flatten(0, 1)
    output = compute(node, _channels_last(x.frames), {**operands, "weight": _channels_last(weight)})
    return Signal(_channels_last(output), None, x.steady)


def _channels_last(frames: Tensor) -> Tensor:
    """Frames [N, C, H, W] on the CPU with the channels last in memory, which trains faster."""
    if frames.dim() != 4 or frames.device.type != "cpu":
        return frames
    return frames.contiguous(memory_format=torch.channels_last)


_LINEAR: Mapping[str, Callable[[Node, Signal, Operands], Signal]] = complete(
    {
        "Output": _unscaled,
        "Affine": _matrix,
        "Linear": _matrix,
        "Conv1d": _convolution,
        "Conv2d": _convolution,
        "Scale": _scale,
        "AvgPool2d": _unscaled,
        "SumPool2d": _unscaled,
        "Flatten": _flatten,
    },
    "neurocuda/convert/training/trainable.py, _LINEAR",
    {name: primitive for name, primitive in SUPPORTED.items() if not primitive.is_rectifier},
)
"""Computes the output of a linear node, and applies the scale of its input where that is cheapest."""
