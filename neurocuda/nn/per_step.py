"""Layers of plain torch over signals [T, B, ...]."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from neurocuda.errors import ArgumentError
from neurocuda.ops.pointwise import safe_convolutions


class PerStep(nn.Module):
    """Applies a torch layer to each time step: folds time into the batch, [T, B, ...] -> [T*B, ...], and back.

    Batch statistics (BatchNorm) are taken over all time steps. On a CPU, convolutions have safe gradients
    (`safe_convolutions`).

    Args:
        module: A layer that returns a tensor with one row for each row of its input.

    Raises:
        ArgumentError: `module` is not a torch.nn.Module.

    Example:
        >>> import torch
        >>> from neurocuda import nn
        >>> layer = nn.PerStep(torch.nn.Conv2d(1, 8, 3, padding=1))
        >>> layer(torch.rand(16, 4, 1, 28, 28)).shape
        torch.Size([16, 4, 8, 28, 28])
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise ArgumentError(f"PerStep, module: expected a torch.nn.Module, found {type(module).__name__}")
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer.

        Args:
            x: [T, B, ...].

        Returns:
            [T, B, ...], the output of the layer for each time step and sample.

        Raises:
            ArgumentError: x has no axes [T, B], or the output of the layer does not have T*B rows.
        """
        if not isinstance(x, Tensor) or x.dim() < 2:
            raise ArgumentError(f"PerStep, x: expected a tensor [T, B, ...], found {_described(x)}")
        steps, batch = x.shape[:2]
        with safe_convolutions() if x.is_cpu and torch.is_grad_enabled() else nullcontext():
            y = self.module(x.flatten(0, 1))
        if not isinstance(y, Tensor) or y.dim() < 1 or y.shape[0] != steps * batch:
            raise ArgumentError(
                f"PerStep, output of {type(self.module).__name__}: expected a tensor [{steps * batch}, ...], one row "
                f"for each time step and sample, found {_described(y)}"
            )
        return y.reshape(steps, batch, *y.shape[1:])


def _described(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
