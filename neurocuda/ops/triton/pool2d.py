"""Sum and average pooling of x [N, C, H, W] in float32, row by row; padding adds zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from neurocuda.errors import ArgumentError
from neurocuda.ops import reference
from neurocuda.ops.triton.addressing import READABLE, as_bytes, launch, read

_BLOCK = 256

_SIZES = """images channels height width out_height out_width kernel_height kernel_width stride_y stride_x top left
x_image x_channel x_row x_column""".split()


@triton.jit(do_not_specialize=[*_SIZES, "area"])
def pool_kernel(
    x, result, images: tl.int64, channels, height, width, out_height, out_width, kernel_height, kernel_width,
    stride_y, stride_x, top, left, x_image: tl.int64, x_channel: tl.int64, x_row: tl.int64, x_column: tl.int64,
    area, MEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK output elements [N, C, H_out, W_out], one for each lane."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = n < images.to(tl.int64) * channels * out_height * out_width
    column = n % out_width * stride_x - left
    row = n // out_width % out_height * stride_y - top
    plane = n // out_width // out_height
    at = x + plane // channels * x_image + plane % channels * x_channel
    total = tl.zeros((BLOCK,), tl.float32)
    for tap in range(kernel_height * kernel_width):
        r = row + tap // kernel_width
        c = column + tap % kernel_width
        inside = mask & (r >= 0) & (r < height) & (c >= 0) & (c < width)
        total = total + read(at + r * x_row + c * x_column, inside)
    if MEAN:
        total = tl.div_rn(total, tl.zeros((BLOCK,), tl.float32) + area)
    tl.store(result + n, total, mask=mask)


def sum_pool2d(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """As `reference.sum_pool2d`, of x in float32, float16, bfloat16, uint8 or bool; the result is float32."""
    result: Tensor = torch.ops.neurocuda_triton.pool2d.default(x, list(kernel), list(stride), list(padding), False)
    return result


def avg_pool2d(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """As `reference.avg_pool2d`, of the types of `sum_pool2d`."""
    result: Tensor = torch.ops.neurocuda_triton.pool2d.default(x, list(kernel), list(stride), list(padding), True)
    return result


@torch.library.custom_op(
    "neurocuda_triton::pool2d",
    mutates_args=(),
    schema="(Tensor x, int[] kernel, int[] stride, int[] padding, bool mean) -> Tensor",
)
def _pool(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], mean: bool) -> Tensor:
    result = _shape(x, kernel, stride, padding, mean)
    sizes = *x.shape, *result.shape[2:], *kernel, *stride, *padding, *x.stride()
    programs, area = -(-result.numel() // _BLOCK), float(kernel[0] * kernel[1])
    launch(pool_kernel, programs, x.device, as_bytes(x), result, *sizes, area, MEAN=mean, BLOCK=_BLOCK)
    return result


@_pool.register_fake
def _shape(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], mean: bool) -> Tensor:
    if x.dim() != 4 or x.dtype not in READABLE:
        raise ArgumentError(
            f"pool2d: expected x [N, C, H, W] of float32, float16, bfloat16, uint8 or bool, found {list(x.shape)} "
            f"of {x.dtype}"
        )
    space = []
    for axis in (0, 1):
        room = x.shape[axis + 2] + 2 * padding[axis] - kernel[axis]
        if room < 0:
            raise ArgumentError(f"pool2d: expected x of at least {-room} elements more, found {list(x.shape)}")
        space.append(room // stride[axis] + 1)
    return x.new_empty((*x.shape[:2], *space), dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *settings = inputs
    ctx.shape, ctx.dtype, ctx.settings = x.shape, x.dtype, settings


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    """The gradient of the reference at zeros, as pooling is linear."""
    *settings, mean = ctx.settings
    with torch.enable_grad():
        x = gradient.new_zeros(ctx.shape, requires_grad=True)
        pooled = (reference.avg_pool2d if mean else reference.sum_pool2d)(x, *settings)
        (to_x,) = torch.autograd.grad(pooled, x, gradient)
    return to_x.to(ctx.dtype), None, None, None, None


_pool.register_autograd(_gradients, setup_context=_save)
