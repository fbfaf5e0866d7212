"""A model of neuron modules, written as NIR, is the same network: torch.equal with weights on a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from neuron_models import hand_written
from torch import Tensor, nn

import neurocuda
from neurocuda import Discretization
from neurocuda.convert.export import to_nir


def on_a_grid(model: nn.Module) -> nn.Module:
    """Weights and biases as multiples of 1/16: sums are exact in any order."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("weight", "bias")):
                parameter.copy_((parameter * 64).round() / 16)
    return model.eval()


def signal(steps: int = 12, batch: int = 5) -> Tensor:
    return torch.randint(0, 17, (steps, batch, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 16


def test_a_residual_network_and_its_twin(tmp_path: Path) -> None:
    model, path, x = on_a_grid(hand_written()), tmp_path / "twin.nir", signal()
    to_nir(model, path, x)
    d = model.lif1.discretization
    assert isinstance(d, Discretization)
    net = neurocuda.load(path, d)
    with torch.no_grad():
        expected = model(x)
        found, _ = net(x)
        assert torch.equal(found, expected)
        rates = [float(model.lif1(model.stem(x)).mean())]
        assert 0.02 < rates[0] < 0.9
        # An interpreter that shares no code with the executor, from the file.
        (values,) = oracle.run(oracle.read_raw(path), {net.graph.inputs[0]: x.numpy()}, fields(d)).outputs.values()
        assert np.array_equal(values, expected.numpy())
    assert len(expected.unique()) > 100


def fields(d: Discretization) -> dict[str, Any]:
    return {name: getattr(d, name) for name in oracle.DEFAULTS}


@pytest.mark.parametrize("kind", ["I", "IF", "LI", "LIF", "CubaLI", "CubaLIF"])
def test_every_neuron_and_its_node(kind: str, tmp_path: Path) -> None:
    taus = {"LI": (3e-4,), "LIF": (3e-4,), "CubaLI": (2e-4, 3e-4), "CubaLIF": (2e-4, 3e-4)}.get(kind, ())
    neuron = getattr(neurocuda.nn, kind)(*taus, r=np.linspace(1, 4, 4) * (1e4 if kind in ("I", "IF") else 1))
    torch.manual_seed(0)
    model = on_a_grid(nn.Sequential(neurocuda.nn.PerStep(nn.Conv2d(1, 4, 3)), neuron))
    x, path = signal(), tmp_path / "one.nir"
    to_nir(model, path, x)
    with torch.no_grad():
        assert torch.equal(neurocuda.load(path)(x)[0], model(x))
        assert model(x).any()
