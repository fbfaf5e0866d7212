"""What the nodes without a state compute over some steps: layers of weights, pools, and what is element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from neurocuda.compiler.lowering import LoweredNode
from neurocuda.graph import Node
from neurocuda.ops import int8, reference, vendor
from neurocuda.runtime.memory_layout import frames_of, over_time
from neurocuda.runtime.operands import Tensors


def compute(x: Tensor, lowered: LoweredNode, tensors: Tensors) -> Tensor:
    """The output [T, B, *shape] of a node for its sum x."""
    return _COMPUTE[lowered.node.type](x, lowered, tensors)


def _identity(x: Tensor, lowered: LoweredNode, tensors: Tensors) -> Tensor:
    return x


def _scale(x: Tensor, lowered: LoweredNode, tensors: Tensors) -> Tensor:
    return x * tensors.weights[lowered.node.name, "scale"]


def _threshold(x: Tensor, lowered: LoweredNode, tensors: Tensors) -> Tensor:
    level = tensors.weights[lowered.node.name, "threshold"]
    return reference.threshold(x, level, tensors.spike_when, tensors.surrogate)


def _flatten(x: Tensor, lowered: LoweredNode, tensors: Tensors) -> Tensor:
    frames = frames_of(x)
    return over_time(frames.reshape(len(frames), *lowered.node.output_shape), x)


def _linear(x: Tensor, lowered: LoweredNode, tensors: Tensors) -> Tensor:
    name = lowered.node.name
    bias = tensors.weights.get((name, "bias"))
    frames = frames_of(x)
    if name in tensors.integers:
        return over_time(_integer(frames, lowered, tensors, bias, (), (), ()), x)
    weight = tensors.weights[name, "weight"]
    if lowered.how == "ordered":
        result = tensors.operators.ordered_linear(frames, weight, bias, **tensors.packing(lowered.node))
    elif lowered.exact and x.is_cuda and not torch.is_grad_enabled():
        # Not the library: inside a capture of the user's it could not be called for the first time.
        result = tensors.operators.ordered_linear(frames, weight, bias)
    else:
        result = vendor.linear(frames, weight, bias)
    return over_time(result, x)


def _convolution(x: Tensor, lowered: LoweredNode, tensors: Tensors) -> Tensor:
    node = lowered.node
    bias = tensors.weights[node.name, "bias"]
    pads = convolution_pads(node)
    frames = frames_of(x)
    if lowered.how == "ordered":
        weight = tensors.weights[node.name, "weight"]
        stride, dilation, groups = node.numbers("stride"), node.numbers("dilation"), node.number("groups")
        kept = tensors.packing(node)
        result = tensors.operators.ordered_conv(frames, weight, bias, stride, pads, dilation, groups, **kept)
    elif node.name in tensors.integers:
        if any(before != after for before, after in pads):
            frames, pads = reference.pad(frames, pads), ((0, 0),) * len(pads)
        stride, dilation = node.numbers("stride"), node.numbers("dilation")
        padding = tuple(before for before, _ in pads)
        result = _integer(frames, lowered, tensors, bias, stride, padding, dilation)
    else:
        result = _library_convolution(frames, bias.expand(node.output_shape[0]), pads, lowered, tensors)
    return over_time(result, x)


def _integer(
    frames: Tensor,
    lowered: LoweredNode,
    tensors: Tensors,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    node, numbers = lowered.node, lowered.integers
    assert numbers is not None
    weight = tensors.integers[node.name]
    groups = node.groups or 1
    bias = None if bias is None else bias.expand(weight.shape[0])
    step = 2.0**numbers.signal_step
    return int8.convolution(frames, weight, bias, step, stride, padding, dilation, groups)


def _library_convolution(
    frames: Tensor, bias: Tensor, pads: reference.Pads, lowered: LoweredNode, tensors: Tensors
) -> Tensor:
    node = lowered.node
    padding = tuple(before for before, _ in pads)
    stride, dilation, groups = node.numbers("stride"), node.numbers("dilation"), node.number("groups")
    if lowered.exact and vendor.may_transform(frames):
        weight = tensors.weights[node.name, "weight"]
        exact: Tensor = tensors.operators.ordered_conv(frames, weight, bias, stride, pads, dilation, groups)
        return exact
    if any(before != after for before, after in pads):
        frames, padding = reference.pad(frames, pads), (0,) * len(pads)
    if tensors.laid_out is not None and lowered.laid_out and frames.numel() > 0:
        frames = frames.contiguous(memory_format=torch.channels_last)
        weight = tensors.laid_out(node, padding)
        return vendor.convolution_prepacked(frames, weight, bias.contiguous(), stride, padding, dilation, groups)
    weight = tensors.weights[node.name, "weight"]
    if frames.device.type == "cpu" and node.type == "Conv2d":
        layout = torch.channels_last if lowered.channels_last else torch.contiguous_format
        frames = frames.contiguous(memory_format=layout)
    return vendor.convolution(frames, weight, bias, stride, padding, dilation, groups)


def convolution_pads(node: Node) -> reference.Pads:
    """Zeros before and after each axis; 'same' puts the odd one after, as torch does."""
    padding = node.parameters["padding"]
    if isinstance(padding, tuple):
        return tuple((zeros, zeros) for zeros in padding)
    if padding == "valid":
        return tuple((0, 0) for _ in node.numbers("stride"))
    kernel = node.array("weight").shape[2:]
    totals = [gap * (k - 1) for k, gap in zip(kernel, node.numbers("dilation"), strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _sum_pool(x: Tensor, lowered: LoweredNode, tensors: Tensors) -> Tensor:
    return over_time(tensors.operators.sum_pool2d(frames_of(x), *_window(lowered.node)), x)


def _average_pool(x: Tensor, lowered: LoweredNode, tensors: Tensors) -> Tensor:
    return over_time(tensors.operators.avg_pool2d(frames_of(x), *_window(lowered.node)), x)


def _window(node: Node) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return node.numbers("kernel_size"), node.numbers("stride"), node.numbers("padding")


_COMPUTE: Mapping[str, Callable[[Tensor, LoweredNode, Tensors], Tensor]] = {
    "Output": _identity,
    "Identity": _identity,
    "Scale": _scale,
    "Threshold": _threshold,
    "Flatten": _flatten,
    "Affine": _linear,
    "Linear": _linear,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "SumPool2d": _sum_pool,
    "AvgPool2d": _average_pool,
}
