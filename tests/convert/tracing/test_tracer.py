"""What the tracer makes of torch models, against the models themselves, in float64."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision_models
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision_models import with_statistics

from neurocuda import Graph
from neurocuda.convert.relu_network import evaluate, rectifiers
from neurocuda.convert.tracing.tracer import trace
from neurocuda.errors import ArgumentError
from neurocuda.graph.primitives import PRIMITIVES

EXACT = 1e-9
"""Relative to the largest output: float64 sums in another order, through at most 121 layers."""


def signal(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers, of both signs, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensors(result: Any) -> list[Tensor]:
    """All tensors of a result, in order."""
    if isinstance(result, Tensor):
        return [result]
    values = result.values() if isinstance(result, dict) else result
    return [tensor for value in values for tensor in tensors(value)]


def check(model: nn.Module, x: Tensor) -> Graph:
    """Trace a model, compare what the graph computes with what the model does, and that the model is as before."""
    model = with_statistics(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    graph = trace(model, x[:1])
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())
    assert [module.training for module in model.modules()] == modes
    twin = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        found, _ = evaluate(graph, x.double(), dtype=torch.float64)
        expected = tensors(twin(x.double().clone()))
    for y, wanted in zip(tensors(found), expected, strict=True):
        assert y.shape == wanted.shape
        assert float((y - wanted).abs().max()) <= EXACT * float(wanted.abs().max())
        assert float(wanted.abs().max()) > 0
    assert {node.type for node in graph.nodes.values()} <= {*PRIMITIVES, "ReLU"}
    return graph


class Functional(nn.Module):
    """A model whose forward is a function of the module itself and x, with some layers to use."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.weight = nn.Parameter(signal(3, 1, 1).float())
        self.register_buffer("center", signal(1, 3, 1, 1, seed=1).float())

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def seeded(make: Any) -> nn.Module:
    torch.manual_seed(7)
    model = make()
    assert isinstance(model, nn.Module)
    return model


def in_place(m: Any, x: Tensor) -> Tensor:
    """Both names of a tensor see what happens to it."""
    y = m.conv(x)
    z = m.drop(y)
    y += m.other(x)
    F.relu_(z)
    return y.add_(m.conv(x)) + z


def normalised(m: Any, x: Tensor) -> Tensor:
    return torch.relu(m.conv((x - m.center) / 0.5 * m.weight + 0.25))


def unpacked(m: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    y: Tensor = m.fc(F.relu(x).reshape(b, c * h * w))
    return y


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


def conv(i: int, o: int, k: int = 3, **how: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **{"padding": k // 2, **how})


IMAGE = (2, 3, 9, 11)
MODELS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    # name: (model, shape of x, number of ReLU nodes)
    "a layer alone": (lambda: nn.Linear(5, 4), (3, 5), 0),
    "a rectifier alone": (nn.ReLU, (3, 5), 1),
    "mlp": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(297, 8), nn.ReLU(), nn.Linear(8, 3)), IMAGE, 1),
    "rows of features": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)), (2, 3, 5), 1),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, 2, 1), nn.BatchNorm1d(4), nn.ReLU()), (2, 3, 12), 1),
    "grouped, dilated": (lambda: conv(4, 6, stride=2, dilation=2, groups=2), (2, 4, 9, 9), 0),
    "padding same": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU()), IMAGE, 1),
    "padding same, even": (lambda: nn.Conv2d(3, 4, (2, 4), padding="same"), IMAGE, 0),
    "bn before a padded conv": (lambda: nn.Sequential(nn.BatchNorm2d(3), conv(3, 4), nn.ReLU()), IMAGE, 1),
    "bn twice": (lambda: nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)), IMAGE, 0),
    "bn after relu": (lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 2)), (4, 5), 1),
    "bn at the end": (lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.BatchNorm1d(6)), (4, 5), 1),
    "rectifiers": (
        lambda: Functional(
            lambda m, x: F.relu(x) - torch.relu(x - 1) * 0.5 + x.relu() + x.clamp(min=0) + F.relu6(5 * x)
        ),
        IMAGE,
        5,
    ),
    "capped": (
        lambda: Functional(
            lambda m, x: m.a(9 * x) + F.hardtanh(x, 0, 0.5) + torch.clamp(x, 0, 0.25) + x.clip(0, 1) + m.b(x),
            a=nn.ReLU6(),
            b=nn.Hardtanh(0.0, 2.0),
        ),
        IMAGE,
        5,
    ),
    "sums": (
        lambda: Functional(
            lambda m, x: torch.add(m.a(x), m.b(x), alpha=-2) - x + (1 - x) + (-x) + 2.5 + torch.sub(x, m.a(x), alpha=3),
            a=conv(3, 3),
            b=conv(3, 3),
        ),
        IMAGE,
        0,
    ),
    "a signal and itself": (lambda: Functional(lambda m, x: F.relu(x + x) + x), IMAGE, 1),
    "bn through a sum": (
        lambda: Functional(lambda m, x: F.relu(m.n(m.a(x) + m.b(x))), a=conv(3, 4), b=conv(3, 4), n=nn.BatchNorm2d(4)),
        IMAGE,
        1,
    ),
    "bn of a sum that is used again": (
        lambda: Functional(
            lambda m, x: F.relu(m.n(y := m.a(x) + m.b(x))) + y, a=conv(3, 4), b=conv(3, 4), n=nn.BatchNorm2d(4)
        ),
        IMAGE,
        1,
    ),
    "constants": (lambda: Functional(normalised, conv=conv(3, 4)), IMAGE, 1),
    "a constant for each place": (
        lambda: Functional(lambda m, x: F.relu(x + m.weight * torch.ones(3, 9, 11)) * m.weight),
        IMAGE,
        1,
    ),
    "in place": (lambda: Functional(in_place, conv=conv(3, 4), other=conv(3, 4), drop=nn.Dropout()), IMAGE, 1),
    "shared": (
        lambda: Functional(lambda m, x: m.fc(m.relu(m.fc(m.relu(m.fc(x))))), fc=nn.Linear(5, 5), relu=nn.ReLU()),
        (2, 5),
        2,
    ),
    "views": (
        lambda: Functional(lambda m, x: m.fc(F.relu(m.c(x)).view(x.size(0), -1)), c=conv(3, 2), fc=nn.Linear(198, 4)),
        IMAGE,
        1,
    ),
    "reshape and back": (
        lambda: Functional(lambda m, x: m.c(F.relu(x.reshape(x.shape[0], 3, -1)).view(-1, 3, 9, 11)), c=conv(3, 2)),
        IMAGE,
        1,
    ),
    "an unpacked shape": (lambda: Functional(unpacked, fc=nn.Linear(297, 4)), IMAGE, 1),
    "squeezed": (
        lambda: Functional(lambda m, x: m.fc(x.mean((2, 3), keepdim=True).squeeze()), fc=nn.Linear(3, 2)),
        IMAGE,
        0,
    ),
    "mean": (lambda: Functional(lambda m, x: m.fc(F.relu(x).mean([-2, -1])), fc=nn.Linear(3, 2)), IMAGE, 1),
    "mean and sum of rows": (lambda: Functional(lambda m, x: x.mean(3).sum(2) + x.sum((2, 3))), IMAGE, 0),
    "mean over time": (lambda: Functional(lambda m, x: m.c(x).mean(-1), c=nn.Conv1d(3, 4, 3)), (2, 3, 9), 0),
    "cat": (
        lambda: Functional(
            lambda m, x: m.b(F.relu(torch.cat([m.a(x), x, m.a(x)], 1))), a=conv(3, 4), b=conv(11, 5, stride=2)
        ),
        IMAGE,
        3,
    ),
    "cat, bn, pool, flatten": (
        lambda: Functional(
            lambda m, x: m.fc(F.avg_pool2d(m.n(torch.cat((m.a(x), x), dim=-3)), 2).flatten(1)),
            a=conv(3, 4),
            n=nn.BatchNorm2d(7),
            fc=nn.Linear(140, 3),
        ),
        IMAGE,
        0,
    ),
    "cat into groups": (
        lambda: Functional(
            lambda m, x: m.g(torch.cat([m.a(x), m.b(x)], 1)), a=conv(3, 4), b=conv(3, 2), g=conv(6, 6, groups=3)
        ),
        IMAGE,
        0,
    ),
    "cat across groups": (
        lambda: Functional(
            lambda m, x: m.g(torch.cat([m.a(x), x], 1)), a=conv(3, 3), g=conv(6, 4, groups=2, bias=False)
        ),
        IMAGE,
        0,
    ),
    "cat and something whole": (
        lambda: Functional(lambda m, x: torch.cat([x, F.relu(x)], 1) + m.a(x), a=conv(3, 6)),
        IMAGE,
        1,
    ),
    "cat of features": (
        lambda: Functional(lambda m, x: m.fc(torch.cat([x, m.a(x).relu()], -1)), a=nn.Linear(5, 4), fc=nn.Linear(9, 3)),
        (2, 5),
        1,
    ),
    "cat returned": (lambda: Functional(lambda m, x: torch.cat([x, m.a(x)], 1), a=conv(3, 2)), IMAGE, 0),
    "average pools": (
        lambda: nn.Sequential(
            nn.AvgPool2d(3, 2, 1),
            nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            nn.AvgPool2d((2, 1), divisor_override=5),
        ),
        IMAGE,
        0,
    ),
    "average pools, ceil": (
        lambda: nn.Sequential(
            nn.AvgPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 2, 1, ceil_mode=True, count_include_pad=False)
        ),
        (2, 3, 12, 14),
        0,
    ),
    "average pools, ceil and padding": (lambda: nn.AvgPool2d(3, 3, 1, ceil_mode=True), (2, 3, 12, 15), 0),
    "average pools of one axis": (
        lambda: nn.Sequential(nn.AvgPool1d(3, 2, 1, count_include_pad=False), nn.AvgPool1d(2, ceil_mode=True)),
        (2, 3, 13),
        0,
    ),
    "adaptive, even": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d((3, None)), nn.AdaptiveAvgPool2d(1)), IMAGE, 0),
    "adaptive, uneven": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d((4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)),
        IMAGE,
        1,
    ),
    "adaptive, larger": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten()), (2, 3, 2, 1), 0),
    "adaptive, one axis": (lambda: nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.AdaptiveMaxPool1d(2)), (2, 3, 12), 1),
    "maximum of two": (lambda: nn.MaxPool2d(2), IMAGE, 2),
    "maximum of three": (lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)), IMAGE, 5),
    "maxima, dilated": (lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d((2, 3), 1, (1, 1), (3, 2))), IMAGE, 4),
    "maxima, ceil": (lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)), (2, 3, 8, 10), 5),
    "maxima, both": (lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(4, 3, (2, 1), ceil_mode=True)), (2, 3, 8, 10), 7),
    "maxima of maxima": (
        lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2, 1, 1), nn.MaxPool2d(2, padding=1)),
        IMAGE,
        5,
    ),
    "maxima, functional": (
        lambda: Functional(lambda m, x: F.max_pool2d(x, 2, 1) + torch.max_pool2d(x, (2, 2), stride=1)),
        IMAGE,
        4,
    ),
    "maxima, one axis": (lambda: nn.Sequential(nn.MaxPool1d(5), nn.AdaptiveMaxPool1d(1)), (2, 3, 15), 6),
    "adaptive maxima": (lambda: nn.AdaptiveMaxPool2d((3, 1)), (2, 2, 6, 5), 5),
    "maximum of two signals": (lambda: Functional(lambda m, x: torch.maximum(x, m.a(x)), a=conv(3, 3)), IMAGE, 1),
    "removed": (
        lambda: nn.Sequential(
            nn.Identity(), nn.Dropout(), nn.Dropout2d(), conv(3, 2), nn.Identity(), nn.AlphaDropout()
        ),
        IMAGE,
        0,
    ),
    "dropout by function": (
        lambda: Functional(lambda m, x: F.dropout(x, 0.5, m.training).contiguous().clone()),
        IMAGE,
        0,
    ),
    "what is not used": (lambda: Functional(lambda m, x: (m.a(x), m.b(x))[0], a=conv(3, 2), b=conv(3, 2)), IMAGE, 0),
    "a tuple": (lambda: Functional(lambda m, x: (m.a(x), [F.relu(x), x]), a=conv(3, 2)), IMAGE, 1),
    "a named tuple": (lambda: Functional(lambda m, x: Pair(m.a(x), F.relu(x)), a=conv(3, 2)), IMAGE, 1),
    "a dict": (lambda: Functional(lambda m, x: {"scores": m.a(x), "x": x}, a=conv(3, 2)), IMAGE, 0),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), IMAGE, 0),
    "names like ours": (
        lambda: nn.Sequential(OrderedDict(input=conv(3, 3), output=nn.ReLU(), add=conv(3, 2))),
        IMAGE,
        1,
    ),
    "half precision": (lambda: nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU()).bfloat16(), IMAGE, 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_computes_what_the_model_does(name: str) -> None:
    make, shape, count = MODELS[name]
    graph = check(seeded(make), signal(*shape))
    assert len(rectifiers(graph)) == count


VISION = {"resnet18": 64, "resnet34": 32, "resnet50": 32, "vgg11": 32, "vgg11_bn": 64, "mobilenet_v2": 64} | {
    "densenet121": 32,
    "squeezenet1_0": 65,
}


@pytest.mark.parametrize("name", VISION)
def test_models_of_torchvision(name: str) -> None:
    size = VISION[name]
    model = torchvision_models.model(name, num_classes=10)
    if name.startswith("vgg"):  # its two matrices of 4096 rows are most of the time
        model.classifier[3] = nn.Identity()
        model.classifier[0] = nn.Linear(25088, 64)
        model.classifier[6] = nn.Linear(64, 10)
    graph = check(model, signal(2, 3, size, size))
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    layers = {name.partition("#")[0] for name in graph.nodes}
    assert all(name in layers or f"{name}.0" in layers for name in convolutions)
    assert not any("downsample.1" in name or ".bn" in name for name in graph.nodes)


def test_in_float32_a_resnet_differs_by_rounding_alone() -> None:
    model = torchvision_models.model("resnet18").eval()
    x = signal(2, 3, 32, 32).float()
    graph = trace(model, x)
    with torch.no_grad():
        found, expected = evaluate(graph, x)[0], model(x)
    # Folding rounds each weight once more, and sums run in another order: some 2^-23 in each of 21 layers.
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert not torch.equal(found, torch.zeros_like(found))


def test_the_nodes_of_a_residual_block() -> None:
    model = torchvision_models.model("resnet18")
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    block = [name for name in graph.nodes if name.startswith("layer2.0.")]
    names = "conv1 conv2 downsample.0 relu relu#2"
    assert block == [f"layer2.0.{name}" for name in names.split()]
    into = sorted(a for a, b in graph.edges if b == "layer2.0.relu#2")
    assert into == ["layer2.0.conv2", "layer2.0.downsample.0"]
    assert {graph.nodes[name].type for name in block} == {"Conv2d", "ReLU"}
    shapes = [graph.nodes["layer2.0.conv1"].input_shape, graph.nodes["layer2.0.conv1"].output_shape]
    assert shapes == [(64, 8, 8), (128, 4, 4)]


def test_what_is_recorded() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU6()))
    graph = trace(model, torch.zeros(1, 5))
    x = signal(3, 5)
    y, activations = evaluate(graph, x, record=rectifiers(graph), dtype=torch.float64)
    model = model.double()
    assert rectifiers(graph) == ("1", "3")
    torch.testing.assert_close(activations["1"], model[:2](x), rtol=1e-12, atol=0)
    torch.testing.assert_close(activations["3"], y, rtol=0, atol=0)
    assert graph.nodes["3"].array("cap") == 6
    with pytest.raises(ArgumentError, match="record: expected names of nodes, found 'nobody'"):
        evaluate(graph, x, record=["nobody"])
    with pytest.raises(ArgumentError, match=r"x: expected samples \[B, 5\], found shape \(3, 4\)"):
        evaluate(graph, x[:, :4])


def test_names_of_several_outputs() -> None:
    model = Functional(lambda m, x: {"a": x, "b": (x + 1, [x])})
    graph = trace(model, torch.zeros(1, 3))
    assert graph.outputs == ("output.a", "output.b.0", "output.b.1.0")


def test_a_trace_is_the_same_twice() -> None:
    model = seeded(lambda: nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3)))
    one, other = (trace(model, torch.zeros(n, 3, 9, 9)) for n in (1, 5))
    assert one.edges == other.edges
    assert str(one) == str(other)
    for name, node in one.nodes.items():
        for field, value in node.parameters.items():
            assert np.array_equal(value, other.nodes[name].parameters[field])


class Asking(nn.Module):
    """Takes a tensor another way than a list of tensors, as many backbones do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor):
            x = torch.cat(x)
        return torch.relu(self.conv(x))


def test_a_model_that_asks_for_a_tensor_is_given_one() -> None:
    model, x = Asking().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    outputs, _ = evaluate(trace(model, x), x, dtype=torch.float64)
    torch.testing.assert_close(outputs, model(x), rtol=1e-12, atol=1e-12)
