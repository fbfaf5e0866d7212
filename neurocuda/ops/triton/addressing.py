"""How kernels find a neuron's numbers in memory, and how they are launched.

The neurons of a step are numbered as they lie in memory, 0 .. size - 1. A signal has one step after the other, each
without gaps, at any distance. Sizes and distances come as multiples of UNIT, which is 16 where all are, and else 1:
so the compiler knows of 16-byte accesses, and a kernel is compiled at most twice, however many sizes there are.
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
    """Numbers of any type as float32. bfloat16 by its bits: the interpreter would lose subnormal ones."""
    value = tl.load(at, mask=mask, other=0)
    if at.dtype.element_ty == tl.bfloat16:
        wide = (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = value.to(tl.float32)
    return wide


@triton.jit
def write(at, value, mask):
    """float32 in any type, rounded to the nearest, half to even. bfloat16 by its bits: the interpreter would cut."""
    if at.dtype.element_ty == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, rounded)  # NaN
        tl.store(at, rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True), mask=mask)
    else:
        tl.store(at, value.to(at.dtype.element_ty), mask=mask)


def odd(numbers: Iterable[int]) -> tuple[int, ...]:
    """Numbers as kernels take them in a tuple: there Triton would compile anew for 1 and for multiples of 16."""
    return tuple(2 * number + 3 for number in numbers)


@triton.jit
def even(number):
    """The number that `odd` was given."""
    return (tl.cast(number, tl.int64) - 3) >> 1


@triton.jit
def sum_at(branches, strides, t, n, mask, UNIT: tl.constexpr):
    """The sum of the branches at step t, left fold, in float32."""
    total = read(branches[0] + t * (even(strides[0]) * UNIT) + n, mask)
    for branch in tl.static_range(1, len(branches)):
        at = branches[branch] + t * (even(strides[branch]) * UNIT) + n
        total = total + read(at, mask)
    return total


@triton.jit
def coefficients_at(coefficients, inners, counts, n, mask):
    """The coefficients of neurons n: each repeats its `count` values, every one `inner` times on end."""
    found = ()
    for name in tl.static_range(len(coefficients)):
        at = (n // even(inners[name])) % even(counts[name])
        found = found + (tl.load(coefficients[name] + at, mask=mask, other=0),)  # type: ignore[assignment] # noqa: RUF005
    return found


class Order(NamedTuple):
    """The order of the neurons in memory: axes of [B, *shape], the outermost first."""

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    """By place, not by axis."""

    def step(self, tensor: Tensor) -> Tensor:
        """A state [B, *shape] in that order without gaps: a view, or else a copy."""
        return plain(tensor.permute(self.axes).contiguous())

    def signal(self, tensor: Tensor) -> tuple[Tensor, int]:
        """A signal [T, B, *shape] whose steps are in that order without gaps, and their distance.

        A view where the memory is so, or else a copy: of one step, if all steps are one.
        """
        view = tensor.permute(0, *(axis + 1 for axis in self.axes))
        if view.shape[0] > 1 and view.stride(0) == 0:
            return plain(view[0].contiguous()), 0
        if not view[0].is_contiguous():
            view = view.contiguous()
        return plain(view), view.stride(0) if view.shape[0] > 1 else 0

    def empty(self, steps: int | None, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory in that order, for `steps` steps, [T, B, *shape], or for a state, [B, *shape]."""
        lead = [] if steps is None else [steps]
        memory = torch.empty([*lead, *self.sizes], dtype=dtype, device=like.device)
        back = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return memory.permute(*range(len(lead)), *(place + len(lead) for place in back))

    def coefficient(self, tensor: Tensor) -> tuple[Tensor, int, int]:
        """The values of a coefficient that broadcasts against [B, *shape], how often each stands on end, how many."""
        if tensor.numel() == 1:
            return tensor.contiguous(), 1, 1
        missing = len(self.axes) - tensor.dim()
        wide = tensor.reshape(*[1] * missing, *tensor.shape).permute(self.axes)
        varies = [place for place, size in enumerate(wide.shape) if size > 1]
        inner = 1
        for size in self.sizes[varies[-1] + 1 :]:
            inner *= size
        window = slice(varies[0], varies[-1] + 1)
        values = wide.reshape(wide.shape[window]).expand(self.sizes[window]).contiguous()
        return values, inner, values.numel()


def order_of(branches: Sequence[Tensor], *, plain: bool = False) -> Order:
    """The order of the first branch whose steps have no gaps; plain: that of the axes."""
    sizes = branches[0].shape[1:]
    axes = list(range(len(sizes)))
    if not plain and branches[0].shape[0] > 0:
        for branch in branches:
            by_stride = sorted(axes, key=lambda axis: -branch.stride(axis + 1))
            if branch[0].permute(by_stride).is_contiguous():
                axes = by_stride
                break
    return Order(tuple(axes), tuple(sizes[axis] for axis in axes))


def plain(tensor: Tensor) -> Tensor:
    """As kernels read it: bool as the bytes that hold it."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


def units(*numbers: int) -> tuple[int, list[int]]:
    """UNIT, and the numbers as its multiples."""
    unit = 1 if any(number % 16 for number in numbers) else 16
    return unit, [number // unit for number in numbers]


def block_for(*tensors: Tensor) -> int:
    """Neurons of a program of 128 threads: 16 bytes of the narrowest floating-point tensor for each thread."""
    return 128 * max(16 // t.element_size() for t in tensors if t.is_floating_point())


def launch(kernel: Any, programs: int, device: torch.device, *arguments: object, **constants: object) -> None:
    """Run `programs` programs of a kernel on that device, without fusing a product and a sum into one rounding."""
    if programs > 0:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[(programs,)](*arguments, **constants, enable_fp_fusion=False)
