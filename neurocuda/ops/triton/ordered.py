"""Ordered layers: sums in the order of input channel, kernel row, kernel column, bias last; from the dense input.

Each product and each sum is rounded separately.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from neurocuda.errors import ArgumentError
from neurocuda.ops import reference
from neurocuda.ops.reference import Pads
from neurocuda.ops.triton.addressing import READABLE, as_bytes, launch, read

_ROWS, _COLUMNS = 16, 64
_PIXELS, _CHANNELS = 64, 16


@triton.jit(do_not_specialize=["rows", "groups", "into", "out", "x_row", "x_group", "x_in", "w_group", "w_out", "w_in"])
def linear_kernel(
    x, weight, bias, result, rows: tl.int64, groups: tl.int64, into, out: tl.int64,
    x_row: tl.int64, x_group: tl.int64, x_in: tl.int64, w_group: tl.int64, w_out: tl.int64, w_in: tl.int64,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile of ROWS x COLUMNS outputs of one group: result[r, g, o] = sum over k of x[r, g, k] * weight[g, o, k]."""
    tiles = (out.to(tl.int64) + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0).to(tl.int64)
    o = (program % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    g = (program // tiles) % groups
    r = (program // tiles // groups) * ROWS + tl.arange(0, ROWS)
    inside = (r < rows)[:, None] & (o < out)[None, :]
    at_x = x + r * x_row + g * x_group
    at_w = weight + g * w_group + o * w_out
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in range(into):
        feature = tl.cast(k, tl.int64)
        values = read(at_x + feature * x_in, r < rows)
        weights = tl.load(at_w + feature * w_in, mask=o < out, other=0)
        total = total + values[:, None] * weights[None, :]
    if bias is not None:
        total = total + tl.load(bias + g * out + o, mask=o < out, other=0)[None, :]
    tl.store(result + (r * groups + g)[:, None] * out + o[None, :], total, mask=inside)


_CONV_SIZES = """frames per_group out height width out_height out_width kernel_height kernel_width stride_y stride_x
top left gap_y gap_x groups x_frame x_channel x_row x_column""".split()


@triton.jit(do_not_specialize=_CONV_SIZES)
def conv_kernel(
    x, weight, bias, result, frames: tl.int64, per_group, out: tl.int64, height, width, out_height, out_width,
    kernel_height, kernel_width, stride_y, stride_x, top, left, gap_y, gap_x, groups: tl.int64,
    x_frame: tl.int64, x_channel: tl.int64, x_row: tl.int64, x_column: tl.int64,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A tile of PIXELS output pixels of all frames and CHANNELS of the `out` output channels of one group."""
    pixels = frames.to(tl.int64) * out_height * out_width
    tiles = (out.to(tl.int64) + CHANNELS - 1) // CHANNELS
    program = tl.program_id(0).to(tl.int64)
    o = (program % tiles) * CHANNELS + tl.arange(0, CHANNELS)
    g = (program // tiles) % groups
    p = (program // tiles // groups) * PIXELS + tl.arange(0, PIXELS)
    frame = p // (out_height * out_width)
    y = (p // out_width) % out_height * stride_y - top
    across = p % out_width * stride_x - left
    total = tl.zeros((CHANNELS, PIXELS), tl.float32)
    taps = kernel_height * kernel_width
    at_w = weight + (g * out + o) * (taps.to(tl.int64) * per_group)
    for tap in range(per_group * taps):
        channel = g * per_group + tap // taps
        row = y + tap % taps // kernel_width * gap_y
        column = across + tap % kernel_width * gap_x
        inside = (p < pixels) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        at = x + frame * x_frame + channel * x_channel + row * x_row + column * x_column
        values = read(at, inside)
        weights = tl.load(at_w + tap, mask=o < out, other=0)
        total = total + weights[:, None] * values[None, :]
    if bias is not None:
        total = total + tl.load(bias + g * out + o, mask=o < out, other=0)[:, None]
    space = out_height.to(tl.int64) * out_width
    at = result + (frame * (groups * out))[None, :] * space + (g * out + o)[:, None] * space + (p % space)[None, :]
    tl.store(at, total, mask=(o < out)[:, None] & (p < pixels)[None, :])


def ordered_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `reference.ordered_linear`, of x in float32, float16, bfloat16, uint8 or bool; the result is float32."""
    result: Tensor = torch.ops.neurocuda_triton.ordered_linear.default(x, weight, bias)
    return result


def ordered_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Pads,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """As `reference.ordered_conv`, of x in float32, float16, bfloat16, uint8 or bool; the result is float32."""
    flat = [zeros for axis in pads for zeros in axis]
    result: Tensor = torch.ops.neurocuda_triton.ordered_conv.default(
        x, weight, bias, list(stride), flat, list(dilation), groups
    )
    return result


@torch.library.custom_op(
    "neurocuda_triton::ordered_linear", mutates_args=(), schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor"
)
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result = _linear_shape(x, weight, bias)
    if result.numel() == 0:
        return result
    batch = weight.shape[:-2]
    groups, (out, into) = math.prod(batch), weight.shape[-2:]
    rows, weights = as_bytes(x).flatten(1, -2) if batch else as_bytes(x).unsqueeze(1), weight.reshape(groups, out, into)
    bias = None if bias is None else bias.expand(*batch, out).contiguous()
    programs = -(-x.shape[0] // _ROWS) * groups * -(-out // _COLUMNS)
    sizes = x.shape[0], groups, into, out, *rows.stride(), *weights.stride()
    launch(linear_kernel, programs, x.device, rows, weights, bias, result, *sizes, ROWS=_ROWS, COLUMNS=_COLUMNS)
    return result


@_linear.register_fake
def _linear_shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    _check("ordered_linear", x, weight, bias)
    expected = [*weight.shape[:-2], weight.shape[-1]]
    if list(x.shape[1:]) != expected:
        raise ArgumentError(f"ordered_linear: expected x [N, {expected}], found {list(x.shape)}")
    return weight.new_empty(*x.shape[:-1], weight.shape[-2])


@torch.library.custom_op(
    "neurocuda_triton::ordered_conv",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] pads, int[] dilation, int groups) -> Tensor",
)
def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    stride, pads, dilation, groups = settings
    result = _conv_shape(x, weight, bias, *settings)
    if result.numel() == 0:
        return result
    missing = 4 - x.dim()  # one spatial axis: an image of one row
    image = as_bytes(x) if missing == 0 else as_bytes(x).unsqueeze(2)
    kernel = [1] * missing + list(weight.shape[2:])
    space = [1] * missing + list(result.shape[2:])
    per_group = weight.shape[0] // groups
    pixels = result.shape[0] * math.prod(space)
    programs = -(-pixels // _PIXELS) * groups * -(-per_group // _CHANNELS)
    bias = None if bias is None else bias.expand(weight.shape[0]).contiguous()
    strides, zeros, gaps = (
        [1] * missing + list(stride),
        [0] * missing + list(pads[::2]),
        [1] * missing + list(dilation),
    )
    sizes = x.shape[0], weight.shape[1], per_group, *image.shape[2:], *space, *kernel, *strides, *zeros, *gaps, groups
    launch(
        conv_kernel, programs, x.device, image, weight.contiguous(), bias, result, *sizes, *image.stride(),
        PIXELS=_PIXELS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return result


@_conv.register_fake
def _conv_shape(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    stride, pads, dilation, groups = settings
    _check("ordered_conv", x, weight, bias)
    if x.dim() not in (3, 4) or weight.dim() != x.dim() or x.shape[1] != weight.shape[1] * groups:
        raise ArgumentError(
            f"ordered_conv: expected x [N, {weight.shape[1] * groups}, *space], found {list(x.shape)} "
            f"with weight {list(weight.shape)}"
        )
    space = []
    for axis, (each, gap) in enumerate(zip(stride, dilation, strict=True)):
        room = x.shape[axis + 2] + pads[2 * axis] + pads[2 * axis + 1] - gap * (weight.shape[axis + 2] - 1)
        if room < 1:
            raise ArgumentError(f"ordered_conv: expected x of at least {1 - room} elements more, found {list(x.shape)}")
        space.append((room - 1) // each + 1)
    return weight.new_empty(x.shape[0], weight.shape[0], *space)


def _check(op: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.dtype not in READABLE:
        raise ArgumentError(f"{op}: expected x of float32, float16, bfloat16, uint8 or bool, found {x.dtype}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (tensor.dtype != torch.float32 or tensor.device != x.device):
            raise ArgumentError(
                f"{op}: expected {name} in float32 on {x.device}, found {tensor.dtype} on {tensor.device}"
            )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _linear_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    to_x, to_weight = reference.linear_gradients(x, weight, gradient, ctx.needs_input_grad)
    to_bias = gradient.sum_to_size(bias.shape) if ctx.needs_input_grad[2] else None
    return None if to_x is None else to_x.to(x.dtype), to_weight, to_bias


def _conv_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    stride, flat, dilation, groups = ctx.settings
    padded = reference.pad(x.float(), tuple(zip(flat[::2], flat[1::2], strict=True)))
    to_x, to_weight = reference.conv_gradients(padded, weight, gradient, stride, dilation, groups, ctx.needs_input_grad)
    if to_x is not None:
        for axis, before in enumerate(flat[::2], start=2):
            to_x = to_x.narrow(axis, before, x.shape[axis])
        to_x = to_x.to(x.dtype)
    to_bias = None
    if ctx.needs_input_grad[2]:
        to_bias = gradient.sum_to_size(bias.numel(), *[1] * (x.dim() - 2)).reshape(bias.shape)
    return to_x, to_weight, to_bias, None, None, None, None


_linear.register_autograd(_linear_gradients, setup_context=_save)
_conv.register_autograd(_conv_gradients, setup_context=_save)
