"""int8 layers: uint8 signals times int8 weights, summed in int32, by oneDNN on CPUs and our tensor-core kernel on GPUs.

The caller has proved that the float32 sum is exact (`compiler.exactness`), so that these layers return the same bits.
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
from neurocuda.ops.backends import backends, is_usable

_PREPACKING = threading.Lock()


@dataclass(eq=False)
class IntegerWeight:
    """An int8 weight [out, in / groups, *kernel] with a power of two for each output channel as its scale.

    Args:
        shape: Shape of the weight.
        values: The int8 elements. Dropped after prepacking unless `keep_values`, which comparisons need.
        scales: float32 [out]; float32 weight = values * scales.
        zero_points: int64 zeros [out], which oneDNN reads.
        keep_values: Whether `values` stay.
        prepacked: In oneDNN's layout, for any number of frames.
        tiles: In the layout of the GPU kernel, with the scale of each output channel, by device and signal spacing.
    """

    shape: torch.Size
    values: Tensor | None
    scales: Tensor
    zero_points: Tensor
    keep_values: bool
    prepacked: Tensor | None = None
    tiles: dict[tuple[torch.device, float], tuple[Tensor, Tensor]] = field(default_factory=dict)


_ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_WITHOUT_VNNI = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE"})
"""With these instruction sets oneDNN may sum pairs of products in 16 bits, which saturate silently.

AVX2 with VNNI is among them, as torch detects VNNI in AVX-512 only.
"""


@functools.cache
def is_fast(device: str) -> bool:
    """Whether "cpu" or "cuda" devices here multiply int8 faster than float32, without saturation.

    CPUs: x86 with VNNI. GPUs: every one of them has tensor cores of compute capability 8.0 or above.
    """
    if device == "cuda":
        capabilities = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
        return bool(capabilities) and min(capabilities) >= (8, 0) and is_usable(backends()["cuda"])
    limit = next((os.environ[name] for name in _ISA_VARIABLES if name in os.environ), "")
    if limit.upper() in _WITHOUT_VNNI:
        return False
    vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    operators = ("qconv_prepack", "qconv2d_pointwise")
    return vnni is not None and bool(vnni()) and all(hasattr(torch.ops.onednn, name) for name in operators)


def from_float32(weight: Tensor, exponents: Sequence[int], keep_values: bool = True) -> IntegerWeight:
    """Converts a float32 weight [out, ...] whose elements are int8 values times 2^exponent of their output channel."""
    scales = torch.tensor([2.0**exponent for exponent in exponents], dtype=torch.float32, device=weight.device)
    values = (weight.detach() / scales.reshape(-1, *[1] * (weight.dim() - 1))).to(torch.int8)
    return IntegerWeight(values.shape, values, scales, torch.zeros_like(scales, dtype=torch.int64), keep_values)


def weights_equal(weights: Sequence[Tensor], integers: Sequence[IntegerWeight]) -> bool:
    """Whether the float32 weights equal the int8 weights."""
    values, scales = [values_of(w) for w in integers], [w.scales for w in integers]
    result: bool = importlib.import_module("neurocuda._C").same_integers(list(weights), values, scales)
    return result


def on_grid(x: Tensor, spacing: float, low: float, high: float) -> bool:
    """Whether all elements of x are multiples of `spacing`, a power of two, from low to high."""
    checks = native.device_checks()
    start_grid_check(checks, [(x, spacing, low, high)])
    result: bool = checks.wait()
    return result


def start_grid_check(checks: Any, signals: Sequence[tuple[Tensor, float, float, float]]) -> None:
    """Adds `on_grid` of several signals to `native.device_checks()`, without waiting."""
    checks.ask_on_grid([(_without_repeats(x), *grid) for x, *grid in signals if not always_on_grid(x, *grid)])


def always_on_grid(x: Tensor, spacing: float, low: float, high: float) -> bool:
    """Whether every value of x's dtype is on the grid."""
    highest = {torch.bool: 1, torch.uint8: 255}.get(x.dtype)
    return highest is not None and spacing <= 1 and low <= 0 and high >= highest


def _without_repeats(x: Tensor) -> Tensor:
    """x [T, ...] in contiguous float32; one time step only if it is expanded over time."""
    if x.dim() > 0 and x.stride(0) == 0 and x.shape[0] > 0:
        x = x[:1]
    return x.detach().float().contiguous()


def convolution(
    x: Tensor,
    weight: IntegerWeight,
    bias: Tensor | None,
    spacing: float,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Cross-correlation of x [N, in, *space] with zero, one or two spatial axes; float32 [N, out, *space].

    x holds multiples 0 .. 255 of `spacing`; the bias is float32 [out]. On a GPU, `prepack_for_gpu` comes first.
    """
    if x.dtype != torch.uint8:
        x = (x if spacing == 1.0 else x * (1.0 / spacing)).to(torch.uint8)
    if x.is_cuda:
        return tensor_core_convolution(x, weight, bias, spacing, stride, padding, dilation)
    kernel = weight.shape[2:]
    if any(zeros > gap * (k - 1) for zeros, gap, k in zip(padding, dilation, kernel, strict=True)):
        # Some versions of oneDNN read outside their memory in windows that lie in the padding alone.
        x = functional.pad(x, [zeros for zeros in reversed(padding) for _ in range(2)])
        padding = [0] * len(padding)
    dilation = [gap if k > 1 else 1 for gap, k in zip(dilation, kernel, strict=True)]
    missing = 4 - x.dim()
    frames, stride, padding, dilation = _two_axes(x, stride, padding, dilation)
    frames = frames.contiguous(memory_format=torch.channels_last)
    if weight.prepacked is None:
        with _PREPACKING, _disable_current_modes():  # torch.compile must not trace it
            if weight.prepacked is None:
                two_axes = values_of(weight).reshape(*weight.shape[:2], *[1] * missing, *weight.shape[2:])
                weight.prepacked = torch.ops.onednn.qconv_prepack(
                    two_axes, weight.scales, spacing, 0, stride, padding, dilation, groups, [1, *frames.shape[1:]]
                )
                weight.values = weight.values if weight.keep_values else None
    bias = None if bias is None else bias.contiguous()  # oneDNN ignores its strides
    result: Tensor = torch.ops.onednn.qconv2d_pointwise.default(
        frames, spacing, 0, weight.prepacked, weight.scales, weight.zero_points, bias, stride, padding, dilation,
        groups, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return result.reshape(*result.shape[:2], *result.shape[2 + missing :])


def values_of(weight: IntegerWeight) -> Tensor:
    """The int8 elements, which must not have been dropped."""
    assert weight.values is not None, "a frozen network's weights are made anew for another device"
    return weight.values


def _two_axes(
    x: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, list[int], list[int], list[int]]:
    """Adds leading spatial axes of size 1 to x [N, C, *space], so that there are two, and extends the settings."""
    ones = [1] * (4 - x.dim())
    zeros = [0] * len(ones)
    return x.reshape(*x.shape[:2], *ones, *x.shape[2:]), [*ones, *stride], [*zeros, *padding], [*ones, *dilation]


_CHANNELS, _TERMS = 16, 64
"""The GPU kernel pads channels, and the terms of a sum, to multiples of these (csrc/params/integer_conv.h)."""


def prepack_for_gpu(weight: IntegerWeight, spacing: float, device: torch.device) -> None:
    """Stores `weight.tiles` for a device and for signals that are multiples of `spacing`."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    with _PREPACKING:
        if (device, spacing) in weight.tiles:
            return
        rows = values_of(weight).reshape(*weight.shape[:2], -1).transpose(1, 2)  # [out, kernel, in]
        rows = functional.pad(rows, (0, -rows.shape[2] % _CHANNELS)).flatten(1)
        tile = 128 if len(rows) > 64 else 64
        rows = functional.pad(rows, (0, -rows.shape[1] % _TERMS, 0, -len(rows) % tile))
        weight.tiles[device, spacing] = (rows.to(device).contiguous(), (weight.scales * spacing).to(device))
        weight.values = weight.values if weight.keep_values else None


def tensor_core_convolution(
    x: Tensor,
    weight: IntegerWeight,
    bias: Tensor | None,
    spacing: float,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """As `convolution`, of uint8 and one group, by the GPU kernel; the result is channels last in memory."""
    missing = 4 - x.dim()
    frames, stride, padding, dilation = _two_axes(x, stride, padding, dilation)
    if frames.shape[1] % _CHANNELS:
        channels = frames.shape[1] + -frames.shape[1] % _CHANNELS
        unpadded, shape = frames, (len(frames), channels, *frames.shape[2:])
        frames = torch.zeros(shape, dtype=torch.uint8, device=x.device).contiguous(memory_format=torch.channels_last)
        frames[:, : unpadded.shape[1]] = unpadded
    frames = frames.contiguous(memory_format=torch.channels_last)
    kernel = [1] * missing + list(weight.shape[2:])
    size = [
        (length + 2 * zeros - gap * (k - 1) - 1) // each + 1
        for length, zeros, gap, k, each in zip(frames.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    tiles, scale = weight.tiles[x.device, spacing]
    bias = None if bias is None else bias.contiguous()
    convolve = importlib.import_module("neurocuda._C").integer_conv
    result: Tensor = convolve(frames, tiles, scale, bias, size, kernel, stride, padding, dilation)
    return result.reshape(*result.shape[:2], *result.shape[2 + missing :])
