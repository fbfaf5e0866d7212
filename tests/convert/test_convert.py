"""`convert`: how near the spiking network comes to the model, what it leaves alone, and what it refuses by name."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digit_models import MODELS, digits, residual, trained
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import neurocuda
from neurocuda import SNN, ArgumentError, NeuroCUDAError, NeuroCUDAWarning, UnsupportedModuleError
from neurocuda.convert.calibrate import PERCENTILES

FAST: dict[str, Any] = {"percentile": 99.5, "timesteps": 8, "samples": 100, "report": False}


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).double().mean())


@pytest.mark.parametrize("name", MODELS)
def test_the_spiking_network_is_nearly_as_good(name: str) -> None:
    x, _, test_x, test_y = digits()
    model = trained(name)
    expected = accuracy(model, test_x, test_y)
    assert expected > 95
    snn = neurocuda.convert(model, x[:200], timesteps=32, report=False)
    assert accuracy(snn, test_x, test_y) >= expected - 1.0
    assert snn.percentile in PERCENTILES
    snn = neurocuda.convert(model, x[:200], total_steps=12, report=False)
    assert snn.timesteps + snn.readout_delay == 12
    # Each instruction set and number of threads trains another network: 0.8 to 3.0 points, of 397 images.
    assert accuracy(snn, test_x, test_y) >= expected - 5.0


def test_it_takes_and_returns_what_the_model_does() -> None:
    x, _, test_x, _ = digits()
    model = trained("pooled")
    snn = neurocuda.convert(model, x, **FAST)
    for size in (1, 3, 0):
        y, original = snn(test_x[:size]), model(test_x[:size])
        assert (y.shape, y.dtype) == (original.shape, original.dtype)
    assert (snn.timesteps, snn.readout_delay) == (8, 8)
    y = snn.steps(test_x[:4], 30)
    assert torch.equal(snn(test_x[:4]), y[8:16].mean(0))
    snn.timesteps, snn.readout_delay = 20, 10
    assert torch.equal(snn(test_x[:4]), y[10:].mean(0))


def test_real_values_are_met_as_classes_are() -> None:
    x = torch.rand(300, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 1))
    snn = neurocuda.convert(model, x[:200], timesteps=64)
    with torch.no_grad():
        error, scale = (snn(x[200:]) - model(x[200:])).square().mean().sqrt(), model(x[200:]).square().mean().sqrt()
    assert error < 0.1 * scale
    report = snn.report
    assert report is not None
    assert report.at(64).agreement is None
    assert report.at(64).error < report.at(4).error < report.at(1).error


DATA: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a pair": lambda x, y: (x, y),
    "a loader of pairs": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=33),
    "a loader of lists of one": lambda x, y: DataLoader(TensorDataset(x), batch_size=40),
    "a dataset": lambda x, y: TensorDataset(x, y),
    "a list of batches": lambda x, y: list(x.split(50)),
    "a list of two batches": lambda x, y: [x[:50], x[50:]],
    "a generator": lambda x, y: (batch for batch in zip(x.split(20), y.split(20), strict=True)),
    "an endless generator": lambda x, y: endless(x),
}


def endless(x: Tensor) -> Iterator[Tensor]:
    while True:
        yield from x.split(50)


@pytest.mark.parametrize("form", DATA)
def test_every_form_of_data_gives_the_same_thresholds(form: str) -> None:
    x, y, _, _ = digits()
    expected = neurocuda.convert(trained("pooled"), x[:100], **FAST).thresholds
    found = neurocuda.convert(trained("pooled"), DATA[form](x[:100], y[:100]), **FAST).thresholds
    assert expected.keys() == found.keys()
    for name in expected:
        assert np.allclose(expected[name], found[name], rtol=1e-5), name


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    x, y, _, _ = digits()
    model = copy.deepcopy(trained("residual")).train(training)
    model[3].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    first = neurocuda.convert(model, (x, y), **FAST)
    assert modes == [module.training for module in model.modules()]
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    second = neurocuda.convert(trained("residual"), (x, y), **FAST)
    assert torch.equal(first(x[:8]), second(x[:8]))


def test_the_report() -> None:
    x, y, _, _ = digits()
    snn = neurocuda.convert(trained("residual"), (x, y), samples=60, percentile=99.5, timesteps=24)
    report = snn.report
    assert report is not None
    assert [m.timesteps for m in report.moments] == [1, 2, 4, 8, 16, 24, 32, 64]
    with torch.no_grad():
        found, original = snn(x[:60]).argmax(1), trained("residual")(x[:60]).argmax(1)
    assert report.at(24).agreement == float((found == original).double().mean())
    assert report.at(24).accuracy == float((found == y[:60]).double().mean())
    assert report.accuracy == float((original == y[:60]).double().mean())
    assert [p.name for p in report.populations] == list(snn.thresholds)
    assert all(0 < p.firing_rate < 1 for p in report.populations)
    dense = {s.name: s.dense for s in report.synapses}
    assert dense["7"] == 160
    assert dense["3.conv1"] == 8 * 8 * 22 * 22  # of the 9 taps, 22 of 24 reach a pixel along each axis
    first = next(s for s in report.synapses if s.name == "0")
    assert 0 < first.operations <= first.dense
    text = str(report)
    assert "original" in text
    assert "3.conv1" in text
    with pytest.raises(ArgumentError, match=r"timesteps: expected one of 1, 2, 4.*found 5"):
        report.at(5)


def test_synaptic_operations_are_those_of_a_count_by_hand() -> None:
    x, _, _, _ = digits()
    snn = neurocuda.convert(trained("pooled"), x, samples=5, percentile=99.5, timesteps=4)
    steps = snn.readout_delay + 64
    with torch.no_grad():
        result = snn.network.run(snn.signal(x[:5], steps), record={"9.spikes": "spikes"})
    spikes = result.recordings["9.spikes"]["spikes"].sum()
    assert snn.report is not None
    last = next(s for s in snn.report.synapses if s.name == "10")
    assert last.operations == pytest.approx(10 * float(spikes) / (5 * steps))
    assert snn.report.populations[-1].firing_rate == pytest.approx(float(spikes) / (5 * steps * 32))


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    x, y, _, _ = digits()
    snn = neurocuda.convert(trained("pooled"), (x, y), samples=10, percentile=99.5)
    assert snn.report is not None
    snn.report.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_relu6_caps_the_threshold() -> None:
    snn = neurocuda.convert(trained("pooled"), digits()[0] * 50, percentile=100.0, report=False)
    assert snn.thresholds["5.relu"].max() == 6
    assert snn.thresholds["9"].max() > 6


def test_dead_channels_are_named_and_get_a_threshold() -> None:
    model = copy.deepcopy(trained("pooled"))
    with torch.no_grad():
        model[0].bias[3] = -1e3
        model[8].bias[:2] = -1e3
    with pytest.warns(NeuroCUDAWarning, match=r"zero.*'9' \d+ of 32"):
        snn = neurocuda.convert(model, digits()[0], **FAST)
    assert all((theta > 0).all() for theta in snn.thresholds.values())
    assert torch.isfinite(snn(digits()[2][:3])).all()


def test_a_terminal_alone_shows_progress(capfd: pytest.CaptureFixture[str]) -> None:
    neurocuda.convert(trained("pooled"), digits()[0], **FAST)
    assert capfd.readouterr() == ("", "")


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class Shared(Functional):
    def __init__(self) -> None:
        super().__init__()
        self.again, self.relu = nn.Linear(20, 20), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.fc1(x.flatten(1)))
        for _ in range(3):
            x = self.relu(self.again(x))
        return self.fc2(x)


class Fragile(Functional):
    """Its activations are NaN for one sort of sample."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.fc2(torch.relu(self.fc1(x * 1e38 * 100)))


class Deciding(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Several(Functional):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return y, y


class Hooked(Functional):
    """What it returns is changed where fx does not look."""

    def __init__(self) -> None:
        super().__init__()
        self.fc2.register_forward_hook(lambda module, inputs, output: output * 1.5)


def model(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return kind()


def ends(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *layers, nn.Linear(16, 10))


X = digits()[0][:40]

WORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "a functional ReLU": (lambda: model(Functional), X),
    "shared weights": (lambda: model(Shared), X),
    "a batch of one sample": (lambda: model(Functional), X[:1]),
    "samples in float64": (lambda: model(Functional).double(), X.double()),
    "a model in training mode": (lambda: residual().train(), X),
    "labels that are not classes": (lambda: model(Functional), (X, torch.rand(len(X), 10))),
    "a model that ends in a ReLU": (lambda: nn.Sequential(ends(nn.ReLU()), nn.ReLU()), X),
}


@pytest.mark.parametrize("case", WORKS)
def test_odd_models_that_work(case: str) -> None:
    build, data = WORKS[case]
    made = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuroCUDAWarning)  # random weights have dead channels
        snn = neurocuda.convert(made, data, percentile=100.0, timesteps=256, readout_delay=32, report=False)
    x = data[0] if isinstance(data, tuple) else data
    with torch.no_grad():
        expected, found = made.eval()(x).float(), snn(x)
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


REFUSED: dict[str, tuple[Callable[[], Any], Any, type[NeuroCUDAError], str]] = {
    "GELU": (lambda: ends(nn.GELU()), X, UnsupportedModuleError, r"'2'.*GELU.*instead"),
    "SiLU": (lambda: ends(nn.SiLU()), X, UnsupportedModuleError, r"'2'.*SiLU.*instead"),
    "dynamic control flow": (lambda: model(Deciding), X, UnsupportedModuleError, r"instead"),
    "several results": (
        lambda: model(Several),
        X,
        ArgumentError,
        r"model: expected it to return a tensor, found a tuple",
    ),
    "a hook": (lambda: model(Hooked), X, NeuroCUDAError, r"hook|difference"),
    "no ReLU": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        X,
        ArgumentError,
        r"at least one ReLU.*found none",
    ),
    "no model": (lambda: torch.relu, X, ArgumentError, r"model: expected a torch.nn.Module"),
    "NaN activations": (
        lambda: model(Fragile),
        X,
        ArgumentError,
        r"model, '\w+': expected finite activations.*batch 0",
    ),
    "an empty loader": (
        lambda: model(Functional),
        [],
        ArgumentError,
        r"data: expected at least one batch.*without any",
    ),
    "an empty tensor": (lambda: model(Functional), X[:0], ArgumentError, r"data.*expected at least one"),
    "a batch of no samples": (
        lambda: model(Functional),
        [X, X[:0]],
        ArgumentError,
        r"data, batch 1: .*at least one sample",
    ),
    "a 0-dim batch": (
        lambda: model(Functional),
        torch.tensor(1.0),
        ArgumentError,
        r"data: .*\[B, \*shape\].*shape \(\)",
    ),
    "samples without a batch axis": (
        lambda: model(Functional),
        [torch.rand(64)],
        ArgumentError,
        r"batch 0.*shape \(64,\)",
    ),
    "samples of other shapes": (
        *(lambda: model(Functional), [X, X[:, :, :4]], ArgumentError),
        r"batch 1: expected samples as in the first batch, \(1, 8, 8\).*\(1, 4, 8\)",
    ),
    "samples that do not fit the model": (lambda: model(Functional), X[:, :, :4], NeuroCUDAError, r"."),
    "NaN samples": (
        lambda: model(Functional),
        X * torch.nan,
        ArgumentError,
        r"data, batch 0: expected finite.*found 2560",
    ),
    "labels of another number": (
        *(lambda: model(Functional), [(X, torch.zeros(3, dtype=torch.long))], ArgumentError),
        r"batch 0: expected a label for each of 40 samples, found 3",
    ),
    "no data": (lambda: model(Functional), None, ArgumentError, r"data: expected a tensor.*found None"),
    "batches of words": (lambda: model(Functional), ["x"], ArgumentError, r"data, batch 0: .*found a str"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_by_name(case: str) -> None:
    build, data, error, message = REFUSED[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuroCUDAWarning)
        with pytest.raises(error, match=message):
            neurocuda.convert(build(), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timesteps": 0}, "timesteps: expected an integer >= 1, found 0"),
        ({"timesteps": 2.0}, "timesteps: .*found 2.0"),
        ({"readout_delay": -1}, "readout_delay: .*>= 0, found -1"),
        ({"total_steps": 0}, "total_steps: .*>= 1, found 0"),
        ({"samples": 0}, "samples: .*>= 1, found 0"),
        ({"percentile": 0}, "percentile: .*found 0"),
        ({"percentile": [99, 101]}, "percentile: .*found 101"),
        ({"percentile": ()}, "percentile: expected at least one"),
        ({"dt": 0.0}, "dt"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        neurocuda.convert(trained("pooled"), X, **options)


@pytest.mark.parametrize("x", [torch.rand(2, 1, 8, 7), torch.rand(1, 8, 8), torch.tensor(0.0), "x"])
def test_samples_that_the_network_does_not_take(x: Any) -> None:
    snn = neurocuda.convert(trained("pooled"), X, **FAST)
    with pytest.raises(ArgumentError, match=r"x: expected samples \[B, 1, 8, 8\], found"):
        snn(x)


def test_it_is_a_module_like_others(tmp_path: Path) -> None:
    snn = neurocuda.convert(trained("pooled"), X, **FAST)
    twin = copy.deepcopy(snn)
    assert isinstance(twin, SNN)
    assert torch.equal(twin(X), snn(X))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not torch.equal(twin(X), snn(X))
    torch.save(snn.state_dict(), tmp_path / "snn.pt")
    twin.load_state_dict(torch.load(tmp_path / "snn.pt", weights_only=True))
    assert torch.equal(twin(X), snn(X))
    snn(X).square().sum().backward()
    assert any(parameter.grad is not None for parameter in snn.parameters())


def test_the_name_of_the_package_is_the_function() -> None:
    code = "import neurocuda, neurocuda.convert.tracing.tracer; assert callable(neurocuda.convert)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
