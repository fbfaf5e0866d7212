"""Networks of Norse 1.1.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import norse.torch as norse
import numpy as np
import torch
from norse.torch.functional.iaf import IAFParameters
from norse.torch.functional.lif import LIFParameters
from norse.torch.functional.lif_box import LIFBoxParameters
from norse.torch.module.iaf import IAFCell
from norse.torch.module.lif import LIFCell, LIFRecurrentCell
from norse.torch.module.lif_box import LIFBoxCell

from record.case import NEURONS, Array, Case, Run, alternating, chain, full, recurrent_weight
from record.snntorch_cases import linear

DT = 2**-10
"""About a millisecond. dt / tau is a power of two, also where float32 holds dt and tau."""
THRESHOLDS = alternating(1.0, 1.5, 2.0)
LEAKS = alternating(0.25, -0.25)
RESETS = alternating(-0.25, 0.125)
TAUS = alternating(DT, 2 * DT)


def steps(layers: list[Any], x: Array) -> Run:
    """Runs Linear, neuron, Linear, neuron step by step."""
    states: list[Any] = [None, None]
    found: tuple[list[Any], ...] = ([], [], [], [])
    with torch.no_grad():
        for now in torch.from_numpy(x):
            for i in (0, 1):
                now = now if layers[2 * i] is None else layers[2 * i](now)
                now, states[i] = layers[2 * i + 1](now, states[i])
                found[i].append(now.numpy().copy())
                found[2 + i].append(np.broadcast_to(states[i].v.detach().numpy(), now.shape).copy())
    return Run([np.stack(f) for f in found[:2]], [np.stack(f) for f in found[2:]])


def loaded(graph: nir.NIRGraph, x: Array) -> Run:
    """Runs what the importer makes of a graph."""
    net = norse.from_nir(graph, dt=DT)
    found: list[Any] = []
    membranes: dict[str, list[Any]] = {}
    state = None
    with torch.no_grad():
        for now in torch.from_numpy(x):
            y, state = net(now, state)
            found.append(y.numpy())
            for name, own in state.state.items():
                # That of CubaLIF is a pair, of the synapse and of the membrane.
                while type(own) is tuple:
                    own = own[-1]
                if own is not None:
                    membranes.setdefault(name, []).append(own.v.numpy().copy())
    return Run([np.stack(found)], [np.stack(v) for _, v in sorted(membranes.items())])


def case(name: str, neuron: Callable[[], Any], node: Callable[[], nir.NIRNode], loop: bool = False) -> Case:
    """A network of two equal populations; with `loop`, the second is a LIFRecurrentCell."""

    def layers(w: list[Array]) -> list[Any]:
        if not loop:
            return [linear(w[0]), neuron(), linear(w[1]), neuron()]
        # It takes its initial state from a scalar v_leak.
        scalars = {name: torch.tensor(value) for name, value in LIF_VALUES.items()}
        second = LIFRecurrentCell(NEURONS, NEURONS, p=LIFParameters(**scalars), dt=DT)
        second.input_weights.data = torch.from_numpy(w[1])
        second.recurrent_weights.data = torch.from_numpy(recurrent_weight())
        return [linear(w[0]), neuron(), None, second]

    def written(w: list[Array]) -> nir.NIRGraph:
        return chain(w, node(), node(), nir.Linear(recurrent_weight()) if loop else None)

    def export(w: list[Array], x: Array) -> nir.NIRGraph:
        return norse.to_nir(module(w), torch.from_numpy(x[0][:1]), dt=DT)

    def module(w: list[Array]) -> torch.nn.Module:
        return norse.SequentialState(*[layer for layer in layers(w) if layer is not None])

    return Case("norse", name, DT, written, lambda w, x: steps(layers(w), x), export, loaded, module=module)


def tensors(**values: Any) -> dict[str, Any]:
    """[N] tensors."""
    return {name: torch.from_numpy(full(value)) for name, value in values.items()}


def box(tau: Any = 2 * DT, **values: Any) -> Callable[[], Any]:
    """A LIFBoxCell."""
    p = LIFBoxParameters(tau_mem_inv=torch.from_numpy(1 / full(tau)), **tensors(**values))
    return lambda: LIFBoxCell(p, dt=DT)


def lif(tau: Any = 2 * DT, v_th: Any = 1.0, v_leak: Any = 0.0, v_reset: Any = 0.0) -> nir.LIF:
    """LIFBoxCell."""
    return nir.LIF(tau=full(tau), r=full(1), v_leak=full(v_leak), v_threshold=full(v_th), v_reset=full(v_reset))


def iaf(**values: Any) -> Callable[[], Any]:
    """An IAFCell."""
    return lambda: IAFCell(IAFParameters(**tensors(**values)), dt=DT)


def integrator(v_th: Any = 1.0, v_reset: Any = 0.0) -> nir.IF:
    """IAFCell."""
    return nir.IF(r=full(1), v_threshold=full(v_th), v_reset=full(v_reset))


LIF_VALUES = {"tau_syn_inv": 1 / (2 * DT), "tau_mem_inv": 1 / (2 * DT), "v_leak": 0.25, "v_th": 1.0, "v_reset": -0.25}
LIF_P = LIFParameters(**tensors(**LIF_VALUES))


def cuba(w_in: float = 2.0, r: float = 1.0, v_leak: float = 0.25, v_reset: float = -0.25) -> nir.CubaLIF:
    """LIFCell: an input adds its weight to the current, w_in = tau_syn / dt."""
    times = {"tau_syn": full(2 * DT), "tau_mem": full(2 * DT)}
    return nir.CubaLIF(
        **times, w_in=full(w_in), r=full(r), v_leak=full(v_leak), v_threshold=full(1), v_reset=full(v_reset)
    )


CASES = [
    case("IAFCell", iaf(v_th=1.0), integrator),
    case("IAFCell(per neuron, v_reset)", iaf(v_th=THRESHOLDS, v_reset=RESETS), lambda: integrator(THRESHOLDS, RESETS)),
    case("LIFBoxCell", box(v_th=1.0, v_leak=0.0, v_reset=0.0), lif),
    case("LIFBoxCell(v_leak)", box(v_th=1.0, v_leak=0.25, v_reset=0.0), lambda: lif(v_leak=0.25)),
    case(
        "LIFBoxCell(per neuron, v_leak, v_reset)",
        box(TAUS, v_th=THRESHOLDS, v_leak=LEAKS, v_reset=RESETS),
        lambda: lif(TAUS, THRESHOLDS, LEAKS, RESETS),
    ),
    case(
        "LIFBoxCell(tau=10 dt)",
        box(10 * DT, v_th=THRESHOLDS, v_leak=0.1, v_reset=-0.2),
        lambda: lif(10 * DT, THRESHOLDS, 0.1, -0.2),
    ),
    case("LIFCell(v_leak, v_reset)", lambda: LIFCell(LIF_P, dt=DT), cuba),
    case("LIFRecurrentCell(v_leak, v_reset)", lambda: LIFCell(LIF_P, dt=DT), cuba, loop=True),
]
