"""`neurocuda convert`: models from files and functions, calibration data from files and functions, a NIR file out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from digit_models import digits, trained
from torch import nn

import neurocuda
from neurocuda.convert.tracing.model_files import read_model
from neurocuda.errors import FileError, UnsupportedModuleError


def calibration_model() -> nn.Module:
    return trained("residual")


def calibration_data() -> list[torch.Tensor]:
    return list(digits()[0][:60].split(20))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    x, y, _, _ = digits()
    np.save("x.npy", x[:60].numpy())
    np.savez("xy.npz", x=x[:60].numpy(), y=y[:60].numpy())
    np.savez("z.npz", z=x[:60].numpy())
    Path("own.py").write_text(
        "import test_convert_command\nmodel = test_convert_command.calibration_model\nnumber = 3\n"
    )
    torch.export.save(torch.export.export(trained("residual"), (x[:2],)), "model.pt2")
    torch.jit.save(torch.jit.script(trained("residual")), "scripted.pt")
    torch.jit.save(torch.jit.trace(trained("pooled"), x[:2]), "traced.pt")
    Path("text.pt").write_text("no model")
    return tmp_path


@pytest.mark.parametrize("model", ["model.pt2", "scripted.pt", "own:model", "test_convert_command:calibration_model"])
def test_a_model_becomes_a_file(model: str, here: Path) -> None:
    options = ("--timesteps", 8, "--percentile", 99.5, "--output", "net.nir")
    out, _ = command("convert", model, "--data", "xy.npz", *options, "--plot", "curve.png")
    assert "accuracy %" in out
    assert "written to net.nir, curve.png" in out
    assert Path("curve.png").stat().st_size > 1000
    expected = neurocuda.convert(trained("residual"), digits()[0][:60], timesteps=8, percentile=99.5, report=False)
    x = digits()[2][:20]
    with torch.no_grad():
        found = neurocuda.load("net.nir")(x.expand(16, *x.shape))[0][8:].mean(0)
        assert (found.argmax(1) == expected(x).argmax(1)).float().mean() > 0.9
    assert neurocuda.read("net.nir").metadata["neurocuda"]["timesteps"] == 8


def test_data_of_a_function_and_of_an_array(here: Path) -> None:
    data = "test_convert_command:calibration_data"
    command("convert", "own:model", "--data", data, "--percentile", 99, "--output", "a.nir")
    command("convert", "own:model", "--data", "x.npy", "--percentile", 99, "--output", "b.nir")
    a, b = (neurocuda.read(path) for path in ("a.nir", "b.nir"))
    assert a.nodes.keys() == b.nodes.keys()
    out, _ = command("convert", "own:model", "--data", "x.npy", "--percentile", 99, "-o", "c.nir")
    assert "–" in out
    assert Path("b.nir").read_bytes() == Path("c.nir").read_bytes()


def test_options_reach_the_file(here: Path) -> None:
    options = ("--percentile", 99, "--samples", 20, "--readout-delay", 3, "--dt", 1e-3, "--reset", "if")
    _, err = command("convert", "traced.pt", "--data", "x.npy", *options, "--dense-groups", "--output", "a.nir")
    assert "warning: reset='if'" in err
    graph = neurocuda.read("a.nir")
    about = graph.metadata["neurocuda"]
    assert (about["discretization"]["dt"], about["readout_delay"], about["reset"]) == (1e-3, 3, "if")
    assert all(node.parameters.get("groups", 1) == 1 for node in graph.nodes.values())


def test_weights_of_few_bits(here: Path) -> None:
    words = ("convert", "own:model", "--data", "x.npy", "--percentile", 99, "--timesteps", 8)
    out, err = command(*words, "--weight-bits", 6, "--output", "a.nir")
    assert "weights of 6 bits; the file expects inputs that are multiples of 0.125 from -1 to 1" in out
    assert "not all sums are exact" not in err
    told = neurocuda.read("a.nir").metadata["quantized"]
    assert (told["bits"], list(told["inputs"]["input"])) == (6, [0.125, -1, 1])
    plain, _ = command(*words, "--output", "b.nir")
    assert "bits" not in plain
    assert "quantized" not in neurocuda.read("b.nir").metadata


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.pt", "--data", "x.npy"), "expected a model, found no such file"),
        (("text.pt", "--data", "x.npy"), "expected a file of torch.export.save or torch.jit.save"),
        (("own:nothing", "--data", "x.npy"), "MODEL: expected MODULE:FUNCTION, found 'own:nothing'"),
        (("nowhere:model", "--data", "x.npy"), "MODEL: expected MODULE:FUNCTION"),
        (("own:number", "--data", "x.npy"), "expected 'own:number' to be a function, found a int"),
        (("test_convert_command:calibration_data", "--data", "x.npy"), "to return a torch.nn.Module, found a list"),
        (("own:model", "--data", "nowhere.npy"), "found no such file"),
        (("own:model", "--data", "z.npz"), "expected an array 'x' and perhaps labels 'y', found z"),
        (("model.pt2", "--data", "test_convert_command:calibration_data"), "found MODULE:FUNCTION"),
        (("own:model", "--data", "x.npy", "--timesteps", 0), "timesteps: expected an integer"),
        (("own:model", "--data", "x.npy", "--weight-bits", 9), "weight_bits: expected an integer from 2 to 8"),
        (("own:model", "--data", "x.npy", "--reset", "none"), "--reset: expected one of loop, if"),
        (("own:model", "--data", "x.npy", "-o", "no/where.nir"), "expected a folder to write in"),
    ],
)
def test_what_goes_wrong_has_a_name(words: tuple[object, ...], message: str, here: Path) -> None:
    _, err = command("convert", *words, *(() if "-o" in words else ("-o", "net.nir")), code=2)
    assert message in err
    assert not Path("net.nir").exists()


def test_a_model_file_gives_the_model(here: Path) -> None:
    x = digits()[2][:7]
    for path, name in (("model.pt2", "residual"), ("scripted.pt", "residual"), ("traced.pt", "pooled")):
        assert torch.equal(read_model(path, digits()[0][:2])(x), trained(name)(x))


def test_operators_without_a_meaning_are_named(here: Path) -> None:
    torch.export.save(torch.export.export(nn.Sequential(nn.Conv2d(1, 2, 1), nn.GELU()), (digits()[0][:2],)), "gelu.pt2")
    with pytest.raises(UnsupportedModuleError, match=r"gelu.*no meaning in a spiking network"):
        read_model("gelu.pt2", digits()[0][:2])
    with pytest.raises(FileError, match="found a folder"):
        read_model(here, digits()[0][:2])
