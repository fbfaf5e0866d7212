"""The float32 coefficients of neurons, and delays in time steps, under a discretization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocuda.discretization.settings import Discretization
from neurocuda.graph import Node, align
from neurocuda.ops.coefficients import NeuronCoefficients


def coefficients(node: Node, p: Mapping[str, Tensor], d: Discretization) -> NeuronCoefficients:
    """The float32 coefficients of a neuron from its parameters `p`, float64, aligned with the signal.

    Computed in float64 and rounded once. With euler g(tau) = dt / tau, with exponential 1 - exp(-dt / tau);
    decay = 1 - g; the gain of a membrane is r g, of a synapse w_in g, of IF and I r dt (or r).
    """
    synapse: dict[str, Tensor] = {}
    if node.primitive.is_leaky:
        decay_v, gain = _decay_and_gain(p["tau_mem" if "tau_mem" in p else "tau"], d)
        gain_v, bias_v = p["r"] * gain, p["v_leak"] * gain
    else:
        decay_v = torch.ones_like(p["r"])
        gain_v = p["r"] * d.dt if d.if_gain == "r*dt" else p["r"]
        bias_v = torch.zeros_like(p["r"])
    if "tau_syn" in p:
        decay_i, gain = _decay_and_gain(p["tau_syn"], d)
        synapse = {"decay_i": decay_i.float(), "gain_i": (p["w_in"] * gain).float()}
    firing: dict[str, Tensor] = {}
    if node.primitive.is_spiking:
        firing = {"threshold": p["v_threshold"].float(), "v_reset": p["v_reset"].float()}
        if d.clamp != "none":
            firing["v_min"] = -firing["threshold"] if d.clamp == "-threshold" else torch.zeros_like(firing["threshold"])
    return NeuronCoefficients(
        decay_v=decay_v.float(),
        gain_v=gain_v.float(),
        bias_v=bias_v.float(),
        **synapse,
        **firing,
        spike_when=d.spike_when,
        reset=d.reset,
        synapse=d.synapse,
        spikes_per_step=d.spikes_per_step,
        reset_delay=d.reset_delay if node.primitive.is_spiking else 0,
    )


def coefficients_together(
    nodes: Mapping[str, Node], parameters: Mapping[str, Mapping[str, Tensor]], d: Discretization
) -> dict[str, NeuronCoefficients]:
    """`coefficients` of several neurons by name, with few operations: on a GPU their number is the cost.

    Neurons of one type whose parameters are one value each are computed side by side.
    """
    result: dict[str, NeuronCoefficients] = {}
    alike: dict[str, list[str]] = {}
    for name, p in parameters.items():
        if all(value.numel() == 1 for value in p.values()):
            alike.setdefault(nodes[name].type, []).append(name)
        else:
            result[name] = coefficients(nodes[name], p, d)
    for names in alike.values():
        first = parameters[names[0]]
        rows = {field: torch.cat([parameters[name][field].flatten() for name in names]) for field in first}
        of_all = coefficients(nodes[names[0]], rows, d)
        for place, name in enumerate(names):
            shape = next(iter(parameters[name].values())).shape
            values = {field.name: getattr(of_all, field.name) for field in fields(of_all)}
            own: dict[str, Any] = {
                field: value[place].reshape(shape) for field, value in values.items() if isinstance(value, Tensor)
            }
            result[name] = replace(of_all, **own)
    return result


def _decay_and_gain(tau: Tensor, d: Discretization) -> tuple[Tensor, Tensor]:
    if d.integrator == "euler":
        gain = d.dt / tau
        return 1 - gain, gain
    decay = torch.exp(-d.dt / tau)
    return decay, 1 - decay


def neuron_parameters(node: Node) -> dict[str, Tensor]:
    """The parameters of a neuron as float64, aligned with its signal."""
    rank = len(node.input_shape)
    return {name: torch.from_numpy(align(node.array(name), rank).astype(np.float64)) for name in node.parameters}


def delay_steps(node: Node, d: Discretization) -> Tensor:
    """The delay of each element in steps, int64, aligned with the signal: quotient by dt, half to even."""
    quotient = np.rint(align(node.array("delay"), len(node.input_shape)).astype(np.float64) / d.dt)
    return torch.from_numpy(quotient.astype(np.int64))
