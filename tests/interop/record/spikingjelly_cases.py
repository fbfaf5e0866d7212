"""Networks of SpikingJelly 2.0.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.nir_exchange import export_to_nir, import_from_nir

from record.case import NEURONS, Array, Case, Run, chain, full, recurrent_weight
from record.snntorch_cases import linear

DT = 1e-4


def steps(layers: list[Any], x: Array) -> Run:
    """Runs Linear, neuron, Linear, neuron step by step."""
    found: tuple[list[Any], ...] = ([], [], [], [])
    for layer in layers[1::2]:
        layer.reset()
    with torch.no_grad():
        for now in torch.from_numpy(x):
            for i in (0, 1):
                now = layers[2 * i + 1](layers[2 * i](now))
                found[i].append(now.numpy().copy())
                found[2 + i].append(layers[2 * i + 1].v.numpy().copy())
    return Run([np.stack(f) for f in found[:2]], [np.stack(f) for f in found[2:]])


def loaded(graph: nir.NIRGraph, x: Array) -> Run:
    """Runs what the importer makes of a graph."""
    net = import_from_nir(graph, dt=DT)
    functional.reset_net(net)
    found: list[Any] = []
    membranes: dict[str, list[Any]] = {}
    state = None
    with torch.no_grad():
        for now in torch.from_numpy(x):
            y, state = net(now, state)
            found.append(y.numpy())
            for name, own in state.items():
                # Modules of a loop have a state too.
                if own is not None and own[0].shape == y.shape:
                    membranes.setdefault(name, []).append(own[0].numpy().copy())
    return Run([np.stack(found)], [np.stack(v) for _, v in sorted(membranes.items())])


def case(
    name: str, make: Callable[[], Any], node: Callable[[], nir.NIRNode], loop: bool = False, **changes: Any
) -> Case:
    """A network of two equal populations. With `loop`, the native network is that of the importer."""

    def layers(w: list[Array]) -> list[Any]:
        return [linear(w[0]), make(), linear(w[1]), make()]

    def written(w: list[Array]) -> nir.NIRGraph:
        return chain(w, node(), node(), nir.Affine(recurrent_weight(), full(0.125)) if loop else None)

    def run(w: list[Array], x: Array) -> Run:
        if not loop:
            return steps(layers(w), x)
        found = loaded(written(w), x)
        return Run([steps(layers(w), x).spikes[0], *found.spikes], found.membranes)

    def export(w: list[Array], x: Array) -> nir.NIRGraph:
        return export_to_nir(module(w), torch.from_numpy(x[0][:1]), dt=DT)

    def module(w: list[Array]) -> torch.nn.Module:
        return torch.nn.Sequential(*layers(w))

    # Loops are graphs in SpikingJelly, not modules.
    own = {"export": None, "module": None} if loop else {"export": export, "module": module}
    return Case("spikingjelly", name, DT, written, run, load=loaded, changes=changes, **own)


def integrator(v_reset: float = 0.0, v_threshold: float = 1.0) -> nir.IF:
    """IFNode."""
    return nir.IF(r=full(1 / DT), v_threshold=full(v_threshold), v_reset=full(v_reset))


def lif(v_reset: float = 0.0, r: float = 1.0, tau: float = 2.0) -> nir.LIF:
    """LIFNode: r = 1 with decay_input, otherwise r = tau."""
    return nir.LIF(
        tau=np.full(NEURONS, tau * DT), r=full(r), v_leak=full(v_reset), v_threshold=full(1), v_reset=full(v_reset)
    )


def cuba(v_reset: float = 0.0) -> nir.CubaLIF:
    """CUBALIFNode with decays of 1/2."""
    times = {"tau_syn": full(2 * DT), "tau_mem": full(2 * DT), "r": full(2), "w_in": full(2)}
    return nir.CubaLIF(**times, v_leak=full(0), v_threshold=full(1), v_reset=full(v_reset))


def current(v_reset: float) -> Any:
    """A CUBALIFNode."""
    return neuron.CUBALIFNode(c_decay=0.5, v_decay=0.5, v_threshold=1.0, v_reset=v_reset)


CASES = [
    case("IFNode", neuron.IFNode, integrator),
    case("IFNode(v_reset=0.25)", lambda: neuron.IFNode(v_reset=0.25), lambda: integrator(0.25)),
    case("IFNode(v_reset=None)", lambda: neuron.IFNode(v_reset=None), integrator, reset="subtract"),
    case("LIFNode", neuron.LIFNode, lif),
    case("LIFNode(v_reset=0.25)", lambda: neuron.LIFNode(v_reset=0.25), lambda: lif(0.25)),
    case(
        "LIFNode(v_reset=-0.25, decay_input=False)",
        lambda: neuron.LIFNode(v_reset=-0.25, decay_input=False),
        lambda: lif(-0.25, 2.0),
    ),
    case("LIFNode(tau=10)", lambda: neuron.LIFNode(tau=10.0, v_reset=0.1), lambda: lif(0.1, tau=10.0)),
    case("LIFNode(v_reset=None)", lambda: neuron.LIFNode(v_reset=None), lif, reset="subtract"),
    case("CUBALIFNode", lambda: current(0.0), cuba),
    case("CUBALIFNode(v_reset=0.25)", lambda: current(0.25), lambda: cuba(0.25)),
    case("LIFNode(v_reset=0.25), recurrent", lambda: neuron.LIFNode(v_reset=0.25), lambda: lif(0.25), loop=True),
]
