"""Addresses of neurons in memory, and kernel launches.

The neurons of a time step are numbered 0 .. size - 1 in memory order. A signal has a stride between time steps; within
a step its elements are contiguous. Sizes and strides are passed as multiples of UNIT: 16 if all are divisible by it,
otherwise 1. The compiler thus knows where 16-byte accesses are aligned, and compiles a kernel at most twice per dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

READABLE = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.bool)


@triton.jit
def read(at, mask):
    """Loads any dtype as float32. bfloat16 by its bits: the interpreter flushes its subnormals."""
    value = tl.load(at, mask=mask, other=0)
    if at.dtype.element_ty == tl.bfloat16:
        wide = (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = value.to(tl.float32)
    return wide


@triton.jit
def write(at, value, mask):
    """Stores float32 in any dtype, rounded half to even. bfloat16 by its bits: the interpreter truncates."""
    if at.dtype.element_ty == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, rounded)  # NaN
        tl.store(at, rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True), mask=mask)
    else:
        tl.store(at, value.to(at.dtype.element_ty), mask=mask)


def odd(numbers: Iterable[int]) -> tuple[int, ...]:
    """Encodes the integers of a tuple argument as odd ones > 1: Triton specializes on 1 and on multiples of 16."""
    return tuple(2 * number + 3 for number in numbers)


@triton.jit
def even(number):
    """Decodes an integer that `odd` encoded."""
    return (tl.cast(number, tl.int64) - 3) >> 1


@triton.jit
def sum_at(branches, strides, t, n, mask, UNIT: tl.constexpr):
    """The sum of the branches at time step t, a left fold in float32."""
    total = read(branches[0] + t * (even(strides[0]) * UNIT) + n, mask)
    for branch in tl.static_range(1, len(branches)):
        at = branches[branch] + t * (even(strides[branch]) * UNIT) + n
        total = total + read(at, mask)
    return total


@triton.jit
def coefficients_at(coefficients, inners, counts, n, mask):
    """Loads the coefficients of neurons n: coefficient k of neuron n is element (n // inner) % count of its tensor."""
    loaded = ()
    for name in tl.static_range(len(coefficients)):
        at = (n // even(inners[name])) % even(counts[name])
        loaded = loaded + (tl.load(coefficients[name] + at, mask=mask, other=0),)  # type: ignore[assignment] # noqa: RUF005
    return loaded


class Order(NamedTuple):
    """The memory order of the neurons: a permutation of the axes of [B, *shape], the outermost first."""

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    """In the permuted order."""

    def step(self, tensor: Tensor) -> Tensor:
        """A tensor [B, *shape] of one step, contiguous in this order: a view if possible, otherwise a copy."""
        return as_bytes(tensor.permute(self.axes).contiguous())

    def signal(self, tensor: Tensor) -> tuple[Tensor, int]:
        """A signal [T, B, *shape] whose steps are contiguous in this order, and the stride between steps.

        A view if possible, otherwise a copy. A signal that is expanded over time is one step with stride 0.
        """
        view = tensor.permute(0, *(axis + 1 for axis in self.axes))
        if view.shape[0] > 1 and view.stride(0) == 0:
            return as_bytes(view[0].contiguous()), 0
        if not view[0].is_contiguous():
            view = view.contiguous()
        return as_bytes(view), view.stride(0) if view.shape[0] > 1 else 0

    def empty(self, steps: int | None, like: Tensor, dtype: torch.dtype) -> Tensor:
        """An uninitialized tensor in this order: [steps, B, *shape], or [B, *shape] without steps."""
        lead = [] if steps is None else [steps]
        memory = torch.empty([*lead, *self.sizes], dtype=dtype, device=like.device)
        return memory.permute(*range(len(lead)), *(axis + len(lead) for axis in self.inverse))

    @property
    def inverse(self) -> list[int]:
        """The permutation from this order back to [B, *shape]."""
        return sorted(range(len(self.axes)), key=self.axes.__getitem__)

    def coefficient(self, tensor: Tensor) -> tuple[Tensor, int, int]:
        """Elements, inner and count (see `coefficients_at`) of a coefficient that broadcasts to [B, *shape]."""
        if tensor.numel() == 1:
            return tensor.contiguous(), 1, 1
        missing = len(self.axes) - tensor.dim()
        wide = tensor.reshape(*[1] * missing, *tensor.shape).permute(self.axes)
        varying = [axis for axis, size in enumerate(wide.shape) if size > 1]
        inner = 1
        for size in self.sizes[varying[-1] + 1 :]:
            inner *= size
        window = slice(varying[0], varying[-1] + 1)
        elements = wide.reshape(wide.shape[window]).expand(self.sizes[window]).contiguous()
        return elements, inner, elements.numel()


def order_of(branches: Sequence[Tensor], *, contiguous: bool = False) -> Order:
    """The memory order of the first branch whose steps have no gaps; `contiguous`: the order of the axes."""
    sizes = branches[0].shape[1:]
    axes = list(range(len(sizes)))
    if not contiguous and branches[0].shape[0] > 0:
        for branch in branches:
            by_stride = sorted(axes, key=lambda axis: -branch.stride(axis + 1))
            if branch[0].permute(by_stride).is_contiguous():
                axes = by_stride
                break
    return Order(tuple(axes), tuple(sizes[axis] for axis in axes))


def as_bytes(tensor: Tensor) -> Tensor:
    """The same tensor, bool viewed as uint8, as kernels read it."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


def units(*numbers: int) -> tuple[int, list[int]]:
    """UNIT, and the numbers divided by it."""
    unit = 1 if any(number % 16 for number in numbers) else 16
    return unit, [number // unit for number in numbers]


def block_for(*tensors: Tensor) -> int:
    """Neurons per program of 128 threads: 16 bytes of the narrowest floating-point tensor for each thread."""
    return 128 * max(16 // t.element_size() for t in tensors if t.is_floating_point())


def launch(kernel: Any, programs: int, device: torch.device, *arguments: object, **constants: object) -> None:
    """Launches `programs` programs of a kernel on a device, without fused multiply-add."""
    if programs > 0:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[(programs,)](*arguments, **constants, enable_fp_fusion=False)
