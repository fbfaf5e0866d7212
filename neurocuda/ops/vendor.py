"""Layers that the vendor library (oneDNN, cuDNN) sums, in float32 unless the user enables TF32."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from neurocuda.ops.pointwise import convolve


def tf32() -> bool:
    """Whether float32 products on a GPU may round their operands to 11 bits (TF32); off by default.

    One setting governs matrix products and convolutions here: that of matrix products, which
    `torch.set_float32_matmul_precision("high")` or `torch.backends.cuda.matmul.fp32_precision` (`allow_tf32` before
    torch 2.9) enables. torch's own setting for convolutions, on by default, is ignored.
    """
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)
    return bool(matmul.allow_tf32) if precision is None else precision == "tf32"


def may_transform(x: Tensor) -> bool:
    """Whether the vendor library may convolve by Winograd or FFT, which round differently from a sum of products.

    True on GPUs, and on CPUs without oneDNN. Always False with gradients enabled.
    """
    with_onednn = torch._C._has_mkldnn and torch.backends.mkldnn.enabled
    return not torch.is_grad_enabled() and (x.is_cuda or not with_onednn)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b: x [N, *batch, in], weight [*batch, out, in], bias [*batch, out]."""
    if weight.dim() == 2:
        return functional.linear(x, weight, bias)
    result = torch.matmul(weight, x.unsqueeze(-1)).squeeze(-1)
    return result if bias is None else result + bias


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Cross-correlation of x [N, C_in, *space], one or two spatial axes."""
    if not x.is_cuda or torch.compiler.is_compiling():  # torch.compile sets its own flags
        return convolve(x, weight, bias, list(stride), list(padding), list(dilation), groups)
    return _convolution_with_flags(x, weight, bias, list(stride), list(padding), list(dilation), groups)


def can_prepack() -> bool:
    """Whether the weights of a convolution can be prepacked on this CPU: x86 with oneDNN."""
    operators = ("_convolution_pointwise", "_reorder_convolution_weight")
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch._C._has_mkldnn
        and bool(torch.backends.mkldnn.enabled)
        and all(hasattr(torch.ops.mkldnn, name) for name in operators)
    )


def prepack(
    weight: Tensor,
    frame: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Prepacks a float32 weight [C_out, C_in / groups, *kernel] for frames [N, *frame] of any N, in oneDNN's layout."""
    geometry = list(padding), list(stride), list(dilation), groups
    result: Tensor = torch.ops.mkldnn._reorder_convolution_weight.default(weight, *geometry, [1, *frame])
    return result


def convolution_prepacked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """As `convolution`, with a weight from `prepack`: saves the copy, which takes longer than a few frames."""
    geometry = list(padding), list(stride), list(dilation), groups
    result: Tensor = torch.ops.mkldnn._convolution_pointwise.default(x, weight, bias, *geometry, "none", [], "")
    return result


def _convolution_with_flags(
    x: Tensor, weight: Tensor, bias: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    """The same call as torch's own, with `tf32()` for the flag allow_tf32; the global flag stays as it is."""
    cudnn = torch.backends.cudnn
    deterministic = cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    geometry = stride, padding, dilation, False, [0] * len(stride), groups
    flags = cudnn.benchmark, deterministic, cudnn.enabled, tf32()
    result: Tensor = torch.ops.aten._convolution.default(x, weight, bias, *geometry, *flags)
    return result
