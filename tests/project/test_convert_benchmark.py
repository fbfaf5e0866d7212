"""The benchmark of conversion: its data, its table, and how a run of its networks by hand compares with ours."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from digit_models import digits, trained
from torch import nn

import neurocuda
from benchmarks.conversion import data, networks, ours, table


def write_idx(path: Path, array: np.ndarray, packed: bool) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read(packed: bool, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28))
    for name, array in zip(data.FILES["test"], (images, np.arange(5)), strict=True):
        write_idx(tmp_path / (f"{name}.gz" if packed else name), array, packed)
    x, y = data.read(tmp_path, "test")
    assert (tuple(x.shape), y.tolist()) == ((5, 1, 28, 28), [0, 1, 2, 3, 4])
    assert np.allclose((x[:, 0].numpy() * 0.3530 + 0.2860) * 255, images, atol=1e-3)
    with pytest.raises(SystemExit, match=r"train-images-idx3-ubyte.*dataset-fashion-mnist.*--data"):
        data.read(tmp_path, "train")


def test_augmented_images_are_mirrored_and_shifted() -> None:
    images = torch.arange(100 * 28 * 28).reshape(100, 1, 28, 28).float()
    batches = list(data.augmented(images, torch.arange(100), 30, torch.Generator().manual_seed(1)))
    assert [len(x) for x, _ in batches] == [30, 30, 30, 10]
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(100))
    kinds = set()
    for x, y in batches:
        for image, number in zip(x[:, 0], y, strict=True):
            across, down = (image[14, 15] - image[14, 14]).item(), image[14, 14] - images[number, 0, 14, 14]
            kinds.add((across, (down.item() // 28)))
            assert across in (1, -1)
    assert {across for across, _ in kinds} == {1, -1}
    assert len(kinds) > 5


@pytest.mark.parametrize("name", networks.BUILDERS)
def test_networks_take_the_images(name: str) -> None:
    network = networks.BUILDERS[name]()
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    kinds = {type(module) for module in network.modules()}
    assert (nn.MaxPool2d in kinds) == (name == "vgg")


@pytest.mark.parametrize("name", ["residual", "pooled"])
def test_a_network_stepped_by_hand_is_ours(name: str) -> None:
    x = digits()[2][:6]
    snn = neurocuda.convert(trained(name), digits()[0], percentile=99.5, samples=50, report=False)
    with torch.no_grad():
        for parameter in snn.parameters():  # on a grid, so that both round nothing
            parameter.copy_((parameter * 256).round() / 256)
        by_hand = ours.by_hand(_as_written(snn), x.round(), 10, torch.float32)
        assert torch.equal(by_hand, snn.steps(x.round(), 10))


def _as_written(snn: neurocuda.SNN) -> neurocuda.SNN:
    from neurocuda.convert.export import current

    snn.network.graph = current(snn.network)
    return snn


def test_the_table_is_read_as_it_was_written_and_drawn(tmp_path: Path) -> None:
    rows = [
        table.Row("vgg", 100, "original", "", 0, 0, 0, 91.5, 0.0, 100.0),
        table.Row("vgg", 100, "neurocuda", "99 %, chosen with the delay", 5, 3, 8, 90.5, 1.0, 97.0),
        table.Row("vgg", 100, "SpikingJelly, maximum", "", 8, 0, 8, 80.25, 11.25, 85.0),
        table.Row("vgg", 500, "original", "", 0, 0, 0, 91.0, 0.0, 100.0),
        table.Row("vgg", 500, "neurocuda", "99 %, chosen with the delay", 5, 3, 8, 90.0, 1.0, 97.0),
    ]
    table.write(tmp_path / "convert.csv", rows, {"cpu": "x"})
    assert table.read(tmp_path / "convert.csv") == rows
    assert table.draw(tmp_path / "convert.csv").read_bytes().startswith(b"\x89PNG")
    assert table.comparable(rows) == rows[:3]
    assert table.comparable([*rows[:2], *rows[3:]]) == rows[3:]
