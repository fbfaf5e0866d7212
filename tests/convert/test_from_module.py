"""`from_module` on doubles with the attributes of the tools' neurons; tests/interop runs it on the tools themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import neurocuda
from neurocuda import ArgumentError, Discretization, UnsupportedModuleError


def double(package: str, name: str, **attributes: Any) -> nn.Module:
    """A module whose class has the name and the package of a tool's neuron."""
    module: nn.Module = type(name, (nn.Module,), {"__module__": f"{package}.neurons"})()
    for key, value in attributes.items():
        setattr(module, key, value)
    return module


def leaky(name: str = "Leaky", **changes: Any) -> nn.Module:
    plain = {"beta": torch.tensor(0.75), "threshold": torch.tensor(1.0), "_reset_mechanism": "subtract"}
    options = {"inhibition": False, "state_quant": False, "graded_spikes_factor": 1.0, "reset_delay": True}
    return double("snntorch", name, **{**plain, **options, **changes})


def sinabs(spike_fn: str = "MultiSpike", **changes: Any) -> nn.Module:
    reset = double("sinabs", "MembraneSubtract", subtract_value=None)
    plain = {"spike_threshold": torch.tensor(1.0), "min_v_mem": None, "tau_syn": None, "reset_fn": reset}
    return double("sinabs", "IAF", **{**plain, "spike_fn": type(spike_fn, (), {}), **changes})


def on_grid(rows: int, columns: int) -> nn.Linear:
    layer = nn.Linear(columns, rows)
    generator = torch.Generator().manual_seed(0)
    layer.weight.data = torch.randint(-4, 12, (rows, columns), generator=generator) / 16
    layer.bias.data = torch.randint(-2, 3, (rows,), generator=generator) / 16
    return layer


def test_leaky_with_its_recurrent_form_steps_as_snntorch_does() -> None:
    first, second, back = on_grid(6, 5), on_grid(4, 6), on_grid(4, 4)
    net = neurocuda.from_module(
        nn.Sequential(first, leaky(), second, leaky("RLeaky", recurrent=back)), torch.zeros(1, 5)
    )
    assert net.discretization == Discretization.snntorch(native=True)
    x = (torch.rand(40, 3, 5, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    a, b, fired = torch.zeros(3, 6), torch.zeros(3, 4), torch.zeros(3, 4)
    expected = []
    for step in x:
        a = 0.75 * a + first(step) - (a > 1).float()
        b = 0.75 * b + (second((a > 1).float()) + back(fired)) - (b > 1).float()
        fired = (b > 1).float()
        expected.append(fired)
    assert 0.05 < torch.stack(expected).mean() < 0.95
    assert torch.equal(net(x)[0], torch.stack(expected))


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "another container": (
        nn.ModuleList([nn.Linear(5, 4)]),
        UnsupportedModuleError,
        r"the network \(.*ModuleList\): expected a Sequential",
    ),
    "two tools": (nn.Sequential(nn.Linear(5, 4), leaky(), sinabs()), ArgumentError, "of one tool, found.*sinabs and"),
    "no decay": (
        nn.Sequential(nn.Linear(5, 4), leaky(beta=torch.tensor(1.0))),
        UnsupportedModuleError,
        r"module '1' \(snntorch.*Leaky\): expected a decay below 1, found a decay of 1",
    ),
    "an unknown neuron": (
        nn.Sequential(nn.Linear(5, 4), double("snntorch", "Alpha")),
        UnsupportedModuleError,
        r"module '1' \(snntorch.neurons.Alpha\): expected layers of torch, or Leaky, RLeaky, Synaptic",
    ),
    "options that exclude each other": (
        nn.Sequential(nn.Linear(5, 4), sinabs(), nn.Linear(4, 4), sinabs("SingleSpike")),
        ArgumentError,
        "one spikes_per_step for all neurons, found many in '1' and one in '3'",
    ),
    "a clamp elsewhere": (
        nn.Sequential(nn.Linear(5, 4), sinabs(min_v_mem=torch.tensor(-0.5))),
        UnsupportedModuleError,
        r"module '1' \(sinabs.*IAF\): expected None, 0 or minus the threshold",
    ),
    "another reset method": (
        nn.Sequential(
            nn.Linear(5, 4), double("norse", "LIFBoxCell", dt=1e-3, p=SimpleNamespace(reset_method=torch.relu))
        ),
        UnsupportedModuleError,
        r"module '1' \(norse.*LIFBoxCell\): expected reset_value, found reset_method=relu",
    ),
    "no module": (None, ArgumentError, "network: expected a torch.nn.Module, found a NoneType"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused(name: str) -> None:
    network, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        neurocuda.from_module(network, torch.zeros(1, 5))
    if "module '1'" in message:
        assert caught.value.path == "1"  # type: ignore[attr-defined]
