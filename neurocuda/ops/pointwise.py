"""Convolutions on CPUs by a way round a fault of oneDNN, which writes outside its memory.

Its gradient of the weights of a 1x1 convolution with a stride does so where the channels are last in memory and few:
fewer than 8 with AVX2, than 16 with AVX-512 (oneDNN 3.12.0 in torch 2.13.0; uxlfoundation/oneDNN issue 6035). Such a
convolution sees only every stride-th value. Here those are taken first, and what is left has no stride: the same bits
from every torch, in about the same time (`benchmarks/safe_convolutions.py`). docs/nn.md tells users of plain torch.
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
    """`torch.nn.functional.conv1d`, `conv2d` or `conv3d`, by the axes of the weight, with gradients that are safe."""
    steps = _of_each_axis(stride, weight)
    safe = not (torch.is_grad_enabled() and weight.requires_grad and input.device.type == "cpu")
    if not safe and _is_strided_pointwise(weight.shape, steps):
        zeros = () if isinstance(padding, str) else _of_each_axis(padding, weight)  # by name: a pointwise one has none
        if any(zeros):
            input = functional.pad(input, [n for zero in reversed(zeros) for n in (zero, zero)])
        input, stride, padding = _taken(input, steps), 1, 0
    return _CONVOLVE[weight.dim()](input, weight, bias, stride, padding, dilation, groups)


def weight_gradient(
    x: Tensor, shape: Sequence[int], toward: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """The gradient of weights of `shape`, of a convolution of x [N, C_in, *space] without padding."""
    if x.device.type == "cpu" and _is_strided_pointwise(shape, stride):
        x, stride = _taken(x, stride), (1,) * len(stride)
    return _WEIGHT_GRADIENT[x.dim()](x, shape, toward, tuple(stride), 0, tuple(dilation), groups)


class safe_convolutions(TorchFunctionMode):
    """`with safe_convolutions():` models of plain torch convolve with gradients that are safe on CPUs.

    It has to be there in the forward pass; the backward pass may come later.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.conv1d, torch.conv2d, torch.conv3d):
            func = convolve
        return func(*args, **(kwargs or {}))


def _of_each_axis(value: int | Sequence[int], weight: Tensor) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * (weight.dim() - 2) if len(values) == 1 else values


def _is_strided_pointwise(shape: Sequence[int], stride: Sequence[int]) -> bool:
    return all(size == 1 for size in shape[2:]) and any(step > 1 for step in stride)


def _taken(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Every stride-th value of the last axes of x."""
    for axis, step in enumerate(stride, start=x.dim() - len(stride)):
        x = x[(slice(None),) * axis + (slice(None, None, step),)]
    return x
