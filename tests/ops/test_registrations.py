"""Every operator that the dispatcher knows of ours has its kernels, and a GPU that is not there is torch's own error.

`make cuda-build` asks this of a build with CUDA, on a machine with or without a GPU.
"""

from __future__ import annotations

import importlib
import os
import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from neurocuda.ops import backends

pytestmark = pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there")

OPERATORS = sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith("neurocuda::"))
NO_GRADIENT = re.compile("pack|empty")  # bits of spikes, weights laid out anew, memory


def has(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


WITH_CUDA = bool(OPERATORS) and importlib.import_module("neurocuda._C").kernels == "cuda"
with_cuda = pytest.mark.skipif(not WITH_CUDA, reason="built without CUDA")
without_driver = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_there_are_operators() -> None:
    assert "neurocuda::neuron" in OPERATORS
    assert len(OPERATORS) >= 14
    assert WITH_CUDA or os.environ.get("NEUROCUDA_EXPECTED") != "cuda", "what make cuda-build is to build"


@pytest.mark.parametrize("key", ["CPU", "Meta", pytest.param("CUDA", marks=with_cuda)])
@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_a_kernel(name: str, key: str) -> None:
    assert has(name, key)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_can_be_differentiated_is(name: str) -> None:
    assert has(name, "Autograd") == (NO_GRADIENT.search(name) is None)


@with_cuda
def test_a_cuda_tensor_that_is_imagined_stays_one() -> None:
    with FakeTensorMode():
        x = torch.empty(4, 2, 3, device="cuda")
        result = torch.ops.neurocuda.branch_sum([x, x])
    assert (result.device.type, result.shape) == ("cuda", x.shape)


@with_cuda
@without_driver
def test_without_a_driver_the_error_is_that_of_torch() -> None:
    with pytest.raises(RuntimeError) as ours:
        torch.ops.neurocuda.empty([3], device=torch.device("cuda"))
    with pytest.raises(RuntimeError) as theirs:
        torch.empty([3], device="cuda")
    assert str(ours.value) == str(theirs.value)
    assert "driver" in str(ours.value)


@with_cuda
def test_torch_has_what_replays_a_graph_without_python() -> None:
    """Its own functions in C, which are no part of what it documents."""
    for found in (torch._C._CUDAGraph.replay, torch._C._CudaEventBase.record, torch._C._cuda_getCurrentRawStream):
        assert callable(found)
