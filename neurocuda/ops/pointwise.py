"""Strided 1x1 convolutions on CPUs without oneDNN's fault in the gradient of their weights.

oneDNN 3.12.0 (torch 2.13.0) writes outside its memory there, with channels last in memory and fewer than 8 of them
(AVX2) or 16 (AVX-512): uxlfoundation/oneDNN issue 6035. Such a convolution reads every stride-th element only. Here
these elements are selected first and convolved without a stride: the same bits from every torch, in about the same
time (`benchmarks/safe_convolutions.py`). docs/nn.md describes the fault for users of plain torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional, grad
from torch.overrides import TorchFunctionMode

_CONVOLVE: dict[int, Callable[..., Tensor]] = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
_WEIGHT_GRADIENT: dict[int, Callable[..., Tensor]] = {3: grad.conv1d_weight, 4: grad.conv2d_weight}


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv1d`, `conv2d` or `conv3d`, by the rank of `weight`, with safe gradients."""
    strides = _per_axis(stride, weight)
    safe = not (torch.is_grad_enabled() and weight.requires_grad and input.device.type == "cpu")
    if not safe and _is_strided_pointwise(weight.shape, strides):
        zeros = () if isinstance(padding, str) else _per_axis(padding, weight)  # "same" and "valid" pad a 1x1 by none
        if any(zeros):
            input = functional.pad(input, [n for zero in reversed(zeros) for n in (zero, zero)])
        input, stride, padding = _strided(input, strides), 1, 0
    return _CONVOLVE[weight.dim()](input, weight, bias, stride, padding, dilation, groups)


def weight_gradient(
    x: Tensor, shape: Sequence[int], toward: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """The gradient of a weight of `shape` in a convolution of x [N, C_in, *space] without padding."""
    if x.device.type == "cpu" and _is_strided_pointwise(shape, stride):
        x, stride = _strided(x, stride), (1,) * len(stride)
    return _WEIGHT_GRADIENT[x.dim()](x, shape, toward, tuple(stride), 0, tuple(dilation), groups)


class safe_convolutions(TorchFunctionMode):
    """A context in which convolutions of plain torch have safe gradients on a CPU (docs/nn.md: a fault of oneDNN).

    The forward pass runs inside the context; the backward pass may run outside.

    Example:
        >>> import torch
        >>> from neurocuda import nn
        >>> shortcut = torch.nn.Conv2d(16, 32, 1, stride=2)
        >>> with nn.safe_convolutions():
        ...     y = shortcut(torch.rand(2, 16, 8, 8))
        >>> y.sum().backward()
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.conv1d, torch.conv2d, torch.conv3d):
            func = convolve
        return func(*args, **(kwargs or {}))


def _per_axis(value: int | Sequence[int], weight: Tensor) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * (weight.dim() - 2) if len(values) == 1 else values


def _is_strided_pointwise(shape: Sequence[int], stride: Sequence[int]) -> bool:
    return all(size == 1 for size in shape[2:]) and any(each > 1 for each in stride)


def _strided(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Every stride-th element of the last axes of x."""
    for axis, each in enumerate(stride, start=x.dim() - len(stride)):
        x = x[(slice(None),) * axis + (slice(None, None, each),)]
    return x
