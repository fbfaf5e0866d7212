"""Random inputs for operators, the settings they run under, and what it means that two results are the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

INSTRUCTIONS = os.environ.get("NEUROCUDA_INSTRUCTIONS")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.bool)
if INSTRUCTIONS is not None:  # the others become float32 before any instruction is chosen
    DTYPES = (torch.float32, torch.uint8)


@contextmanager
def settings(threads: int = 1, flush: bool = False) -> Iterator[None]:
    """Run with some threads; with subnormals flushed to zero by everything that does not see to them itself."""
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
    """Spikes of some density, spike counts, or real values, in a type that may round them."""
    if density == "real":
        return (normal(draw, *shape) * 3).abs().to(dtype) if dtype == torch.uint8 else normal(draw, *shape).to(dtype)
    if density == "counts":
        return torch.from_numpy(draw.poisson(0.3, shape)).to(dtype)
    return torch.from_numpy(draw.random(shape) < density).to(dtype)


def assert_equal(found: Tensor, expected: Tensor, *case: object) -> None:
    assert found.dtype == expected.dtype, case
    assert torch.equal(found, expected), case


def leaves(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.clone().requires_grad_() for t in tensors]


def assert_same_gradients(found: list[Tensor | None], expected: list[Tensor | None], rtol: float = 0) -> None:
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a is None or b is None:
            continue
        if b.grad is None:  # the reference does not use it
            assert a.grad is None or not a.grad.any(), number
            continue
        assert a.grad is not None, number
        torch.testing.assert_close(
            a.grad, b.grad, rtol=rtol, atol=rtol, msg=lambda text, n=number: f"input {n}: {text}"
        )
