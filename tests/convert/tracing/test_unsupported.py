"""Models that have no meaning as spiking networks, or that the tracer cannot follow: each is refused by name."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurocuda import UnsupportedModuleError
from neurocuda import nn as spiking
from neurocuda.convert.tracing.tracer import trace
from neurocuda.errors import ArgumentError


class By(nn.Module):
    """A model by a function of x, with a layer of 4 features."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.function = forward
        self.fc = nn.Linear(4, 4)
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Block(nn.Module):
    """A module in a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Identity(), inner)

    def forward(self, x: Tensor) -> Any:
        return self.body(x)


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def loops(m: Any, x: Tensor) -> Tensor:
    while x.sum() > 1:
        x = x / 2
    return x


def branches(m: Any, x: Tensor) -> Tensor:
    return m.fc(x) if x.mean() > 0 else x


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, y: y * 2)
    return model


def views(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    flat = y.flatten(1)
    F.relu_(y)
    return flat


def unhinged() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_forward_pre_hook(lambda module, args: None)
    return model


FEATURES, IMAGE, SERIES = (2, 4), (2, 3, 8, 8), (2, 3, 9)
CASES: dict[str, tuple[Any, tuple[int, ...], str]] = {
    # name: (model, shape of the example, what the message says)
    "GELU": (lambda: Block(nn.GELU()), FEATURES, "module 'body.1', GELU: it has no meaning.*instead: nn.ReLU"),
    "SiLU": (lambda: Block(nn.SiLU()), FEATURES, "module 'body.1', SiLU: .*nn.ReLU"),
    "leaky": (lambda: Block(nn.LeakyReLU()), FEATURES, "module 'body.1', LeakyReLU: .*nn.ReLU"),
    "Sigmoid": (lambda: Block(nn.Sigmoid()), FEATURES, "module 'body.1', Sigmoid: .*after the last layer nothing"),
    "Tanh": (lambda: Block(nn.Tanh()), FEATURES, "module 'body.1', Tanh: .*nn.ReLU"),
    "a function": (lambda: Block(By(lambda m, x: F.gelu(m.fc(x)))), FEATURES, "module 'body.1', gelu: .*nn.ReLU"),
    "a method": (lambda: By(lambda m, x: x.tanh()), FEATURES, "the model, tanh: .*nn.ReLU"),
    "softmax inside": (lambda: nn.Sequential(nn.Softmax(1), nn.Linear(4, 2)), FEATURES, "module '0', Softmax: "),
    "softmax at the end": (
        lambda: nn.Sequential(nn.Linear(4, 2), nn.Softmax(1)),
        FEATURES,
        "'1', Softmax: .*remove it",
    ),
    "log_softmax": (lambda: By(lambda m, x: F.log_softmax(m.fc(x), 1)), FEATURES, "log_softmax: .*remove it"),
    "attention": (
        lambda: By(lambda m, x: F.scaled_dot_product_attention(x, x, x)),
        SERIES,
        "scaled_dot_product_attention: .*constant",
    ),
    "a transformer": (lambda: Block(nn.TransformerEncoderLayer(8, 2)), (2, 3, 8), "'body.1', TransformerEncoderLayer"),
    "LSTM": (lambda: Block(nn.LSTM(9, 2)), SERIES, "module 'body.1', LSTM: .*neurons of neurocuda.nn"),
    "LayerNorm": (lambda: Block(nn.LayerNorm(4)), FEATURES, "module 'body.1', LayerNorm: .*BatchNorm"),
    "a branch on data": (
        lambda: Block(By(branches)),
        FEATURES,
        "'body.1', By: torch.fx cannot follow it.*control flow",
    ),
    "a loop on data": (lambda: By(loops), FEATURES, "the model, By: torch.fx cannot follow it"),
    "a number of data": (
        lambda: By(lambda m, x: x * float(x.max())),
        FEATURES,
        "the model, By: torch.fx cannot follow",
    ),
    "a layer made in forward": (lambda: By(lambda m, x: nn.ReLU()(x)), FEATURES, "layers that are attributes"),
    "a product": (lambda: By(lambda m, x: x * m.fc(x)), FEATURES, "the model, mul: it multiplies two signals"),
    "a quotient": (lambda: By(lambda m, x: 1 / x), FEATURES, "truediv: it divides by a signal"),
    "a matrix product": (lambda: By(lambda m, x: x @ m.fc.weight), FEATURES, "matmul: "),
    "statistics of the batch": (
        lambda: Block(nn.BatchNorm2d(3, track_running_stats=False)),
        IMAGE,
        "'body.1', BatchNorm2d: .*track_running_stats",
    ),
    "always training": (
        lambda: By(lambda m, x: F.batch_norm(x, None, None, training=True)),
        IMAGE,
        "batch_norm: its stat",
    ),
    "always dropout": (lambda: By(lambda m, x: F.dropout(x)), FEATURES, "dropout: it is random even in eval mode"),
    "clamped elsewhere": (lambda: By(lambda m, x: x.clamp(-1, 1)), FEATURES, "clamp: it clamps at -1 from below"),
    "clamped from above": (lambda: By(lambda m, x: x.clamp(max=1)), FEATURES, "clamp: it clamps at None from below"),
    "clamped by nothing": (lambda: By(lambda m, x: x.clamp(0, -1)), FEATURES, "clamp: it clamps between 0 and -1"),
    "reflections": (
        lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        IMAGE,
        "'0', Conv2d: it pads with 'ref",
    ),
    "a transposed convolution": (lambda: Block(nn.ConvTranspose2d(3, 3, 3)), IMAGE, "'body.1', ConvTranspose2d: "),
    "three axes": (lambda: Block(nn.Conv3d(3, 3, 3)), (2, 3, 8, 8, 8), "module 'body.1', Conv3d: "),
    "indices": (lambda: Block(nn.MaxPool2d(2, return_indices=True)), IMAGE, "'body.1', MaxPool2d: it returns indices"),
    "a padded maximum": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.MaxPool2d(3, 2, 1)),
        IMAGE,
        "'1', MaxPool2d: .*put a ReLU before it",
    ),
    "uneven maxima": (lambda: Block(nn.AdaptiveMaxPool2d(3)), IMAGE, "'body.1', AdaptiveMaxPool2d: its windows"),
    "uneven means of a convolution": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(3, 3, 3)),
        IMAGE,
        "module '1', Conv2d: it takes axes",
    ),
    "mean of channels": (lambda: By(lambda m, x: x.mean(1)), IMAGE, "mean: it takes the mean over axes"),
    "mean of the batch": (lambda: By(lambda m, x: x.mean()), IMAGE, "mean: it takes the mean over axes"),
    "cat of rows": (lambda: By(lambda m, x: torch.cat([x, x], 2)), IMAGE, "cat: it concatenates along axis 2"),
    "cat of batches": (lambda: By(lambda m, x: torch.cat([x, x])), IMAGE, "cat: it concatenates along axis 0"),
    "a part": (lambda: By(lambda m, x: x[:, :2]), IMAGE, "getitem: it takes out a part of a signal"),
    "transposed": (lambda: By(lambda m, x: x.transpose(2, 3)), IMAGE, "transpose: .*the axes"),
    "no batch any more": (lambda: By(lambda m, x: x.flatten()), IMAGE, "flatten: it merges the batch"),
    "a batch of its own": (lambda: By(lambda m, x: x.view(2, -1)), IMAGE, "view: it merges the batch"),
    "no number of samples": (lambda: By(lambda m, x: x.view(7, -1)), IMAGE, "view: the shape .* does not fit a batch"),
    "a shape in a loop": (lambda: By(lambda m, x: x.view(*x.shape)), IMAGE, "the model, By: torch.fx cannot follow it"),
    "bits": (lambda: By(lambda m, x: x.view(torch.int32)), IMAGE, "view: it reads the bits"),
    "rounded": (lambda: By(lambda m, x: x.to(torch.float16)), IMAGE, "to: it rounds a signal"),
    "broadcast": (lambda: By(lambda m, x: x + x.mean((2, 3), keepdim=True)), IMAGE, "add: it adds signals of shapes"),
    "enlarged": (lambda: By(lambda m, x: x + torch.ones(5, 1, 3, 8, 8)), IMAGE, "add: a constant of shape .* enlarges"),
    "one constant a sample": (lambda: By(lambda m, x: x * torch.ones(7919, 1)), FEATURES, "mul: a constant differs"),
    "a view that is changed": (lambda: By(views), IMAGE, "relu_: it changes in place a tensor of which a view"),
    "a hook": (hooked, FEATURES, "module '0', Linear: it has a hook"),
    "a hook of the model": (unhinged, FEATURES, "the model, Sequential: it has a hook"),
    "compiled": (lambda: torch.compile(nn.Linear(4, 4)), FEATURES, "the model, OptimizedModule: it wraps a model"),
    "parallel": (lambda: nn.DataParallel(nn.Linear(4, 4)), FEATURES, "the model, DataParallel: it wraps a model"),
    "nothing of the input": (lambda: By(lambda m, x: m.fc.weight), FEATURES, "the result 'output': it is a Parameter"),
    "neurons in a PerStep": (
        lambda: spiking.PerStep(spiking.LIF(1e-3)),
        (5, 2, 4),
        "'0', LIF: it takes a signal over time.*outside of PerStep",
    ),
    "frames over time": (
        lambda: nn.Sequential(nn.Conv1d(3, 3, 3), spiking.LIF(1e-3)),
        (5, 2, 3, 9),
        "'0', Conv1d: .*wrap it in .*PerStep",
    ),
    "state by hand": (
        lambda: nn.Sequential(Block(By(lambda m, x: x)), spiking.LIF(1e-3), StateOf()),
        (5, 2, 4),
        "'2.lif', LIF: its state",
    ),
    "mean over time": (
        lambda: nn.Sequential(spiking.LIF(1e-3), By(lambda m, x: x.mean(0))),
        (5, 2, 4),
        "module '1', mean: it takes the mean",
    ),
}


class StateOf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lif = spiking.LIF(1e-3)

    def forward(self, x: Tensor) -> Any:
        return self.lif(x, return_state=True)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*nested tensor")
def test_what_is_refused(name: str) -> None:
    make, shape, message = CASES[name]
    with pytest.raises(UnsupportedModuleError, match=message) as caught:
        trace(make(), torch.zeros(shape))
    assert re.search("; instead: .+", str(caught.value))


ARGUMENTS: dict[str, tuple[Any, Any, str]] = {
    "no module": (lambda: F.relu, torch.zeros(2, 4), "model: expected a torch.nn.Module, found a function"),
    "no example": (lambda: nn.ReLU(), None, r"example: expected a tensor \[B, \*shape\], found a NoneType"),
    "a sample without batch": (lambda: nn.ReLU(), torch.zeros(4), r"found shape \(4,\)"),
    "no time": (
        lambda: spiking.LIF(1e-3),
        torch.zeros(2, 4),
        r"expected a tensor \[T, B, \*shape\], found shape \(2, 4\)",
    ),
    "no features": (lambda: nn.ReLU(), torch.zeros(2, 0), r"at least one element a sample, found \(0,\)"),
    "two inputs": (Two, torch.zeros(2, 4), "forward that takes one tensor, found the argument 'y' too"),
    "features that do not fit": (lambda: Block(nn.Linear(5, 2)), torch.zeros(2, 4), "module 'body.1', Linear fails: "),
    "channels that do not fit": (
        lambda: Block(nn.Conv2d(4, 2, 3)),
        torch.zeros(IMAGE),
        "module 'body.1', Conv2d fails: ",
    ),
    "statistics that do not fit": (lambda: nn.BatchNorm2d(4), torch.zeros(IMAGE), "module '0', BatchNorm2d fails: "),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_do_not_fit(name: str) -> None:
    make, example, message = ARGUMENTS[name]
    with pytest.raises(ArgumentError, match=message):
        trace(make(), example)


def test_an_empty_batch_says_all_that_is_needed() -> None:
    graph = trace(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), torch.zeros(0, 4))
    assert graph.nodes["0"].output_shape == (2,)


def test_what_tracing_does_to_a_model_it_refuses() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.GELU()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UnsupportedModuleError):
        trace(model, torch.ones(3, 4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
