"""int8 convolutions on tensor cores: integer sums, on a GPU and by the emulated kernel."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import pytest
import torch
from drawn import assert_equal, counts
from torch import Tensor
from torch.nn import functional

from neurocuda.ops import backends, int8

pytestmark = pytest.mark.emulated

C: Any = importlib.import_module("neurocuda._C") if backends.is_usable(backends.backends()["cpu"]) else None


@pytest.fixture
def there(device: torch.device) -> torch.device:
    """A device with the kernel: a GPU, or an emulated one."""
    if device.type == "cpu" and getattr(C, "kernels", "") != "emulated":
        pytest.skip("no device is emulated: make emulate")
    return device


class Conv(NamedTuple):
    into: int
    out: int
    kernel: tuple[int, ...] = (3, 3)
    space: tuple[int, ...] = (5, 6)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    frames: int = 2


CASES = [
    Conv(16, 8),
    Conv(3, 5),  # padded channels, an odd number of outputs
    Conv(64, 64, space=(8, 8), frames=3),
    Conv(32, 65, frames=5),  # two warps side by side, the second with one column
    Conv(80, 130, kernel=(2, 3), space=(4, 4), stride=(1, 2), padding=(1, 0)),
    Conv(48, 128, kernel=(1, 1), padding=(0, 0), stride=(2, 2), space=(7, 5), frames=9),
    Conv(16, 4, kernel=(3, 2), space=(9, 11), stride=(2, 3), padding=(2, 1), dilation=(2, 3)),
    Conv(16, 4, kernel=(3, 3), space=(1, 1), padding=(3, 3)),  # windows in the padding alone
    Conv(20, 7, kernel=(5,), space=(40,), stride=(2,), padding=(2,), dilation=(1,), frames=8),
    Conv(100, 10, kernel=(), space=(), stride=(), padding=(), dilation=(), frames=130),
    Conv(1, 1, kernel=(), space=(), stride=(), padding=(), dilation=(), frames=1),
    Conv(16, 1, frames=0),
]


def owed(x: Tensor, weight: Tensor, bias: Tensor | None, case: Conv) -> Tensor:
    """The sums in float64, which is exact here."""
    x, weight = x.double(), weight.double()
    bias = None if bias is None else bias.double()
    if not case.kernel:
        return functional.linear(x, weight, bias).float()
    convolve = functional.conv1d if len(case.kernel) == 1 else functional.conv2d
    return convolve(x, weight, bias, case.stride, case.padding, case.dilation).float()


@pytest.mark.parametrize("highest", [1, 255])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_are_integer_sums(case: Conv, highest: int, there: torch.device) -> None:
    g = torch.Generator().manual_seed(case.out)
    x = torch.randint(0, highest + 1, (case.frames, case.into, *case.space), generator=g)
    values = torch.randint(-127, 128, (case.out, case.into, *case.kernel), generator=g)
    exponents = torch.randint(-9, -2, (case.out,), generator=g).tolist()
    scales = torch.tensor([2.0**e for e in exponents]).reshape(-1, *[1] * (values.dim() - 1))
    weight = int8.from_float32(values * scales, exponents)
    for spacing, bias in ((1.0, None), (0.25, torch.randint(-99, 99, (case.out,), generator=g) / 512)):
        int8.prepack_for_gpu(weight, spacing, there)
        given = x.to(torch.uint8).to(there)
        for frames in (given, given.contiguous(memory_format=torch.channels_last) if given.dim() == 4 else given):
            b = None if bias is None else bias.to(there)
            found = int8.tensor_core_convolution(frames, weight, b, spacing, case.stride, case.padding, case.dilation)
            assert found.device.type == there.type
            assert_equal(found.cpu().contiguous(), owed(x * spacing, values * scales, bias, case), case, spacing)
            counts["integer_conv"] += 1


def test_the_largest_sums_do_not_overflow(there: torch.device) -> None:
    x = torch.full((129, 512, 3, 3), 255, dtype=torch.uint8, device=there)
    for number in (127, -127):
        weight = int8.from_float32(torch.full((3, 512, 3, 3), float(number)), [0, 0, 0])
        int8.prepack_for_gpu(weight, 1.0, there)
        found = int8.tensor_core_convolution(x[:2], weight, None, 1.0, (1, 1), (0, 0), (1, 1))
        assert (found == 255 * number * 512 * 9).all()


def test_signals_of_other_dtypes_become_uint8(there: torch.device) -> None:
    """`int8.convolution` for float32 inputs that are multiples of the spacing."""
    if there.type == "cpu":
        pytest.skip("on the CPU the vendor's library takes it")
    weight = int8.from_float32(torch.arange(32.0).reshape(2, 16, 1, 1), [0, 0])
    int8.prepack_for_gpu(weight, 0.5, there)
    x = torch.arange(48.0, device=there).reshape(1, 16, 3, 1) / 2
    found = int8.convolution(x, weight, None, 0.5, (1, 1), (0, 0), (1, 1), 1)
    assert torch.equal(found.cpu(), functional.conv2d(x.cpu(), torch.arange(32.0).reshape(2, 16, 1, 1)))


def test_wrong_arguments_are_refused(there: torch.device) -> None:
    x = torch.zeros(1, 16, 4, 4, dtype=torch.uint8, device=there).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(64, 192, dtype=torch.int8, device=there)
    scale, bias = torch.ones(3, device=there), torch.ones(3, device=there)

    def call(x: Tensor = x, weight: Tensor = weight, scale: Tensor = scale, bias: Tensor = bias) -> Tensor:
        numbers = [[4, 4], [3, 3], [1, 1], [1, 1], [1, 1]]
        result: Tensor = C.integer_conv(x, weight, scale, bias, *numbers)
        return result

    assert call().shape == (1, 3, 4, 4)
    cases = [
        ({"x": x.float()}, "x: expected uint8"),
        ({"x": x[:, :3]}, "x: expected uint8"),
        ({"x": x.contiguous()}, "x: expected uint8"),
        ({"weight": weight[:, :144]}, "weight: expected contiguous int8"),
        ({"weight": weight.float()}, "weight: expected contiguous int8"),
        ({"scale": scale.double()}, "scale: expected float32"),
        ({"bias": bias[:2]}, "bias: expected float32"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            call(**wrong)


@pytest.mark.skipif(C is None or C.kernels == "emulated", reason="a device is emulated, or no native operators")
def test_the_cpu_has_no_such_kernel() -> None:
    weight = torch.zeros(64, 64, dtype=torch.int8)
    x = torch.zeros(1, 16, 1, 1, dtype=torch.uint8)
    one = [1, 1]
    with pytest.raises(ValueError, match="expected a tensor on a CUDA device"):
        C.integer_conv(x, weight, torch.ones(1), None, one, one, one, [0, 0], one)


@pytest.mark.parametrize("step", [1.0, 0.25, 4.0, 2.0**-120])
def test_off_grid_elements_are_found(step: float, device: torch.device) -> None:
    if C is None:
        pytest.skip("no native operators")
    low, high = -3 * step, 9 * step
    x = (torch.arange(5000) % 13 - 3).float().to(device) * step
    assert int8.on_grid(x, step, low, high)
    for place in (0, 2500, 4999):
        for wrong in (step / 2, step * 1.25, 1e-45, 10 * step, -4 * step, float("nan"), float("inf")):
            if wrong % step == 0 and low <= wrong <= high:
                continue
            y = x.clone()
            y[place] = wrong
            assert not int8.on_grid(y, step, low, high), (place, wrong)
            both = C.Answer()
            int8.start_grid_check(both, [(x, step, low, high), (y, step, low, high)])
            assert not both.wait()
