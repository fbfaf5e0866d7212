"""The simulator that wrote a graph, recognized by the names of its nodes and the values of its neurons.

Each simulator's exporter writes r, w_in and the time constants of a neuron by its own rule. Read in the releases that
the presets of `Discretization` name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from neurocuda.discretization.metadata import entry
from neurocuda.discretization.settings import PRESETS
from neurocuda.graph import Graph, Node
from neurocuda.graph.batch_axis import states_batch_axis

_TOLERANCE = 1e-5
"""Relative: exporters compute in float32."""

_STEPS = (1e-3, 1e-4, 1.0)
"""The time steps in seconds that exporters have as defaults."""


def likely_exporter(graph: Graph) -> str | None:
    """The simulator that most likely wrote the graph; "neurocuda" for a file of `to_nir`; None if unclear."""
    if "neurocuda" in _versions(graph):
        return "neurocuda"
    names = [name for name, node in graph.nodes.items() if not node.primitive.is_terminal]
    neurons = [node for node in graph.nodes.values() if node.primitive.is_neuron]
    if any(re.fullmatch(r"\d+_\w+(Torch|Jax)", name) for name in names):
        return "rockpool"
    if neurons and all(re.fullmatch(r"layer_\d+(_\w+)?(\..+)?", name) for name in names):
        return "spyx"
    if any(name.endswith(".w_rec") for name in names):
        return "snntorch"
    # torch.fx, which SpikingJelly's exporter traces with, names the input of a Sequential "input_1".
    fx = graph.inputs == ("input_1",) or any(re.fullmatch(r"_\d+", name) for name in names)
    if not neurons:
        return None
    if fx and all(_spikingjelly(node) for node in neurons):
        return "spikingjelly"
    for exporter, wrote in _RULES.items():
        if all(wrote(node) for node in neurons):
            return exporter if exporter != "norse" or _as_norse(graph) else None
    if not _as_norse_or_sinabs(graph) or not all(_counts_spikes(node) for node in neurons):
        return None
    return "norse" if states_batch_axis(graph) else "sinabs"


def exporter_dt(graph: Graph, exporter: str | None) -> float | None:
    """The time step in seconds with which an exporter computed r, the same for all neurons; None if unclear."""
    found: set[float | None] = set()
    for node in graph.nodes.values():
        if node.primitive.is_leaky:
            found.add(next((dt for dt in _STEPS if _is_scaled(node, dt) or _rockpool(node, dt)), None))
        elif node.primitive.is_neuron and exporter == "spikingjelly":
            found.add(float(f"{1 / node.array('r').max():.6g}"))
    return found.pop() if exporter in PRESETS and len(found) == 1 else None


def _versions(graph: Graph) -> Mapping[str, object]:
    versions = entry(graph, "versions")
    return versions if isinstance(versions, Mapping) else {}


def _tau(node: Node) -> np.ndarray:
    return node.array("tau_mem" if "tau_mem" in node.parameters else "tau").astype(np.float64)


def _equal(value: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two parameters of a neuron agree to the last digits of float32."""
    if value.size != expected.size:
        return False
    return bool(np.allclose(value.reshape(-1), expected.reshape(-1), rtol=_TOLERANCE, atol=0))


def _all_ones(node: Node, name: str) -> bool:
    return name not in node.parameters or bool((node.array(name) == 1).all())


def _all_zero(node: Node, name: str) -> bool:
    return name not in node.parameters or bool((node.array(name) == 0).all())


def _is_scaled(node: Node, dt: float) -> bool:
    """r = tau / dt and w_in = tau_syn / dt: one unit of input adds one to the membrane potential in each step."""
    if not node.primitive.is_leaky:
        return False
    synapse = "tau_syn" not in node.parameters or _equal(node.array("w_in"), node.array("tau_syn") / dt)
    return synapse and _equal(node.array("r"), _tau(node) / dt)


def _rockpool(node: Node, dt: float) -> bool:
    if not node.primitive.is_leaky:
        return False
    tau = _tau(node)
    return _equal(node.array("r"), tau * np.exp(-dt / tau) / dt)


def _any_rockpool(node: Node) -> bool:
    return any(_rockpool(node, dt) for dt in _STEPS)


def _snntorch(node: Node) -> bool:
    return _is_scaled(node, 1e-4) and _all_zero(node, "v_leak")


def _spikingjelly(node: Node) -> bool:
    if not node.primitive.is_leaky:
        return True
    if "tau_syn" in node.parameters:
        return _equal(node.array("r") / _tau(node), node.array("w_in") / node.array("tau_syn"))
    return node.primitive.is_spiking and _equal(node.array("v_leak"), node.array("v_reset"))


def _spyx(node: Node) -> bool:
    return node.primitive.is_leaky and _equal(node.array("r"), 1 - 1 / _tau(node)) and _all_zero(node, "v_leak")


def _sinabs(node: Node) -> bool:
    steps = node.primitive.is_leaky and "tau_syn" not in node.parameters and bool((_tau(node) >= 1).all())
    return steps and _all_ones(node, "r") and _all_zero(node, "v_leak")


def _norse(node: Node) -> bool:
    seconds = node.primitive.is_leaky and node.array("tau_mem" if "tau_mem" in node.parameters else "tau").max() < 1
    single = node.array("r").dtype == np.float32
    return bool(seconds) and single and _all_ones(node, "r") and _all_ones(node, "w_in") and _all_zero(node, "v_reset")


def _counts_spikes(node: Node) -> bool:
    """An IF with r = 1, as Norse and sinabs write it."""
    return not node.primitive.is_leaky and node.array("r").dtype == np.float32 and _all_ones(node, "r")


def _as_norse_or_sinabs(graph: Graph) -> bool:
    """Both write every matrix as Affine."""
    return not any(node.primitive.is_matrix and "bias" not in node.parameters for node in graph.nodes.values())


def _as_norse(graph: Graph) -> bool:
    return _as_norse_or_sinabs(graph) and not any(node.primitive.is_pool for node in graph.nodes.values())


_RULES: Mapping[str, Callable[[Node], bool]] = {
    "rockpool": _any_rockpool,
    "snntorch": _snntorch,
    "spyx": _spyx,
    "sinabs": _sinabs,
    "norse": _norse,
}
"""Whether an exporter would have written this neuron, in the order in which they are tried."""
