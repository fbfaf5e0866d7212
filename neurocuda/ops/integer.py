"""Layers of whole numbers: uint8 signals times int8 weights, summed in int32 by the vendor's library for CPUs.

The caller knows that the sum is exact in float32 (`exactness`); then these are the bits of any other way to sum.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

_MOST_SHAPES = 16
"""Shapes of a signal for which weights are kept as the library wants them; then all are forgotten."""


@dataclass(frozen=True, eq=False)
class IntegerWeight:
    """Weights [out, in / groups, *kernel] as int8 numbers and, for each output channel, a power of two, float32 [out].

    `packed` holds them as the library wants them, for each shape of a signal.
    """

    numbers: Tensor
    steps: Tensor
    zeros: Tensor
    packed: dict[tuple[int, ...], Tensor] = field(default_factory=dict)


@functools.cache
def gains() -> bool:
    """Whether this machine multiplies bytes faster than float32: on x86 with VNNI, whose sums do not saturate."""
    vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    wanted = ("qconv_prepack", "qconv2d_pointwise")
    return vnni is not None and bool(vnni()) and all(hasattr(torch.ops.onednn, name) for name in wanted)


def whole(weight: Tensor, exponents: Sequence[int]) -> IntegerWeight:
    """Float32 weights [out, ...] as numbers times two to the exponent of each output channel; they must be that."""
    steps = torch.tensor([2.0**exponent for exponent in exponents], dtype=torch.float32, device=weight.device)
    by_channel = steps.reshape(-1, *[1] * (weight.dim() - 1))
    numbers = (weight.detach() / by_channel).to(torch.int8)
    return IntegerWeight(numbers, steps, torch.zeros_like(steps, dtype=torch.int64))


def same(weights: Sequence[Tensor], integers: Sequence[IntegerWeight]) -> bool:
    """Whether the weights are still these numbers."""
    numbers, steps = [w.numbers for w in integers], [w.steps for w in integers]
    result: bool = importlib.import_module("neurocuda._C").same_integers(list(weights), numbers, steps)
    return result


def on_grid(x: Tensor, step: float, low: float, high: float) -> bool:
    """Whether all values of x are multiples of `step`, a power of two, from low to high."""
    most = {torch.bool: 1, torch.uint8: 255}.get(x.dtype)
    if most is not None and step <= 1 and low <= 0 and high >= most:
        return True
    if x.dim() > 0 and x.stride(0) == 0 and x.shape[0] > 0:
        x = x[:1]
    result: bool = importlib.import_module("neurocuda._C").on_grid(x.detach().float().contiguous(), step, low, high)
    return result


def convolution(
    x: Tensor,
    weight: IntegerWeight,
    bias: Tensor | None,
    step: float,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Cross-correlation, float32 [N, out, *space], of x [N, in, *space]: multiples 0 .. 255 of `step`; no, one or two
    axes of space.
    """
    if x.dtype != torch.uint8:
        x = (x if step == 1.0 else x * (1.0 / step)).to(torch.uint8)
    kernel = weight.numbers.shape[2:]
    if any(zeros > gap * (k - 1) for zeros, gap, k in zip(padding, dilation, kernel, strict=True)):
        # Windows of nothing but padding take some versions of the library out of their memory.
        x = functional.pad(x, [zeros for zeros in reversed(padding) for _ in range(2)])
        padding = [0] * len(padding)
    dilation = [gap if k > 1 else 1 for gap, k in zip(dilation, kernel, strict=True)]
    missing = 4 - x.dim()
    ones, space = [1] * missing, x.shape[2:]
    frames = x.reshape(*x.shape[:2], *ones, *space).contiguous(memory_format=torch.channels_last)
    stride, dilation, padding = [*ones, *stride], [*ones, *dilation], [0] * missing + list(padding)
    shape = tuple(frames.shape)
    packed = weight.packed.get(shape)
    if packed is None:
        if len(weight.packed) >= _MOST_SHAPES:
            weight.packed.clear()
        with _disable_current_modes():  # not a part of what is computed from the inputs
            numbers = weight.numbers.reshape(*weight.numbers.shape[:2], *ones, *weight.numbers.shape[2:])
            packed = torch.ops.onednn.qconv_prepack(
                numbers, weight.steps, step, 0, stride, padding, dilation, groups, list(shape)
            )
        weight.packed[shape] = packed
    bias = None if bias is None else bias.contiguous()  # the library reads its memory, whatever its strides are
    result: Tensor = torch.ops.onednn.qconv2d_pointwise.default(
        frames, step, 0, packed, weight.steps, weight.zeros, bias, stride, padding, dilation, groups,
        1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return result.reshape(*result.shape[:2], *result.shape[2 + missing :])
