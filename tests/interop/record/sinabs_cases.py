"""Networks of sinabs 3.1.3."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import sinabs.layers as sl
import torch
from sinabs.nir import from_nir, to_nir

from record.case import BATCH, STEPS, Array, Case, Run, alternating, chain, full, recurrent_weight
from record.snntorch_cases import linear

THRESHOLDS = alternating(1.0, 1.5, 2.0)
HALF, QUARTER = 1 / math.log(2), 1 / math.log(4)
"""Time constants in steps with a decay of 1/2 and 1/4."""


def steps(layers: list[Any], x: Array) -> Run:
    """Runs Linear, neuron, Linear, neuron; signals are [B, T, N] in sinabs."""
    now = torch.from_numpy(x).transpose(0, 1)
    spikes, membranes = [], []
    with torch.no_grad():
        for i in (0, 1):
            neuron = layers[2 * i + 1]
            neuron.record_states = True
            now = neuron(layers[2 * i](now))
            spikes.append(now.transpose(0, 1).numpy().copy())
            membranes.append(neuron.recordings["v_mem"].transpose(0, 1).numpy().copy())
    # Recurrent layers record the dict that the next step overwrites: its potential before the reset.
    told = not isinstance(layers[3], sl.LIFRecurrent)
    return Run(spikes, membranes if told else [])


def loaded(graph: nir.NIRGraph, x: Array) -> Run:
    """Runs what the importer makes of a graph; a loop is right only step by step."""
    net = from_nir(graph, batch_size=BATCH)
    loop = any(edge[0] == "back" for edge in graph.edges)
    batched = torch.from_numpy(x).transpose(0, 1)
    neurons = [module for module in net.modules() if isinstance(module, sl.LIF)]
    with torch.no_grad():
        if not loop:
            for neuron in neurons:
                neuron.record_states = True
            y = net(batched.reshape(BATCH * STEPS, -1))
            y = y[0] if isinstance(y, tuple) else y
            membranes = [neuron.recordings["v_mem"].transpose(0, 1).numpy().copy() for neuron in neurons]
            return Run([y.reshape(BATCH, STEPS, -1).transpose(0, 1).numpy()], membranes)
        found, state = [], None
        for now in torch.from_numpy(x):
            y, state = net(now, state)
            found.append(y.numpy().copy())
    return Run([np.stack(found)], [])


def case(
    name: str,
    neuron: Callable[[], Any],
    node: Callable[[], nir.NIRNode],
    loop: Callable[[torch.nn.Module], Any] | None = None,
    **changes: Any,
) -> Case:
    """A network of two equal populations; `loop` builds a recurrent second one."""

    def layers(w: list[Array]) -> list[Any]:
        second = loop(linear(recurrent_weight())) if loop else neuron()
        return [linear(w[0]), neuron(), linear(w[1]), second]

    def written(w: list[Array]) -> nir.NIRGraph:
        back = nir.Affine(recurrent_weight(), full(0)) if loop else None
        graph = chain(w, node(), node(), back)
        # Its importer has no map of Linear.
        for name, weight in zip(("linear1", "linear2"), w, strict=True):
            graph.nodes[name] = nir.Affine(weight, full(0))
        return graph

    def export(w: list[Array], x: Array) -> nir.NIRGraph:
        if loop:
            return to_nir(module(w), torch.from_numpy(x[:, :1]).transpose(0, 1))
        # The sample is [B * T, N], as the forms of its layers that its importer builds take it.
        made = torch.nn.Sequential(*map(squeezed, layers(w)))
        return to_nir(made, torch.from_numpy(x[:, 0]))

    def module(w: list[Array]) -> torch.nn.Module:
        return torch.nn.Sequential(*layers(w))

    return Case("sinabs", name, 1.0, written, lambda w, x: steps(layers(w), x), export, loaded, changes, module)


def squeezed(layer: Any) -> Any:
    """The layer that takes [B * T, N]."""
    form = {sl.IAF: sl.IAFSqueeze, sl.LIF: sl.LIFSqueeze}.get(type(layer))
    if form is None:
        return layer
    names = ("tau_mem", "tau_syn", "spike_threshold", "min_v_mem", "norm_input")
    values = {name: getattr(layer, name) for name in names if form is sl.LIFSqueeze or name[0] in "sm"}
    return form(batch_size=1, **values)


def tensors(**values: Any) -> dict[str, Any]:
    """Time constants and thresholds as [N] tensors: `nir.write` refuses scalars."""
    return {k: torch.from_numpy(full(v)) if k[:3] in ("tau", "spi") else v for k, v in values.items()}


def iaf(**values: Any) -> Callable[[], Any]:
    """An IAF layer."""
    return lambda: sl.IAF(**tensors(**values))


def lif(**values: Any) -> Callable[[], Any]:
    """A LIF layer."""
    return lambda: sl.LIF(**tensors(**{"spike_threshold": 1.0, **values}))


def integrator(threshold: Any = 1.0) -> nir.IF:
    """IAF."""
    return nir.IF(r=full(1), v_threshold=full(threshold), v_reset=full(0))


def leaky(tau: Any = HALF, threshold: Any = 1.0) -> nir.LIF:
    """LIF."""
    return nir.LIF(tau=full(tau), r=full(1), v_leak=full(0), v_threshold=full(threshold), v_reset=full(0))


def synaptic() -> nir.CubaLIF:
    """LIF with tau_syn."""
    times = {"tau_syn": full(HALF), "tau_mem": full(HALF)}
    return nir.CubaLIF(**times, w_in=full(1), r=full(1), v_leak=full(0), v_threshold=full(1), v_reset=full(0))


TAUS = alternating(HALF, QUARTER)

CASES = [
    case("IAF", iaf(), integrator),
    case("IAF(per neuron)", iaf(spike_threshold=THRESHOLDS), lambda: integrator(THRESHOLDS)),
    case("IAF(min_v_mem=-1)", iaf(min_v_mem=-1.0), integrator, clamp="IF:-threshold"),
    case("LIF", lif(tau_mem=HALF), leaky),
    case("LIF(per neuron)", lif(tau_mem=TAUS, spike_threshold=THRESHOLDS), lambda: leaky(TAUS, THRESHOLDS)),
    case("LIF(tau_mem=9.7)", lif(tau_mem=9.7, spike_threshold=THRESHOLDS), lambda: leaky(9.7, THRESHOLDS)),
    case("LIF(norm_input=False)", lif(tau_mem=HALF, norm_input=False), leaky, gain="IF:1, LIF:1"),
    case("LIF(tau_syn)", lif(tau_mem=HALF, tau_syn=HALF), synaptic),
    case("IAFRecurrent", iaf(), integrator, lambda back: sl.IAFRecurrent(rec_connect=back)),
    case(
        "LIFRecurrent",
        lif(tau_mem=HALF),
        leaky,
        lambda back: sl.LIFRecurrent(tau_mem=torch.from_numpy(full(HALF)), rec_connect=back),
    ),
]
