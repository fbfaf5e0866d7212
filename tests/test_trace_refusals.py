"""Models that have no meaning as a spiking network, and odd ones: each works, or fails by name and with advice."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import traced
from test_trace import IMAGE, Does, conv
from torch import Tensor, nn
from torch.nn import functional

from neurocuda import ArgumentError, NeuroCUDAError, UnsupportedModuleError
from neurocuda.convert.trace import trace

_RATE = "an activation that a firing rate can follow"
_NORM = "normalisation by running statistics"
_FLAT = (6,)


def inside(forward: Callable[[Any, Tensor], Any]) -> nn.Module:
    """A model whose module 'block' does this."""
    return Does(lambda m, x: m.block(x), block=Does(forward, a=nn.Linear(6, 6)))


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(9, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean(3)
        z, _ = self.attention(y, y, y)
        result: Tensor = z
        return result


def doubles(m: nn.Module, x: Tensor) -> Tensor:
    while x.abs().max() < 10:
        x = x * 2
    return x


def assigns(m: nn.Module, x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


def through_a_view(m: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    y.view(-1, 9 * 8).relu_()
    return y


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4))
    model[0].register_forward_hook(lambda module, args, result: result * 2)
    return model


Case = tuple[tuple[int, ...], Callable[[], nn.Module], str, str, str]


def block(shape: tuple[int, ...], forward: Callable[[Any, Tensor], Any], expected: str, found: str) -> Case:
    """The case of a model whose module 'block' does what cannot be."""
    return shape, lambda: inside(forward), "block", expected, found


# Shape of a sample, the model, the path that the error must name, a part of what it expects, a part of what it found.
REFUSED: dict[str, Case] = {
    "GELU": (_FLAT, lambda: nn.Sequential(nn.Linear(6, 4), nn.GELU()), "1", _RATE, "GELU"),
    "F.gelu": block(_FLAT, lambda m, x: functional.gelu(x), _RATE, "gelu()"),
    "SiLU": (_FLAT, lambda: nn.Sequential(nn.Sequential(nn.SiLU())), "0.0", _RATE, "SiLU"),
    "Sigmoid": (_FLAT, lambda: nn.Sequential(nn.Sigmoid(), nn.Linear(6, 4)), "0", _RATE, "Sigmoid"),
    "tanh": block(_FLAT, lambda m, x: x.tanh(), _RATE, "tanh()"),
    "LeakyReLU": (_FLAT, lambda: nn.Sequential(nn.LeakyReLU()), "0", _RATE, "LeakyReLU"),
    "softmax at the end": (_FLAT, lambda: nn.Sequential(nn.Linear(6, 4), nn.Softmax(1)), "1", "remove it", "Softmax"),
    "log_softmax at the end": block(_FLAT, lambda m, x: x.log_softmax(1), "remove it", "log_soft"),
    "softmax inside": (_FLAT, lambda: nn.Sequential(nn.Softmax(1), nn.Linear(6, 4)), "0", "attention", "Softmax"),
    "attention": (IMAGE, lambda: Attends(), "attention", "attention multiplies signals", "MultiheadAttention"),
    "LSTM": ((5, 6), lambda: Does(lambda m, x: m.lstm(x)[0], lstm=nn.LSTM(6, 4)), "lstm", "neurocuda.nn", "LSTM"),
    "a product": block(_FLAT, lambda m, x: x * m.a(x), "product of two", "mul()"),
    "a square": block(_FLAT, lambda m, x: x**2, "firing rate", "pow()"),
    "a quotient": block(_FLAT, lambda m, x: 1 / x, "product of two", "div"),
    "weights from the input": block(_FLAT, lambda m, x: functional.linear(x, x), "depend", "linear()"),
    "layer norm": (_FLAT, lambda: nn.Sequential(nn.LayerNorm(6)), "0", _NORM, "LayerNorm"),
    "group norm": (IMAGE, lambda: nn.Sequential(conv(), nn.GroupNorm(2, 4)), "1", _NORM, "GroupNorm"),
    "instance norm": (IMAGE, lambda: nn.Sequential(nn.InstanceNorm2d(3)), "0", _NORM, "InstanceNorm2d"),
    "no running statistics": (
        IMAGE,
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False)),
        "1",
        "running statistics (track_running_stats=True)",
        "BatchNorm2d",
    ),
    "norm of the batch": block(
        _FLAT, lambda m, x: functional.batch_norm(x, None, None, training=True), "running statistics", "batch_norm()"
    ),
    "dropout that goes on": block(_FLAT, lambda m, x: functional.dropout(x), "training=self", "goes on"),
    "clamp of both signs": block(_FLAT, lambda m, x: x.clamp(-1, 1), "from 0", "-1.0 to 1.0"),
    "hardtanh": (_FLAT, lambda: nn.Sequential(nn.Hardtanh()), "0", "from 0", "-1.0 to 1.0"),
    "conv3d": ((2, 4, 4, 4), lambda: nn.Sequential(nn.Conv3d(2, 2, 2)), "0", "one or two axes", "Conv3d"),
    "transposed": (IMAGE, lambda: nn.Sequential(nn.ConvTranspose2d(3, 2, 2)), "0", "enlarges", "ConvTranspose2d"),
    "upsample": (IMAGE, lambda: nn.Sequential(nn.Upsample(scale_factor=2)), "0", "enlarges", "Upsample"),
    "reflected borders": (
        IMAGE,
        lambda: nn.Sequential(conv(padding=1, padding_mode="reflect")),
        "0",
        "padding_mode='zeros'",
        "'reflect'",
    ),
    "padded maximum of any sign": (
        IMAGE,
        lambda: nn.Sequential(conv(), nn.MaxPool2d(3, 2, 1)),
        "1",
        "ReLU before",
        "sign",
    ),
    "indices": (
        IMAGE,
        lambda: Does(lambda m, x: m.pool(x)[0], pool=nn.MaxPool2d(2, return_indices=True)),
        "pool",
        "=F",
        "M",
    ),
    "uneven adaptive maximum": (
        IMAGE,
        lambda: nn.Sequential(nn.AdaptiveMaxPool2d(5)),
        "0",
        "windows of one size",
        "(9, 8)",
    ),
    "permutation": block(IMAGE, lambda m, x: x.permute(0, 2, 3, 1), "order of torch", "permute()"),
    "axis split": block((12,), lambda m, x: x.view(-1, 3, 4), "merges axes", "(12,) viewed as (3, 4)"),
    "batch merged": block(_FLAT, lambda m, x: x.flatten(), "batch", "flatten()"),
    "mean over the batch": block(_FLAT, lambda m, x: x.mean(0, True), "axes of space", "axes [0]"),
    "mean of all": block(IMAGE, lambda m, x: x.mean(), "axes of space", "[0, 1, 2, 3]"),
    "part of a signal": block(IMAGE, lambda m, x: x[:, :1], "taken whole", "getitem()"),
    "chunk": block(IMAGE, lambda m, x: x.chunk(3, 1)[0], "taken whole", "chunk()"),
    "cat over space": block(IMAGE, lambda m, x: torch.cat([x, x], 2), "axis of channels", "axis 2"),
    "sum that spreads": block(IMAGE, lambda m, x: x + x.mean((2, 3), True), "one shape", "(3, 1, 1)"),
    "constant image": block(IMAGE, lambda m, x: x + torch.arange(72.0).view(9, 8), "each channel", "(9, 8)"),
    "constant result": (_FLAT, lambda: Does(lambda m, x: (x, torch.ones(3))), "", "depend on the input", "Tensor"),
    "if": block(_FLAT, lambda m, x: x if x.sum() > 0 else -x, "same for all samples", "decision"),
    "while": block(_FLAT, doubles, "same for all samples", "decision"),
    "item": block(_FLAT, lambda m, x: x * x.max().item(), "same for all samples", "values of a tensor"),
    "float": block(_FLAT, lambda m, x: x * float(x.max()), "same for all samples", "values of a tensor"),
    "equal": block(_FLAT, lambda m, x: x if torch.equal(x, -x) else x + 1, "all samples", "values"),
    "loop over samples": block(_FLAT, lambda m, x: torch.stack([m.a(y) for y in x]), "whole", "loop"),
    "assignment": block(_FLAT, assigns, "whole tensors", "assignment"),
    "in place through a view": block(IMAGE, through_a_view, "no other view", "relu_()"),
    "hook that changes": (_FLAT, lambda: hooked(), "0", "hooks that look", "Linear"),
    "complex function": block(_FLAT, lambda m, x: torch.fft.rfft(x).abs(), "can compute", "fft_rfft()"),
    "numpy": block(_FLAT, lambda m, x: torch.from_numpy(x.numpy()), "all samples", "values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    shape, make, path, expected, found = REFUSED[name]
    model = make()
    before = traced.state(model)
    with pytest.raises(UnsupportedModuleError) as caught:
        trace(model, traced.frames(2, *shape))
    text = str(caught.value)
    where, rest = text.split(": expected ", 1)
    assert where == (f"module {path!r}" if path else "model"), text
    wanted, what = rest.split(", found ", 1) if rest.count(", found ") == 1 else rest.rsplit(", found ", 1)
    assert expected in wanted, text
    assert found in what, text
    assert caught.value.path == path
    assert isinstance(caught.value, NeuroCUDAError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.path) == (text, path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


LINEAR = nn.Linear(6, 4)
X = traced.frames(2, 6)
ODD: dict[str, tuple[object, object, str]] = {
    "no model": (functional.relu, X, "model: expected a torch.nn.Module, found a function"),
    "a class": (nn.ReLU, X, "model: expected a torch.nn.Module, found a type"),
    "TorchScript": (torch.jit.trace(LINEAR, X), X, "model: expected a module of Python code, found TorchScript"),
    "no example": (LINEAR, None, "example: expected a tensor [B, *shape] of at least one sample, found a NoneType"),
    "an example without a batch": (LINEAR, X[0], "example: expected a tensor [B, *shape]"),
    "an empty batch": (LINEAR, X[:0], "found shape (0, 6)"),
    "whole numbers": (
        LINEAR,
        X.int(),
        "example: expected a floating-point tensor, as the model takes it, found torch.int32",
    ),
    "another shape": (LINEAR, X[:, 1:], "expected an example that the model takes"),
    "a batch of one size": (Does(lambda m, x: x.view(5, 6)), X, "a model that takes batches of 2"),
    "two inputs": (nn.Bilinear(6, 6, 2), X, "model: expected a forward that takes one tensor, found that it"),
    "NaN": (Does(lambda m, x: m.fc(x), fc=nn.Linear(6, 4)), X, "module 'fc', weight: expected finite numbers"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_arguments(name: str) -> None:
    model, example, text = ODD[name]
    if name == "NaN":
        assert isinstance(model, Does)
        with torch.no_grad():
            model.fc.weight[0, 0] = float("nan")
    with pytest.raises(ArgumentError) as caught:
        trace(model, example)  # type: ignore[arg-type]
    assert text in str(caught.value)


def test_hooks_that_look_are_no_obstacle() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    seen = []
    model[0].register_forward_hook(lambda module, args, result: seen.append(result.shape))
    traced.check(model, X)
    assert seen


def test_old_weight_norm() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(6, 4)), nn.ReLU())
    model(X)  # from now on it holds a tensor that copy.deepcopy refuses
    graph = trace(model, X)
    assert graph.nodes["0"].array("weight").shape == (4, 6)
