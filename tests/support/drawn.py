"""Random inputs of operators, global settings, and comparisons bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.bool)

counts: Counter[str] = Counter()
"""Number of cases by operator, and of comparisons, in this process; pytest's summary prints them."""


@contextmanager
def settings(threads: int = 1, flush: bool = False) -> Iterator[None]:
    """Sets the number of threads, and whether the processor flushes subnormals to zero."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


def normal(draw: np.random.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(draw.normal(0, scale, shape).astype(np.float32))


def inputs(draw: np.random.Generator, density: float | str, dtype: torch.dtype, *shape: int) -> Tensor:
    """Spikes of a density, spike counts ("counts") or normal values ("real"), in a dtype that may round them."""
    if density == "real":
        return (normal(draw, *shape) * 3).abs().to(dtype) if dtype == torch.uint8 else normal(draw, *shape).to(dtype)
    if density == "counts":
        return torch.from_numpy(draw.poisson(0.3, shape)).to(dtype)
    return torch.from_numpy(draw.random(shape) < density).to(dtype)


def bits(value: Tensor) -> Tensor:
    """The bits of each element as integers; all NaNs have the same bits."""
    if not value.is_floating_point():
        return value
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
    return value.contiguous().view(integers).masked_fill(value.isnan(), -1)


def assert_equal(found: Tensor, expected: Tensor, *case: object) -> None:
    """Asserts equal dtype, shape and bits, and names the first element that differs."""
    counts["tensors compared"] += 1
    assert found.dtype == expected.dtype, case
    assert found.shape == expected.shape, case
    if not torch.equal(bits(found), bits(expected)):
        different = bits(found) != bits(expected)
        at = tuple(different.nonzero()[0].tolist())
        ours, theirs = found[at].item(), expected[at].item()
        raise AssertionError(f"{different.sum()} differ, first {at}: found {ours!r}, expected {theirs!r}: {case}")


def leaves(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.clone().requires_grad_() for t in tensors]


def assert_same_gradients(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a is None or b is None:
            continue
        if b.grad is None:  # the reference does not use it
            assert a.grad is None or not a.grad.any(), number
            continue
        assert a.grad is not None, number
        assert_equal(a.grad, b.grad, "gradient of input", number)
