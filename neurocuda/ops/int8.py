"""Layers of whole numbers: uint8 signals times int8 weights, summed in int32 by the vendor's library for CPUs, and by
our own kernel on the tensor cores of GPUs.

The caller knows that the sum is exact in float32 (`exactness`); then these are the bits of any other way to sum.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

from neurocuda.ops import native
from neurocuda.ops.backends import backends, serves

_LAYING = threading.Lock()
"""Held while weights are brought into the form that a device wants."""


@dataclass(eq=False)
class IntegerWeight:
    """Weights [out, in / groups, *kernel] as int8 numbers and, for each output channel, a power of two, float32 [out].

    `packed` holds them as the library for CPUs wants them, of any number of frames; `tiles` as GPUs do, with the scale
    of each output channel, for each device and step of the signal. `numbers` go once there is one of these unless
    `kept`, to be compared with.
    """

    shape: torch.Size
    numbers: Tensor | None
    steps: Tensor
    zeros: Tensor
    kept: bool
    packed: Tensor | None = None
    tiles: dict[tuple[torch.device, float], tuple[Tensor, Tensor]] = field(default_factory=dict)


_MOST = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_WITHOUT_VNNI = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE"})
"""What these variables may hold oneDNN to, in which it sums bytes in pairs of 16 bits, or may: they saturate, silently.
That of AVX2 with VNNI is among them, as torch knows of VNNI in AVX-512 alone.
"""


@functools.cache
def gains(device: str) -> bool:
    """Whether the "cpu" or "cuda" devices here multiply bytes faster than float32: x86 with VNNI, whose sums do not
    saturate, and tensor cores of compute capability 8.0 and above, all of them.
    """
    if device == "cuda":
        capabilities = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
        return bool(capabilities) and min(capabilities) >= (8, 0) and serves(backends()["cuda"])
    most = next((os.environ[name] for name in _MOST if name in os.environ), "")
    if most.upper() in _WITHOUT_VNNI:
        return False
    vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    wanted = ("qconv_prepack", "qconv2d_pointwise")
    return vnni is not None and bool(vnni()) and all(hasattr(torch.ops.onednn, name) for name in wanted)


def whole(weight: Tensor, exponents: Sequence[int], kept: bool = True) -> IntegerWeight:
    """Float32 weights [out, ...] as numbers times two to the exponent of each output channel; they must be that."""
    steps = torch.tensor([2.0**exponent for exponent in exponents], dtype=torch.float32, device=weight.device)
    by_channel = steps.reshape(-1, *[1] * (weight.dim() - 1))
    whole = (weight.detach() / by_channel).to(torch.int8)
    return IntegerWeight(whole.shape, whole, steps, torch.zeros_like(steps, dtype=torch.int64), kept)


def same(weights: Sequence[Tensor], integers: Sequence[IntegerWeight]) -> bool:
    """Whether the weights are still these numbers."""
    kept, steps = [numbers(w) for w in integers], [w.steps for w in integers]
    result: bool = importlib.import_module("neurocuda._C").same_integers(list(weights), kept, steps)
    return result


def on_grid(x: Tensor, step: float, low: float, high: float) -> bool:
    """Whether all values of x are multiples of `step`, a power of two, from low to high."""
    asked = native.answer()
    ask_on_grid(asked, [(x, step, low, high)])
    result: bool = asked.wait()
    return result


def ask_on_grid(answer: Any, signals: Sequence[tuple[Tensor, float, float, float]]) -> None:
    """As `on_grid`, of several signals; a GPU looks while more is launched."""
    answer.ask_on_grid([(_values(x), *grid) for x, *grid in signals if not must_be(x, *grid)])


def must_be(x: Tensor, step: float, low: float, high: float) -> bool:
    """Whether no value of that type can be elsewhere."""
    most = {torch.bool: 1, torch.uint8: 255}.get(x.dtype)
    return most is not None and step <= 1 and low <= 0 and high >= most


def _values(x: Tensor) -> Tensor:
    """What is held for all steps, once."""
    if x.dim() > 0 and x.stride(0) == 0 and x.shape[0] > 0:
        x = x[:1]
    return x.detach().float().contiguous()


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
    axes of space. On a GPU the weights must have been `laid_out`.
    """
    if x.dtype != torch.uint8:
        x = (x if step == 1.0 else x * (1.0 / step)).to(torch.uint8)
    if x.is_cuda:
        return on_tensor_cores(x, weight, bias, step, stride, padding, dilation)
    kernel = weight.shape[2:]
    if any(zeros > gap * (k - 1) for zeros, gap, k in zip(padding, dilation, kernel, strict=True)):
        # Windows of nothing but padding take some versions of the library out of their memory.
        x = functional.pad(x, [zeros for zeros in reversed(padding) for _ in range(2)])
        padding = [0] * len(padding)
    dilation = [gap if k > 1 else 1 for gap, k in zip(dilation, kernel, strict=True)]
    missing = 4 - x.dim()
    frames, stride, padding, dilation = _two_axes(x, stride, padding, dilation)
    frames = frames.contiguous(memory_format=torch.channels_last)
    if weight.packed is None:
        _pack(weight, [1] * missing, step, stride, padding, dilation, groups, frames.shape[1:])
    bias = None if bias is None else bias.contiguous()  # the library reads its memory, whatever its strides are
    result: Tensor = torch.ops.onednn.qconv2d_pointwise.default(
        frames, step, 0, weight.packed, weight.steps, weight.zeros, bias, stride, padding, dilation, groups,
        1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return result.reshape(*result.shape[:2], *result.shape[2 + missing :])


def _pack(
    weight: IntegerWeight,
    missing: list[int],
    step: float,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    frame: Sequence[int],
) -> None:
    with _LAYING, _disable_current_modes():  # not a part of what is computed from the inputs
        if weight.packed is None:
            two_axes = numbers(weight).reshape(*weight.shape[:2], *missing, *weight.shape[2:])
            weight.packed = torch.ops.onednn.qconv_prepack(
                two_axes, weight.steps, step, 0, stride, padding, dilation, groups, [1, *frame]
            )
            weight.numbers = weight.numbers if weight.kept else None


def numbers(weight: IntegerWeight) -> Tensor:
    """The weights as int8, which must have been kept."""
    assert weight.numbers is not None, "a frozen network's weights are made anew for another device"
    return weight.numbers


def _two_axes(
    x: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, list[int], list[int], list[int]]:
    """Signals of no, one or two axes of space, and the numbers of these axes, with the missing ones of size 1 first."""
    ones = [1] * (4 - x.dim())
    zeros = [0] * len(ones)
    return x.reshape(*x.shape[:2], *ones, *x.shape[2:]), [*ones, *stride], [*zeros, *padding], [*ones, *dilation]


_CHANNELS, _TERMS = 16, 64
"""What channels, and the terms of a sum, are multiples of on a GPU (csrc/params/integer_conv.h)."""


def laid_out(weight: IntegerWeight, step: float, device: torch.device) -> None:
    """Keep the weights on a device as its kernel wants them, for signals that are multiples of `step`."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    with _LAYING:
        if (device, step) in weight.tiles:
            return
        rows = numbers(weight).reshape(*weight.shape[:2], -1).transpose(1, 2)  # [out, kernel, in]
        rows = functional.pad(rows, (0, -rows.shape[2] % _CHANNELS)).flatten(1)
        tile = 128 if len(rows) > 64 else 64
        rows = functional.pad(rows, (0, -rows.shape[1] % _TERMS, 0, -len(rows) % tile))
        weight.tiles[device, step] = (rows.to(device).contiguous(), (weight.steps * step).to(device))
        weight.numbers = weight.numbers if weight.kept else None


def on_tensor_cores(
    x: Tensor,
    weight: IntegerWeight,
    bias: Tensor | None,
    step: float,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """As `convolution` of uint8, of one group, by the kernel for GPUs; the result has its channels last in memory."""
    missing = 4 - x.dim()
    frames, stride, padding, dilation = _two_axes(x, stride, padding, dilation)
    if frames.shape[1] % _CHANNELS:
        channels = frames.shape[1] + -frames.shape[1] % _CHANNELS
        few, shape = frames, (len(frames), channels, *frames.shape[2:])
        frames = torch.zeros(shape, dtype=torch.uint8, device=x.device).contiguous(memory_format=torch.channels_last)
        frames[:, : few.shape[1]] = few
    frames = frames.contiguous(memory_format=torch.channels_last)
    kernel = [1] * missing + list(weight.shape[2:])
    size = [
        (length + 2 * zeros - gap * (k - 1) - 1) // each + 1
        for length, zeros, gap, k, each in zip(frames.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    tiles, scale = weight.tiles[x.device, step]
    bias = None if bias is None else bias.contiguous()
    convolve = importlib.import_module("neurocuda._C").integer_conv
    result: Tensor = convolve(frames, tiles, scale, bias, size, kernel, stride, padding, dilation)
    return result.reshape(*result.shape[:2], *result.shape[2 + missing :])
