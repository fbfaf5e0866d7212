"""Layers whose sums are the vendor's library's, in float32 unless less is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def tf32() -> bool:
    """Whether float32 products on a GPU may round their operands to 11 bits (TF32): off until the user asks.

    torch asks for it in two ways, in matrix products only on demand, in convolutions unless told otherwise. Here the
    demand for products counts for both: `torch.set_float32_matmul_precision("high")`, or what else sets
    `torch.backends.cuda.matmul.fp32_precision` (before torch 2.9, `allow_tf32`).
    """
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)
    return bool(matmul.allow_tf32) if precision is None else precision == "tf32"


_COLUMNS = 2**26
"""Values of a signal unfolded for one product: 256 MiB."""


def may_transform(x: Tensor) -> bool:
    """Whether the library might convolve by Winograd or Fourier, which are no sums of products and round otherwise.

    That is on GPUs, and on CPUs without oneDNN. With gradients it may all the same.
    """
    with_onednn = torch._C._has_mkldnn and torch.backends.mkldnn.enabled
    return not torch.is_grad_enabled() and (x.is_cuda or not with_onednn)


def products(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """As `convolution`, as a matrix product of unfolded frames: sums of products in some order, and nothing else."""
    if x.dim() == 3:
        lines = products(x.unsqueeze(2), weight.unsqueeze(2), bias, [1, *stride], [0, *padding], [1, *dilation], groups)
        return lines.squeeze(2)
    kernel, out = tuple(weight.shape[2:]), weight.shape[0]
    sizes = [
        (size + 2 * zeros - gap * (k - 1) - 1) // step + 1
        for size, zeros, gap, k, step in zip(x.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    if x.shape[0] == 0:
        return x.new_empty(0, out, *sizes)
    rows = weight.reshape(groups, out // groups, -1)
    frames = max(1, _COLUMNS // max(1, sizes[0] * sizes[1] * groups * rows.shape[2]))
    results = []
    for part in torch.split(x, frames):
        columns = functional.unfold(part, kernel, tuple(dilation), tuple(padding), tuple(stride))
        sums = torch.matmul(rows, columns.reshape(len(part), groups, -1, columns.shape[-1]))
        results.append(sums.reshape(len(part), out, *sizes) + bias.reshape(-1, 1, 1))
    return results[0] if len(results) == 1 else torch.cat(results)


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
        convolve: Callable[..., Tensor] = functional.conv1d if x.dim() == 3 else functional.conv2d
        return convolve(x, weight, bias, list(stride), list(padding), list(dilation), groups)
    return _with_flags(x, weight, bias, list(stride), list(padding), list(dilation), groups)


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
