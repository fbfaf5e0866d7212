"""Networks of Rockpool 3.1.0."""

from __future__ import annotations

import math
from typing import Any

import nir
import numpy as np
import torch
from rockpool.nn.combinators import Sequential
from rockpool.nn.modules import LIFTorch, LinearTorch
from rockpool.nn.modules.torch.nir import from_nir, to_nir

from record.case import NEURONS, Array, Case, Run, alternating, chain, full, recurrent_weight

DT = 1e-3
HALF, QUARTER = DT / math.log(2), DT / math.log(4)
"""Time constants in seconds with a decay of 1/2 and 1/4."""
THRESHOLDS = alternating(1.0, 1.5, 2.0)


def steps(layers: list[Any], x: Array) -> Run:
    """Runs Linear, neuron, Linear, neuron; signals are [B, T, N] in Rockpool."""
    now = torch.from_numpy(x).transpose(0, 1)
    spikes, membranes = [], []
    with torch.no_grad():
        for i in (0, 1):
            now, _, _ = layers[2 * i](now)
            now, _, recorded = layers[2 * i + 1](now, record=True)
            spikes.append(now.transpose(0, 1).numpy().copy())
            membranes.append(recorded["vmem"].transpose(0, 1).numpy().copy())
    return Run(spikes, membranes)


def loaded(graph: nir.NIRGraph, x: Array) -> Run:
    """Runs what the importer makes of a graph."""
    net = from_nir(graph)
    with torch.no_grad():
        y = net(torch.from_numpy(x).transpose(0, 1))
    y = y[0] if isinstance(y, tuple) else y
    return Run([y.transpose(0, 1).numpy()], [])


def linear(weight: Array) -> Any:
    """A Linear without bias of this weight."""
    return LinearTorch(weight.shape[::-1], weight=torch.from_numpy(weight.T.copy()), has_bias=False)


def case(name: str, tau_mem: Any = HALF, threshold: Any = 1.0, bias: Any = 0.0, loop: bool = False) -> Case:
    """A network of two populations of LIFTorch; with `loop` the second is recurrent."""

    def neuron(loop: bool = False) -> Any:
        values = {"tau_mem": tau_mem, "tau_syn": HALF, "threshold": threshold, "bias": bias}
        more = {"has_rec": True, "w_rec": torch.from_numpy(recurrent_weight().T.copy())} if loop else {}
        tensors = {name: torch.from_numpy(full(value)) for name, value in values.items()}
        tensors["tau_syn"] = tensors["tau_syn"][:, None]
        return LIFTorch((NEURONS, NEURONS), **tensors, dt=DT, **more)

    def layers(w: list[Array]) -> list[Any]:
        return [linear(w[0]), neuron(), linear(w[1]), neuron(loop)]

    def node() -> nir.CubaLIF:
        """r such that the importer finds dt = tau_mem / (1 + r); v_leak such that v_leak * g is the bias."""
        g = 1 - np.exp(-DT / full(tau_mem).astype(np.float64))
        return nir.CubaLIF(
            tau_mem=full(tau_mem),
            tau_syn=full(HALF),
            r=full(tau_mem) / np.float32(DT) - 1,
            w_in=full(1),
            v_leak=full(full(bias) / g),
            v_threshold=full(threshold),
            v_reset=full(0),
        )

    def written(w: list[Array]) -> nir.NIRGraph:
        return chain(w, node(), node(), nir.Linear(recurrent_weight()) if loop else None, nested=True)

    def export(w: list[Array], x: Array) -> nir.NIRGraph:
        return to_nir(Sequential(*layers(w)))

    return Case("rockpool", name, DT, written, lambda w, x: steps(layers(w), x), export, loaded)


CASES = [
    case("LIFTorch"),
    case("LIFTorch(per neuron)", alternating(HALF, QUARTER), THRESHOLDS),
    case("LIFTorch(tau_mem=9.7 ms)", 9.7e-3, THRESHOLDS),
    case("LIFTorch(bias=0.125)", bias=0.125),
    case("LIFTorch(has_rec)", loop=True),
]
