"""Random small networks: the graph that the tracer makes computes what the network does, in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision_models import with_statistics

from neurocuda.convert.relu_network import evaluate
from neurocuda.convert.tracing.tracer import trace

KINDS = (
    "conv grouped pointwise bn bn relu relu relu relu_ relu6 add add iadd sub scale shift cat cat "
    "average maximum dropout identity scale_ norelu_maximum"
).split()
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One call: what it does, to which of the signals before it, and what else it depends on."""

    kind: str
    sources: tuple[int, ...]
    numbers: tuple[int, ...]


class Drawn(nn.Module):
    """Takes the steps, each of which gives one signal more; returns features of some of them."""

    def __init__(
        self, steps: tuple[Step, ...], layers: list[nn.Module], results: tuple[int, ...], head: nn.Module
    ) -> None:
        super().__init__()
        self.steps, self.results = steps, results
        self.layers = nn.ModuleList(layers)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        signals = [x]
        for step, layer in zip(self.steps, self.layers, strict=True):
            signals.append(apply(step, layer, [signals[source] for source in step.sources]))
        features = [signals[number].flatten(1) for number in self.results]
        scores: Tensor = self.head(torch.cat(features, 1))
        return scores


def apply(step: Step, layer: nn.Module, x: list[Tensor]) -> Tensor:
    first = x[0]
    factor = (step.numbers[0] - 2.5) / 2
    by_kind: dict[str, Any] = {
        "relu": lambda: F.relu(first),
        "relu_": lambda: F.relu_(first),
        "relu6": lambda: F.relu6(4 * first),
        "add": lambda: x[0] + x[1],
        "sub": lambda: torch.sub(x[0], x[1], alpha=factor),
        "iadd": lambda: x[0].add_(x[1]),
        "scale": lambda: first * factor,
        "scale_": lambda: first.mul_(factor),
        "shift": lambda: first + factor,
        "cat": lambda: torch.cat(x, 1),
    }
    return by_kind[step.kind]() if step.kind in by_kind else layer(first)


def layer_of(step: Step, shape: Shape) -> nn.Module:
    """The layer of a step on a signal of `shape`."""
    channels = shape[0]
    a, b, c = step.numbers
    small = min(shape[1:])
    size = min(1 + b % 3, small)
    pad = min(c % 2, size // 2)
    if step.kind == "conv":
        return nn.Conv2d(channels, 1 + a, size, 1 + c % 2, padding=b % 2, bias=c > 2)
    if step.kind == "grouped":
        return nn.Conv2d(channels, channels * (1 + a % 2), size, padding=size // 2, groups=channels, bias=b > 2)
    if step.kind == "pointwise":
        return nn.Conv2d(channels, 1 + a, 1)
    if step.kind == "bn":
        return nn.BatchNorm2d(channels, affine=a > 1)
    if step.kind == "average":
        return nn.AvgPool2d(size, 1 + a % 3, pad, ceil_mode=a > 2, count_include_pad=c > 2)
    if step.kind == "maximum":
        return nn.Sequential(nn.ReLU(), nn.MaxPool2d(size, 1 + a % 3, pad, ceil_mode=a > 2))
    if step.kind == "norelu_maximum":
        return nn.MaxPool2d(size, 1 + a % 2)
    return nn.Dropout() if step.kind == "dropout" else nn.Identity()


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(3, 7), st.integers(3, 7)))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    x = torch.randn(2, *shape)
    signals = [x.clone()]
    steps, layers = [], []
    for _ in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(KINDS))
        first = draw(st.integers(0, len(signals) - 1))
        own = signals[first].shape
        fitting = [n for n, y in enumerate(signals) if (y.shape == own or (kind == "cat" and y.shape[2:] == own[2:]))]
        sources = (first, draw(st.sampled_from(fitting)))
        step = Step(kind, sources, draw(st.tuples(*(st.integers(0, 4),) * 3)))
        layer = with_statistics(layer_of(step, tuple(own[1:])))
        with torch.no_grad():
            signals.append(apply(step, layer.eval(), [signals[source].clone() for source in sources]))
        steps.append(step)
        layers.append(layer.train())
    results = tuple(draw(st.lists(st.integers(0, len(signals) - 1), min_size=1, max_size=3)))
    results = (*results, len(signals) - 1)
    head = nn.Linear(sum(signals[number][0].numel() for number in results), 3)
    return Drawn(tuple(steps), layers, results, head), x


@given(networks())
def test_a_random_network_and_its_graph(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    graph = trace(model, x)
    twin = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        expected = twin(x.double())
        found = evaluate(graph, x.double(), dtype=torch.float64)[0]
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= 1e-9 * scale, f"{graph}"
