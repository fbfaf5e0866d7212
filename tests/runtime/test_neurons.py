"""Each neuron under every combination of the fields of `Discretization`, against the oracle."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from comparison import assert_as_oracle, recorded
from devices import networks_on_each_device
from make_nir import DT, Node, graph, input_, neuron, output, signal

pytestmark = networks_on_each_device

NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")
FIELDS: dict[str, tuple[Any, ...]] = {
    "integrator": ("euler", "exponential"),
    "spike_when": ("above", "reaching"),
    "reset": ("to-value", "subtract"),
    "synapse": ("updated", "previous"),
    "spikes_per_step": ("one", "many"),
    "if_gain": ("r*dt", "r"),
    "output_delay": (0, 1),
}
EVERY = [dict(zip(FIELDS, values, strict=True)) for values in itertools.product(*FIELDS.values())]
MEANINGFUL = [
    d for d in EVERY if d["spikes_per_step"] == "one" or (d["spike_when"], d["reset"]) == ("reaching", "subtract")
]


def run(node: Node, shape: tuple[int, ...], options: dict[str, Any], x: np.ndarray | None = None) -> np.ndarray:
    raw = graph("input>n n>output", input=input_(*shape), n=node, output=output(*shape))
    signals = {"input": signal(12, 2, *shape) * 2 if x is None else x}
    return recorded(assert_as_oracle(raw, signals, options), signals)["n", "output"]


@pytest.mark.parametrize("kind", NEURONS)
def test_every_combination_of_fields(kind: str) -> None:
    spikes = set()
    for options in MEANINGFUL:
        gain = 2 * DT if options["if_gain"] == "r" else 1.0
        node = neuron(kind, 5)
        if kind in ("I", "IF"):
            node["r"] = node["r"] * gain
        spikes.update(np.unique(run(node, (5,), options)).tolist() if "v_threshold" in node else [])
    if kind in ("IF", "LIF", "CubaLIF"):
        assert {0.0, 1.0, 2.0} <= spikes, "a case that never fires, or never twice, shows nothing"


@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("own", [(), (1,), (3,), (3, 1, 1), (1, 2), (3, 2), (3, 2, 4), (1, 1, 1, 1)])
def test_parameters_align_with_leading_axes(kind: str, own: tuple[int, ...]) -> None:
    for field in [name for name in neuron(kind) if name != "type"]:
        mixed = neuron(kind, 1) | {field: neuron(kind, *own)[field]}
        run(mixed, (3, 2, 4), {})
    run(neuron(kind, *own), (3, 2, 4), {})


@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (2, 3, 4), (2, 1, 3, 2)])
def test_signals_of_any_rank(kind: str, shape: tuple[int, ...]) -> None:
    run(neuron(kind, *shape), shape, {})


@pytest.mark.parametrize("kind", NEURONS)
def test_parameters_of_any_width_are_used_as_they_stand(kind: str) -> None:
    """Coefficients are computed from the parameter as float64, for every dtype in the file."""
    for width in ("f2", "f4", "f8"):
        fields = {name: value if name == "type" else value.astype(width) for name, value in neuron(kind, 4).items()}
        if width == "f2":
            fields |= {name: np.float16([0.5, 1, 2, 3]) for name in ("tau", "tau_mem", "tau_syn") if name in fields}
        run(fields, (4,), {"dt": 0.25} if width == "f2" else {})


@pytest.mark.parametrize("kind", ["IF", "LIF", "CubaLIF"])
def test_missing_reset_is_zero_and_missing_input_weight_is_one(kind: str) -> None:
    full = neuron(kind, 4) | {"v_reset": np.zeros(4)} | ({"w_in": np.ones(4)} if kind == "CubaLIF" else {})
    short = {name: value for name, value in full.items() if name not in ("v_reset", "w_in")}
    assert np.array_equal(run(full, (4,), {}), run(short, (4,), {}))


def test_a_silent_membrane_decays_through_subnormal_numbers() -> None:
    x = np.zeros((1200, 1, 1), np.float32)
    x[0] = 1
    v = run(neuron("LI", 1) | {"tau": np.array(10 * DT), "v_leak": np.array(0.0)}, (1,), {}, x)
    assert 0 < v[:, 0, 0][v[:, 0, 0] > 0].min() < np.finfo(np.float32).tiny


def test_spikes_at_the_threshold() -> None:
    """IF with gain 1/4 and threshold 1 under input 1: v is exactly 1 at the fourth step."""
    node = {"type": "IF", "r": np.array(0.25), "v_threshold": np.array(1.0)}
    x = np.ones((5, 1, 1), np.float32)
    above = run(node, (1,), {"if_gain": "r"}, x).ravel()
    reaching = run(node, (1,), {"if_gain": "r", "spike_when": "reaching"}, x).ravel()
    assert above.tolist() == [0, 0, 0, 0, 1]
    assert reaching.tolist() == [0, 0, 0, 1, 0]
