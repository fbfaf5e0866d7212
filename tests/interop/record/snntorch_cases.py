"""Networks of snnTorch 1.0.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import snntorch as snn
import torch
from snntorch.export_nir import export_to_nir
from snntorch.import_nir import import_from_nir

from record.case import NEURONS, Array, Case, Run, alternating, chain, full, recurrent_weight

DT = 1e-4
BETAS = alternating(0.5, 0.75)
THRESHOLDS = alternating(1.0, 1.5, 2.0)


def linear(weight: Array) -> torch.nn.Linear:
    """A Linear without bias of this weight."""
    module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    module.weight.data = torch.from_numpy(weight)
    return module


def steps(layers: list[Any], x: Array) -> Run:
    """Runs Linear, neuron, Linear, neuron step by step; every neuron has init_hidden and output."""
    for layer in layers[1::2]:
        layer.mem = torch.zeros(0)
    found: tuple[list[Any], ...] = ([], [], [], [])
    with torch.no_grad():
        for now in torch.from_numpy(x):
            for i in (0, 1):
                now, *state = layers[2 * i + 1](layers[2 * i](now))
                found[i].append(now.numpy().copy())
                found[2 + i].append(state[-1].numpy().copy())
    return Run([np.stack(f) for f in found[:2]], [np.stack(f) for f in found[2:]])


def loaded(graph: nir.NIRGraph, x: Array) -> Run:
    """Runs what the importer makes of a graph."""
    net = import_from_nir(graph)
    neurons = [module for module in net.modules() if isinstance(module, snn.SpikingNeuron)]
    found: list[Any] = []
    membranes: list[list[Any]] = [[] for _ in neurons]
    state = None
    with torch.no_grad():
        for now in torch.from_numpy(x):
            y, state = net(now, state)
            found.append((y[0] if isinstance(y, tuple) else y).numpy())
            for v, neuron in zip(membranes, neurons, strict=True):
                v.append(neuron.mem.numpy().copy())
    return Run([np.stack(found)], [np.stack(v) for v in membranes])


def case(
    name: str,
    neuron: Callable[[], Any],
    node: Callable[[], nir.NIRNode],
    recurrent: Callable[[], nir.NIRNode] | None = None,
    **changes: Any,
) -> Case:
    """The first population is the second without its recurrence."""

    def layers(w: list[Array]) -> list[Any]:
        first = leaky()() if recurrent else neuron()
        return [linear(w[0]), first, linear(w[1]), neuron()]

    def written(w: list[Array]) -> nir.NIRGraph:
        return chain(w, lif() if recurrent else node(), node(), recurrent and recurrent())

    def export(w: list[Array], x: Array) -> nir.NIRGraph:
        return export_to_nir(module(w), torch.from_numpy(x[0][:1]), ignore_dims=[0])

    def module(w: list[Array]) -> torch.nn.Module:
        made = layers(w)
        made[1].output = False
        return torch.nn.Sequential(*made)

    return Case("snntorch", name, DT, written, lambda w, x: steps(layers(w), x), export, loaded, changes, module)


def lif(beta: Any = 0.5, threshold: Any = 1.0) -> nir.LIF:
    """Leaky, whose input is multiplied by 1: r = tau / dt."""
    tau = (DT / (1 - full(beta).astype(np.float64))).astype(np.float32)
    return nir.LIF(tau=tau, r=tau / np.float32(DT), v_leak=full(0), v_threshold=full(threshold), v_reset=full(0))


def cuba(alpha: Any = 0.5, beta: Any = 0.5, threshold: Any = 1.0) -> nir.CubaLIF:
    """Synaptic."""
    tau, syn = ((DT / (1 - full(d).astype(np.float64))).astype(np.float32) for d in (beta, alpha))
    r, w_in = tau / np.float32(DT), syn / np.float32(DT)
    zero = full(0)
    return nir.CubaLIF(tau_mem=tau, tau_syn=syn, r=r, w_in=w_in, v_leak=zero, v_threshold=full(threshold), v_reset=zero)


def tensors(**values: Any) -> dict[str, Any]:
    """Vectors, which its exporter needs."""
    return {name: torch.from_numpy(full(value)) for name, value in values.items()}


def leaky(beta: Any = 0.5, threshold: Any = 1.0, **more: Any) -> Callable[[], Any]:
    """A Leaky layer."""
    return lambda: snn.Leaky(**tensors(beta=beta, threshold=threshold), init_hidden=True, output=True, **more)


def synaptic(**more: Any) -> Callable[[], Any]:
    """A Synaptic layer."""
    values = tensors(alpha=0.5, beta=0.5, threshold=1.0)
    return lambda: snn.Synaptic(**values, init_hidden=True, output=True, **more)


def recurrent(layer: Callable[..., Any], **values: Any) -> Callable[[], Any]:
    """An RLeaky or RSynaptic layer with all-to-all weights and a bias."""

    def build() -> Any:
        module = layer(**values, linear_features=NEURONS, init_hidden=True, output=True)
        module.recurrent.weight.data = torch.from_numpy(recurrent_weight())
        module.recurrent.bias.data = torch.full((NEURONS,), 0.125)
        return module

    return build


def loop() -> nir.Affine:
    """The weight and bias of `recurrent`."""
    return nir.Affine(recurrent_weight(), full(0.125))


NOW = {"reset_delay": 0}

CASES = [
    case("Leaky", leaky(), lif),
    case("Leaky(per neuron)", leaky(BETAS, THRESHOLDS), lambda: lif(BETAS, THRESHOLDS)),
    case("Leaky(beta=0.9)", leaky(0.9, THRESHOLDS), lambda: lif(0.9, THRESHOLDS)),
    case("Leaky(zero)", leaky(reset_mechanism="zero"), lif, reset="to-value"),
    case("Leaky(reset_delay=False)", leaky(reset_delay=False), lif, **NOW),
    case(
        "Leaky(zero, reset_delay=False)", leaky(reset_mechanism="zero", reset_delay=False), lif, reset="to-value", **NOW
    ),
    case("Synaptic", synaptic(), cuba),
    case("Synaptic(zero)", synaptic(reset_mechanism="zero"), cuba, reset="to-value"),
    case(
        "Synaptic(zero, reset_delay=False)",
        synaptic(reset_mechanism="zero", reset_delay=False),
        cuba,
        reset="to-value",
        **NOW,
    ),
    case("RLeaky", recurrent(snn.RLeaky, beta=0.5), lif, loop),
    case("RSynaptic", recurrent(snn.RSynaptic, alpha=0.5, beta=0.5), cuba, loop),
]
