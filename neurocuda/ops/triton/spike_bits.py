"""Packs spikes as bits, 8 per byte, and unpacks them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from neurocuda.ops.triton.addressing import as_bytes, launch, write

_BLOCK = 1024


@triton.jit(do_not_specialize=["size"])
def pack_kernel(spikes, bits, size: tl.int64, BLOCK: tl.constexpr):
    """Packs BLOCK spikes [T, size] of one step into bytes [T, ceil(size / 8)], the first spike in the lowest bit."""
    row = (size.to(tl.int64) + 7) // 8
    blocks = (row + BLOCK // 8 - 1) // (BLOCK // 8)
    program = tl.program_id(0).to(tl.int64)
    t = program // blocks
    byte = (program % blocks) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    lanes = tl.arange(0, 8)[None, :]
    n = byte[:, None] * 8 + lanes
    fired = tl.load(spikes + t * size + n, mask=n < size, other=0) != 0
    tl.store(bits + t * row + byte, tl.sum(fired.to(tl.int32) << lanes, axis=1).to(tl.uint8), mask=byte < row)


@triton.jit(do_not_specialize=["size", "row"])
def unpack_kernel(bits, spikes, size: tl.int64, row: tl.int64, BLOCK: tl.constexpr):
    """Unpacks BLOCK spikes [T, size] of one step from bytes with a stride of `row` between steps."""
    blocks = (size.to(tl.int64) + BLOCK - 1) // BLOCK
    program = tl.program_id(0).to(tl.int64)
    t = program // blocks
    n = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = n < size
    byte = tl.load(bits + t * row + n // 8, mask=mask, other=0).to(tl.int32)
    write(spikes + t * size + n, ((byte >> (n % 8).to(tl.int32)) & 1).to(tl.float32), mask)


def pack_spikes(spikes: Tensor) -> Tensor:
    """As `native.pack_spikes`."""
    bits: Tensor = torch.ops.neurocuda_triton.pack_spikes.default(spikes)
    return bits


def unpack_spikes(bits: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """As `native.unpack_spikes`."""
    spikes: Tensor = torch.ops.neurocuda_triton.unpack_spikes.default(bits, list(shape), dtype)
    return spikes


@torch.library.custom_op("neurocuda_triton::pack_spikes", mutates_args=(), schema="(Tensor spikes) -> Tensor")
def _pack(spikes: Tensor) -> Tensor:
    bits = _packed_shape(spikes)
    if bits.numel():
        programs = bits.shape[0] * -(-bits.shape[1] // (_BLOCK // 8))
        size = math.prod(spikes.shape[1:])
        launch(pack_kernel, programs, bits.device, as_bytes(spikes.contiguous()), bits, size, BLOCK=_BLOCK)
    return bits


@_pack.register_fake
def _packed_shape(spikes: Tensor) -> Tensor:
    return spikes.new_empty((spikes.shape[0], (math.prod(spikes.shape[1:]) + 7) // 8), dtype=torch.uint8)


@torch.library.custom_op(
    "neurocuda_triton::unpack_spikes",
    mutates_args=(),
    schema="(Tensor bits, SymInt[] shape, ScalarType dtype) -> Tensor",
)
def _unpack(bits: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    spikes = bits.new_empty((bits.shape[0], *shape), dtype=dtype)
    size = math.prod(shape)
    if spikes.numel():
        rows = bits if bits.stride(1) == 1 else bits.contiguous()
        launch(
            unpack_kernel, bits.shape[0] * -(-size // _BLOCK), bits.device, rows, as_bytes(spikes), size,
            rows.stride(0), BLOCK=_BLOCK,
        )  # fmt: skip
    return spikes


@_unpack.register_fake
def _unpacked_shape(bits: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return bits.new_empty((bits.shape[0], *shape), dtype=dtype)
