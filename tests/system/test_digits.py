"""The example of the house: digits.nir under the executor is the network stepped in plain PyTorch, bit for bit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from torch import Tensor

import neurocuda
from examples.digits.network import (
    FILE,
    GRID,
    HELD_OUT,
    LAYERS,
    SHAPES,
    DigitsNetwork,
    constant_current,
    digits,
    from_nir,
    to_nir,
)
from examples.digits.raster import draw
from examples.digits.train import loss

SPIKING = [name for name in SHAPES if name != "li"]


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def held_out() -> tuple[Tensor, Tensor]:
    images, labels = digits(held_out=True)
    return constant_current(images), labels


def test_executor_equals_the_stepped_network(held_out: tuple[Tensor, Tensor]) -> None:
    x, labels = held_out
    with torch.no_grad():
        result = neurocuda.load(FILE).run(x, record=dict.fromkeys(SPIKING, "spikes"))
        expected, spikes = from_nir()(x)
    assert isinstance(result.output, Tensor)
    assert torch.equal(result.output, expected)
    for name in SPIKING:
        assert torch.equal(result.recordings[name]["spikes"], spikes[name])
        assert 0.01 < spikes[name].mean() < 0.2
    assert (result.output[-1].argmax(1) == labels).double().mean() >= 0.95


@pytest.mark.parametrize("number", [1, 2])
def test_same_bits_on_any_number_of_threads(held_out: tuple[Tensor, Tensor], number: int) -> None:
    x = held_out[0][:, :8]
    with torch.no_grad(), threads(number):
        assert torch.equal(neurocuda.load(FILE, chunk=5)(x)[0], from_nir()(x)[0])


@pytest.mark.cuda
def test_gpu_equals_the_stepped_network_on_the_cpu(held_out: tuple[Tensor, Tensor]) -> None:
    x = held_out[0][:, :32]
    with torch.no_grad():
        output, _ = neurocuda.load(FILE).cuda()(x.cuda())
        assert torch.equal(output.cpu(), from_nir()(x)[0])


def test_the_split_is_fixed_and_disjoint() -> None:
    train, held_out = digits(held_out=False)[0], digits(held_out=True)[0]
    assert len(held_out) == HELD_OUT
    assert len(train) + len(held_out) == 1797
    assert not {i.numpy().tobytes() for i in train} & {i.numpy().tobytes() for i in held_out}
    assert set(held_out.unique().tolist()) <= set(range(17))


def test_file_is_small_plain_nir_on_the_grid() -> None:
    assert FILE.stat().st_size < 200_000
    graph = nir.read(FILE)  # with the type check of the nir package
    for layer in LAYERS:
        for steps in (graph.nodes[layer].weight * GRID, graph.nodes[layer].bias * GRID):
            assert np.array_equal(steps, np.round(steps))
            assert np.abs(steps).max() <= 127


def test_graph_and_network_say_the_same() -> None:
    """What `to_nir` writes of an untrained network is what it computes, off the grid rounded onto it."""
    torch.manual_seed(1)
    network = DigitsNetwork(rounded=True)
    x = constant_current(digits(held_out=True)[0][:4])
    with torch.no_grad():
        assert torch.equal(neurocuda.load(to_nir(network))(x)[0], network(x)[0])


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    network = DigitsNetwork(rounded=True)
    images, labels = (part[:32] for part in digits(held_out=False))
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        value = loss(network, images, labels)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] - 0.2


def test_raster_is_drawn(tmp_path: Path) -> None:
    spikes = {name: np.eye(16, 20) for name in SPIKING}
    draw(tmp_path / "out" / "raster.png", np.zeros((8, 8)), spikes, np.zeros((16, 10)), 3)
    assert (tmp_path / "out" / "raster.png").read_bytes().startswith(b"\x89PNG")
