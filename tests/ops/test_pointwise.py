"""Strided 1x1 convolutions have torch's gradients, and no network reaches the faulty routine of oneDNN."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
import residual_gradients
import torch
from drawn import counts
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import neurocuda
from neurocuda.ops import pointwise, reference

NEWEST_CHECKED = (3, 12)
"""The newest oneDNN that was checked for the fault."""

PLAIN = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def case(axes: int, groups: int, last: bool) -> list[Tensor]:
    """x, weight and bias on a grid: all sums are exact."""
    draw = torch.Generator().manual_seed(axes + groups)
    shapes = ((3, 4, *(7, 6, 5)[:axes]), (6, 4 // groups, *(1,) * axes), (6,))
    x, weight, bias = (torch.randint(-8, 9, shape, generator=draw) / 8 for shape in shapes)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    return [t.requires_grad_() for t in (x, weight, bias)]


def gradients(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    toward = torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape).remainder(17) - 8
    found = torch.autograd.grad(y, leaves, toward, create_graph=True)
    # Second derivatives are sums of products too.
    again = torch.autograd.grad(sum(g.square().sum() for g in found), leaves[:2])
    return [y, *found, *again]


@pytest.mark.parametrize(("axes", "groups", "last"), [*product((1, 2, 3), (1, 2), (False, True))])
@pytest.mark.parametrize(("stride", "padding"), [(2, 0), (3, 1), (1, 0), (2, "valid"), ((2,), (1,))])
def test_gradients_are_those_of_torch(axes: int, groups: int, last: bool, stride: Any, padding: Any) -> None:
    ours = case(axes, groups, last)
    theirs = [t.detach().double().requires_grad_() for t in ours]  # oneDNN has no float64
    found = gradients(pointwise.convolve(*ours, stride, padding, groups=groups), ours)
    owed = gradients(PLAIN[axes](*theirs, stride, padding, groups=groups), theirs)
    for name, a, b in zip(("y", "x", "weight", "bias", "x again", "weight again"), found, owed, strict=True):
        assert torch.equal(a.double(), b), (name, (a - b).abs().max())
    counts["gradients of 1x1 convolutions"] += 1


def test_by_strides_of_each_axis_and_without_bias() -> None:
    x, weight, _ = case(2, 1, True)
    theirs = [t.detach().double().requires_grad_() for t in (x, weight)]
    found = gradients(pointwise.convolve(x, weight, None, (1, 3), (0, 2)), [x, weight])
    owed = gradients(functional.conv2d(*theirs, None, (1, 3), (0, 2)), theirs)
    assert all(torch.equal(a.double(), b) for a, b in zip(found, owed, strict=True))


@pytest.mark.parametrize("axes", [1, 2])
def test_gradients_of_the_reference(axes: int) -> None:
    x, weight, bias = ours = case(axes, 2, True)
    theirs = [t.detach().double().requires_grad_() for t in ours]
    y = reference.ordered_conv(x, weight, bias, (2,) * axes, ((1, 0),) * axes, (1,) * axes, 2)
    padded = functional.pad(theirs[0], (1, 0) * axes)
    owed = PLAIN[axes](padded, *theirs[1:], 2, groups=2)
    for a, b in zip(torch.autograd.grad(y.sum(), ours), torch.autograd.grad(owed.sum(), theirs), strict=True):
        assert torch.equal(a.double(), b)


def is_faulty(weight: Tensor, stride: list[int], mask: list[bool]) -> bool:
    """Whether this call of aten::convolution_backward may reach the routine."""
    return set(weight.shape[2:]) == {1} and any(step > 1 for step in stride) and mask[1]


class Watch(TorchDispatchMode):
    """Fails for a call that may reach the faulty routine, before it runs; counts the other weight gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.safe = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            weight, stride, mask = args[2], args[4], args[-1]
            assert not is_faulty(weight, stride, mask), f"weights {tuple(weight.shape)}, stride {stride}"
            self.safe += bool(mask[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", residual_gradients.runs())
def test_no_network_reaches_the_faulty_routine(name: str) -> None:
    with Watch() as watch:
        residual_gradients.runs()[name]()
    assert watch.safe >= 2, "no convolution of this network was differentiated"


def test_the_watch_finds_unsafe_gradients() -> None:
    x, weight, bias = case(2, 1, False)
    with Watch(), pytest.raises(AssertionError, match="stride"):
        functional.conv2d(x, weight, bias, 2).sum().backward()
    with Watch() as watch, neurocuda.nn.safe_convolutions():
        functional.conv2d(x, weight, bias, 2).sum().backward()
    assert watch.safe == 1


@pytest.mark.filterwarnings("ignore")
def test_compiled_modules_do_not_reach_the_faulty_routine() -> None:
    calls = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.convolution_backward.default)
        calls.extend(is_faulty(node.args[2].meta["val"], node.args[4], node.args[-1]) for node in found)
        return make_boxed_func(graph.forward)

    try:
        residual_gradients.of_modules(
            "reference", lambda model: torch.compile(model, fullgraph=True, backend=aot_autograd(fw_compiler=keep))
        )
    finally:
        torch.compiler.reset()  # torch takes the sizes of the next module of this class for sizes that vary
    assert calls == [False, False]


def test_without_gradients_nothing_is_sliced() -> None:
    """Inference has the bits and the time of torch's own call."""
    x, weight, bias = (t.detach() for t in case(2, 1, False))
    with torch.profiler.profile(record_shapes=False) as profile:
        pointwise.convolve(x, weight, bias, 2)
    assert not any(event.key == "aten::slice" for event in profile.key_averages())


def test_the_newest_onednn_was_checked() -> None:
    found = re.search(r"MKL-DNN v(\d+)\.(\d+)", torch.__config__.show())
    if found is None:
        pytest.skip("this torch is without oneDNN")
    version = int(found[1]), int(found[2])
    assert version <= NEWEST_CHECKED, (
        f"torch {torch.__version__} has oneDNN {found[1]}.{found[2]}, which was not checked: does it fix issue 6035 of "
        "uxlfoundation/oneDNN? If so, neurocuda/ops/pointwise.py can be removed with support for older torch versions; "
        "if not, raise NEWEST_CHECKED."
    )
