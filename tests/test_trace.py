"""What the tracer makes of layers, functions and forms of models: each against the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import traced
from torch import Tensor, nn
from torch.nn import functional


class Does(nn.Module):
    """A model whose forward is a function of itself and x, with these modules."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.own = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        return self.own(self, x)


def conv(into: int = 3, out: int = 4, kernel: int = 3, **how: Any) -> nn.Conv2d:
    torch.manual_seed(into + 10 * out)
    return nn.Conv2d(into, out, kernel, **how)


def norm(channels: int = 4) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)


IMAGE, LINE, FLAT = (3, 9, 8), (3, 11), (6,)

LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "conv2d": (IMAGE, lambda: conv(padding=(1, 0), stride=(1, 2), dilation=(2, 1))),
    "conv2d without bias": (IMAGE, lambda: conv(bias=False)),
    "conv2d same": (IMAGE, lambda: conv(kernel=4, padding="same")),
    "conv2d valid": (IMAGE, lambda: conv(padding="valid")),
    "grouped": (IMAGE, lambda: conv(3, 6, groups=3)),
    "reflect without padding": (IMAGE, lambda: conv(padding_mode="reflect")),
    "conv1d": (LINE, lambda: nn.Conv1d(3, 5, 3, padding=2, stride=2)),
    "linear": (FLAT, lambda: nn.Linear(6, 4)),
    "linear without bias": (FLAT, lambda: nn.Linear(6, 4, bias=False)),
    "linear on the last of two axes": (LINE, lambda: nn.Linear(11, 4)),
    "linear on the last of three axes": (IMAGE, lambda: nn.Linear(8, 2, bias=False)),
    "norm after conv": (IMAGE, lambda: nn.Sequential(conv(bias=False), norm())),
    "norm after linear": (FLAT, lambda: nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4))),
    "norm after linear on two axes": (LINE, lambda: nn.Sequential(nn.Linear(11, 4), nn.BatchNorm1d(3))),
    "norm before a padded conv": (IMAGE, lambda: nn.Sequential(nn.BatchNorm2d(3), conv(padding=1))),
    "norm before a plain conv": (IMAGE, lambda: nn.Sequential(nn.BatchNorm2d(3), conv(3, 6, groups=3))),
    "norm before linear": (FLAT, lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 4, bias=False))),
    "norm before same": (IMAGE, lambda: nn.Sequential(nn.BatchNorm2d(3), conv(padding="same"))),
    "norm alone": (IMAGE, lambda: nn.BatchNorm2d(3)),
    "norm alone, flat": (FLAT, lambda: nn.BatchNorm1d(6)),
    "norm alone, line": (LINE, lambda: nn.BatchNorm1d(3)),
    "norm without factors": (IMAGE, lambda: nn.Sequential(conv(), nn.BatchNorm2d(4, affine=False))),
    "two norms": (IMAGE, lambda: nn.Sequential(conv(), norm(), norm(), nn.ReLU(), norm(), norm())),
    "relu": (IMAGE, nn.ReLU),
    "relu6": (IMAGE, nn.ReLU6),
    "hardtanh": (IMAGE, lambda: nn.Hardtanh(0.0, 0.5)),
    "threshold": (IMAGE, lambda: nn.Threshold(0.0, 0.0)),
    "dropouts": (IMAGE, lambda: nn.Sequential(nn.Dropout(), nn.Identity(), nn.Dropout2d(), nn.AlphaDropout(), conv())),
    "zeros around": (IMAGE, lambda: nn.Sequential(nn.ZeroPad2d((1, 0, 2, 3)), nn.BatchNorm2d(3))),
    "average": (IMAGE, lambda: nn.AvgPool2d(2)),
    "average, padded": (IMAGE, lambda: nn.AvgPool2d((3, 2), (2, 3), (1, 0))),
    "average, padding not counted": (IMAGE, lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "average, ceil": (IMAGE, lambda: nn.AvgPool2d(3, 2, ceil_mode=True)),
    "average, ceil, padded": (IMAGE, lambda: nn.AvgPool2d(2, 2, 1, ceil_mode=True)),
    "average, ceil, padding not counted": (
        IMAGE,
        lambda: nn.AvgPool2d(4, 3, 1, ceil_mode=True, count_include_pad=False),
    ),
    "average, own divisor": (IMAGE, lambda: nn.AvgPool2d(2, divisor_override=3)),
    "average of a line": (LINE, lambda: nn.AvgPool1d(3, 2, 1)),
    "average of a line, padding not counted": (LINE, lambda: nn.AvgPool1d(3, 2, 1, count_include_pad=False)),
    "adaptive average": (IMAGE, lambda: nn.AdaptiveAvgPool2d(1)),
    "adaptive average, even": (IMAGE, lambda: nn.AdaptiveAvgPool2d((3, 4))),
    "adaptive average, none": (IMAGE, lambda: nn.AdaptiveAvgPool2d((None, 8))),
    "adaptive average, overlapping": (IMAGE, lambda: nn.AdaptiveAvgPool2d((4, 4))),
    "adaptive average, uneven": (IMAGE, lambda: nn.AdaptiveAvgPool2d((5, 3))),
    "adaptive average, larger": (IMAGE, lambda: nn.AdaptiveAvgPool2d((11, 16))),
    "adaptive average into linear": (
        IMAGE,
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d((5, 3)), nn.Flatten(), nn.Linear(45, 4)),
    ),
    "adaptive average of a line, into linear": (
        LINE,
        lambda: nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(12, 4)),
    ),
    "adaptive average of a line": (LINE, lambda: nn.AdaptiveAvgPool1d(1)),
    "maximum": (IMAGE, lambda: nn.MaxPool2d(2)),
    "maximum of any sign, overlapping": (IMAGE, lambda: nn.MaxPool2d((3, 2), (2, 1))),
    "maximum, dilated": (IMAGE, lambda: nn.MaxPool2d(3, 1, dilation=2)),
    "maximum, wide": (IMAGE, lambda: nn.MaxPool2d(5, 3)),
    "maximum, padded": (IMAGE, lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1))),
    "maximum, padded, dilated": (IMAGE, lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1, dilation=3))),
    "maximum, ceil": (IMAGE, lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True))),
    "maximum, ceil, padded": (IMAGE, lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 2, 1, ceil_mode=True))),
    "maximum of an average": (IMAGE, lambda: nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.MaxPool2d(3, 1, 1))),
    "maximum of a maximum": (IMAGE, lambda: nn.Sequential(nn.ReLU6(), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1))),
    "maximum of a line": (LINE, lambda: nn.MaxPool1d(3)),
    "maximum of single elements": (IMAGE, lambda: nn.MaxPool2d(1, 2)),
    "adaptive maximum": (IMAGE, lambda: nn.AdaptiveMaxPool2d((3, 1))),
    "flatten": (IMAGE, nn.Flatten),
    "flatten space": (IMAGE, lambda: nn.Flatten(2)),
    "flatten nothing": (FLAT, nn.Flatten),
    "a layer as the model": (FLAT, lambda: nn.Linear(6, 2)),
    "parametrised": (FLAT, lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)).double()),
    "double": (FLAT, lambda: nn.Sequential(nn.Linear(6, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    shape, make = LAYERS[name]
    torch.manual_seed(0)
    traced.check(traced.randomised(make()), traced.frames(2, *shape))


def half(x: Tensor) -> Tensor:
    return x * 0.5


def changed(x: Tensor, *changes: Callable[[Tensor], object]) -> Tensor:
    """x after changes in place, whose results are left alone."""
    for change in changes:
        change(x)
    return x


CALLS: dict[str, Callable[[Any, Tensor], Any]] = {
    "F.relu": lambda m, x: functional.relu(x),
    "torch.relu": lambda m, x: torch.relu(x),
    "x.relu": lambda m, x: x.relu(),
    "F.relu6": lambda m, x: functional.relu6(x),
    "F.hardtanh": lambda m, x: functional.hardtanh(x, 0.0, 1.0),
    "F.threshold": lambda m, x: functional.threshold(x, 0.0, 0.0),
    "x.clamp(min=0)": lambda m, x: x.clamp(min=0),
    "x.clamp(0, 1)": lambda m, x: x.clamp(0, 1),
    "torch.clamp": lambda m, x: torch.clamp(x, min=0.0, max=0.25),
    "torch.clip": lambda m, x: torch.clip(x, 0),
    "x.clamp_min": lambda m, x: x.clamp_min(0.0),
    "clamp to a tensor": lambda m, x: x.clamp(torch.zeros(()), torch.ones(())),
    "no end": lambda m, x: x.clamp(0.0, float("inf")),
    "+": lambda m, x: m.a(x) + m.b(x),
    "+=": lambda m, x: changed(m.a(x), lambda y: y.__iadd__(m.b(x))),
    "add_": lambda m, x: m.a(x).add_(m.b(x)),
    "torch.add": lambda m, x: torch.add(m.a(x), m.b(x), alpha=2),
    "torch.add by name": lambda m, x: torch.add(input=m.a(x), other=m.b(x)),
    "x + x": lambda m, x: (x + x).relu(),
    "-": lambda m, x: m.a(x) - m.b(x),
    "torch.sub": lambda m, x: torch.sub(m.a(x).relu(), m.b(x).relu(), alpha=0.5),
    "-x": lambda m, x: -m.a(x).relu(),
    "1 - x": lambda m, x: 1 - m.a(x).relu(),
    "x - 1": lambda m, x: (m.a(x) - 1).relu(),
    "x * 0.5": lambda m, x: (x * 0.5).relu(),
    "0.5 * x": lambda m, x: 0.5 * m.a(x),
    "x / 3": lambda m, x: m.a(x).relu() / 3,
    "by channels": lambda m, x: (x - m.mean) / m.deviation,
    "by channels into a layer": lambda m, x: m.plain((x - m.mean) / m.deviation),
    "by channels into a padded layer": lambda m, x: m.a((x - m.mean) / m.deviation),
    "a constant of the batch": lambda m, x: x + torch.full((x.shape[0], 1, 1, 1), 0.5),
    "sum of sums": lambda m, x: m.norm((m.a(x) + m.b(x)) + (x + 1)),
    "norm of a sum": lambda m, x: m.norm(m.a(x) + m.b(x)),
    "norm of a sum that is used twice": lambda m, x: (lambda y: m.norm(y) + y)(m.a(x) + m.b(x)),
    "norm of a branch that is used twice": lambda m, x: (lambda y: m.norm(y + m.b(x)) + y)(m.a(x)),
    "norm of a sum of one twice": lambda m, x: (lambda y: m.norm(y + y))(m.a(x)),
    "norm of a sum with the input": lambda m, x: m.norm(m.a(x) + x),
    "a layer twice": lambda m, x: m.a(m.a(x).relu()),
    "a norm twice": lambda m, x: m.norm(m.a(m.norm(m.a(x)).relu())),
    "relu in place": lambda m, x: changed(m.a(x), lambda y: functional.relu(y, inplace=True)),
    "relu in place, module": lambda m, x: changed(m.a(x), m.relu_in_place),
    "relu_": lambda m, x: changed(m.a(x), torch.relu_),
    "a sum in place, seen twice": lambda m, x: (lambda y: changed(y, lambda z: z.add_(m.b(x))) + y)(m.a(x)),
    "in place through an identity": lambda m, x: (lambda y: changed(m.drop(y), lambda z: z.relu_()) + y)(m.a(x)),
    "in place, seen through a view": lambda m, x: (lambda y: changed(y, lambda z: z.relu_()))(m.a(x)).flatten(1),
    "mul_": lambda m, x: m.a(x).mul_(2.0),
    "dead code": lambda m, x: changed(m.a(x), torch.sigmoid, lambda y: y.softmax(1)),
    "a decision by shape": lambda m, x: m.a(x) if x.size(1) == 3 and x.dim() == 4 and len(x) else m.b(x),
    "a decision by type": lambda m, x: m.a(x) if isinstance(x, Tensor) and x.is_floating_point() else x,
    "asserts": lambda m, x: torch._assert(x.shape[-1] == 8, "size") or m.a(x),
    "conv by function": lambda m, x: functional.conv2d(x, m.a.weight * 2, None, padding=1),
    "linear by function": lambda m, x: functional.linear(x, m.matrix, m.matrix[:, 0]),
    "norm by function": lambda m, x: functional.batch_norm(x, m.norm.running_mean, m.norm.running_var),
    "torch.batch_norm": lambda m, x: torch.batch_norm(
        x, m.norm.weight, m.norm.bias, m.norm.running_mean, m.norm.running_var, False, 0.1, 1e-5, False
    ),
    "dropout by function": lambda m, x: functional.dropout(x, 0.5, m.training),
    "F.max_pool2d": lambda m, x: functional.max_pool2d(x, 2),
    "torch.max_pool2d": lambda m, x: torch.max_pool2d(x, 3, stride=(1, 2)),
    "F.avg_pool2d": lambda m, x: functional.avg_pool2d(x, 3, stride=1, padding=1),
    "F.adaptive_avg_pool2d": lambda m, x: functional.adaptive_avg_pool2d(x, (1, 1)),
    "F.adaptive_max_pool2d": lambda m, x: functional.adaptive_max_pool2d(x, 1),
    "F.pad": lambda m, x: functional.pad(x, (1, 2)),
    "x.mean([2, 3])": lambda m, x: x.mean([2, 3]),
    "x.mean((-2, -1), keepdim=True)": lambda m, x: x.mean((-2, -1), keepdim=True),
    "x.mean(2)": lambda m, x: x.mean(2),
    "x.mean(3).mean(2)": lambda m, x: x.mean(3).mean(2),
    "torch.mean": lambda m, x: torch.mean(x, dim=(2, 3)),
    "x.sum((2, 3))": lambda m, x: x.sum((2, 3)),
    "x.view": lambda m, x: x.view(x.size(0), -1),
    "x.view(-1, n)": lambda m, x: x.view(-1, 3 * 9 * 8),
    "x.reshape(space)": lambda m, x: x.reshape(x.shape[0], 3, 72),
    "x.flatten": lambda m, x: x.flatten(start_dim=1, end_dim=2),
    "torch.flatten": lambda m, x: torch.flatten(x, 1),
    "squeeze": lambda m, x: functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
    "squeeze all": lambda m, x: functional.adaptive_avg_pool2d(x, 1).squeeze(),
    "permute that moves nothing": lambda m, x: m.a(x.permute(0, 1, 2, 3)),
    "transpose that moves nothing": lambda m, x: functional.adaptive_avg_pool2d(x, 1).transpose(2, 3),
    "cat": lambda m, x: torch.cat([m.a(x), x, m.b(x).relu()], 1),
    "cat into a layer": lambda m, x: m.six(torch.cat([m.a(x).relu(), x], dim=1)),
    "cat into groups": lambda m, x: m.grouped(torch.cat([m.a(x), x], 1)),
    "cat into groups that it cuts": lambda m, x: m.two(torch.cat([m.one(x), m.wide(x)], 1)),
    "cat into norm": lambda m, x: m.norm6(torch.cat([m.a(x), x], -3)).relu(),
    "cat into norm into a layer": lambda m, x: m.six(m.norm6(torch.cat([m.a(x), x], 1)).relu()),
    "cat into pools": lambda m, x: functional.max_pool2d(functional.avg_pool2d(torch.cat([m.a(x), x], 1), 2), 2),
    "cat into flatten into linear": lambda m, x: m.last(torch.cat([x.mean((2, 3)), m.a(x).mean((2, 3))], 1)),
    "cat of images into linear": lambda m, x: m.images(torch.cat([x, m.a(x)], 1).flatten(1)),
    "cat and sum": lambda m, x: torch.cat([m.a(x), x], 1) + torch.cat([x, m.b(x)], 1),
    "cat and sum with a whole": lambda m, x: m.six(torch.cat([m.a(x), x], 1) + m.to_six(x)),
    "cat of a cat": lambda m, x: torch.cat([torch.cat([x, m.a(x)], 1), m.b(x)], 1).relu(),
    "cat of one": lambda m, x: torch.cat([x], 1),
    "tuple": lambda m, x: (m.a(x), m.b(x).mean((2, 3))),
    "dict": lambda m, x: {"scores": m.a(x), "more": [m.b(x), x]},
    "the input": lambda m, x: x,
    "the same twice": lambda m, x: (lambda y: (y, y))(m.a(x)),
    "casts": lambda m, x: m.a(x.contiguous().clone()).detach().to(x.dtype),
    "half of half": lambda m, x: half(half(x)),
}


def calls_of(forward: Callable[[Any, Tensor], Any]) -> nn.Module:
    torch.manual_seed(3)
    model = Does(
        forward,
        a=nn.Conv2d(3, 3, 3, padding=1),
        b=nn.Conv2d(3, 3, 1, bias=False),
        plain=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(3),
        norm6=nn.BatchNorm2d(6),
        six=nn.Conv2d(6, 2, 3, padding=1),
        to_six=nn.Conv2d(3, 6, 1),
        grouped=nn.Conv2d(6, 4, 3, groups=2),
        one=nn.Conv2d(3, 1, 1),
        wide=nn.Conv2d(3, 3, 1),
        two=nn.Conv2d(4, 4, 3, groups=2),
        last=nn.Linear(6, 3),
        images=nn.Linear(6 * 72, 3),
        relu_in_place=nn.ReLU(inplace=True),
        drop=nn.Dropout(),
    )
    model.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]).reshape(1, 3, 1, 1))
    model.register_buffer("deviation", torch.tensor([0.5, 2.0, 1.5]).reshape(3, 1, 1))
    model.register_buffer("matrix", torch.randn(4, 8))
    return traced.randomised(model)


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    graph = traced.check(calls_of(CALLS[name]), traced.frames(2, *IMAGE))
    assert not {"Gain", "Resample"} & set(traced.kinds(graph))
