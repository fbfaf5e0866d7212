"""Layers whose sums are the vendor's library's, in float32 unless less is asked for."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from neurocuda.ops.pointwise import convolve


def tf32() -> bool:
    """Whether float32 products on a GPU may round their operands to 11 bits (TF32): off until the user asks.

    torch asks for it in two ways, in matrix products only on demand, in convolutions unless told otherwise. Here the
    demand for products counts for both: `torch.set_float32_matmul_precision("high")`, or what else sets
    `torch.backends.cuda.matmul.fp32_precision` (before torch 2.9, `allow_tf32`).
    """
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)
    return bool(matmul.allow_tf32) if precision is None else precision == "tf32"


def may_transform(x: Tensor) -> bool:
    """Whether the library might convolve by Winograd or Fourier, which are no sums of products and round otherwise.

    That is on GPUs, and on CPUs without oneDNN. With gradients it may all the same.
    """
    with_onednn = torch._C._has_mkldnn and torch.backends.mkldnn.enabled
    return not torch.is_grad_enabled() and (x.is_cuda or not with_onednn)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Matrices [..., out, in] times x [N, ..., in], and the bias [..., out]."""
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
    """Cross-correlation of x [N, C_in, *space], one or two axes of space."""
    if not x.is_cuda or torch.compiler.is_compiling():  # compiled code has flags of its own
        return convolve(x, weight, bias, list(stride), list(padding), list(dilation), groups)
    return _with_flags(x, weight, bias, list(stride), list(padding), list(dilation), groups)


def lays_out() -> bool:
    """Whether the library for CPUs takes the weights of a convolution in a form of its own: oneDNN, on x86."""
    wanted = ("_convolution_pointwise", "_reorder_convolution_weight")
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch._C._has_mkldnn
        and bool(torch.backends.mkldnn.enabled)
        and all(hasattr(torch.ops.mkldnn, name) for name in wanted)
    )


def laid_out(
    weight: Tensor,
    frame: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Float32 weights of a convolution of frames [N, *frame] in the library's own form, for any N."""
    geometry = list(padding), list(stride), list(dilation), groups
    result: Tensor = torch.ops.mkldnn._reorder_convolution_weight.default(weight, *geometry, [1, *frame])
    return result


def convolution_laid_out(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """As `convolution`, with weights as `laid_out` made them: it copies none, which takes longer than few frames do."""
    geometry = list(padding), list(stride), list(dilation), groups
    result: Tensor = torch.ops.mkldnn._convolution_pointwise.default(x, weight, bias, *geometry, "none", [], "")
    return result


def _with_flags(
    x: Tensor, weight: Tensor, bias: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    """As torch calls it, but for the one flag, which stays as it is for others."""
    cudnn = torch.backends.cudnn
    deterministic = cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    result: Tensor = torch.ops.aten._convolution.default(
        x,
        weight,
        bias,
        stride,
        padding,
        dilation,
        False,
        [0] * len(stride),
        groups,
        cudnn.benchmark,
        deterministic,
        cudnn.enabled,
        tf32(),
    )
    return result
