"""The float32 coefficients of neurons, and delays in time steps, under a discretization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocuda.discretization.settings import Discretization
from neurocuda.graph import Node, align
from neurocuda.graph.fields import Unfit, describe, float32
from neurocuda.ops.coefficients import NeuronCoefficients

INITIAL_V = "neurocuda.initial_v"
"""The key of a neuron's metadata for its membrane potential before the first step: a number, or aligned values."""

_LARGEST = torch.finfo(torch.float32).max


def coefficients(node: Node, p: Mapping[str, Tensor], d: Discretization) -> NeuronCoefficients:
    """The float32 coefficients of a neuron from its parameters `p`, float64, aligned with the signal.

    Computed in float64 and rounded once. With euler g(tau) = dt / tau, with exponential 1 - exp(-dt / tau), of IF and I
    dt; decay = 1 - g; with the gains of NIR the gain of a membrane is r g, of a synapse w_in g.
    """
    synapse: dict[str, Tensor] = {}
    if node.primitive.is_leaky:
        decay_v, g = _decay_and_gain(p["tau_mem" if "tau_mem" in p else "tau"], d)
        gain_v = _gain(d.gain_of(_class_of(node, p)), p["r"], g, decay_v)
        bias_v = p["v_leak"] * g
    else:
        decay_v = torch.ones_like(p["r"])
        gain_v = _gain(d.gain_of("IF"), p["r"], torch.full_like(p["r"], d.dt), decay_v)
        bias_v = torch.zeros_like(p["r"])
    if "tau_syn" in p:
        decay_i, g = _decay_and_gain(p["tau_syn"], d)
        gain_i = _gain(d.gain_of("synapse"), p["w_in"], g, decay_i)
        synapse = {"decay_i": decay_i.float(), "gain_i": gain_i.float()}
    firing: dict[str, Tensor] = {}
    if node.primitive.is_spiking:
        # An infinite threshold never fires. The largest float32 does neither, and stays finite when it is subtracted.
        threshold = torch.where(p["v_threshold"] == math.inf, _LARGEST, p["v_threshold"]).float()
        firing = {"threshold": threshold, "v_reset": _reset_value(p, d).float()}
        clamp = d.clamp_of(_class_of(node, p))
        if clamp != "none":
            firing["v_min"] = -threshold if clamp == "-threshold" else torch.zeros_like(threshold)
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
        reset_delay=d.reset_delay_of(_class_of(node, p)) if node.primitive.is_spiking else 0,
    )


def _class_of(node: Node, p: Mapping[str, Tensor]) -> str:
    """The class of a neuron, for fields of a Discretization by class."""
    return ("CubaLIF" if "tau_syn" in p else "LIF") if node.primitive.is_leaky else "IF"


def _gain(choice: str, factor: Tensor, g: Tensor, decay: Tensor) -> Tensor:
    """The gain of an input; factor: r of a membrane, w_in of a synapse."""
    if choice in ("r", "w_in"):
        return factor
    if choice in ("r*g", "w_in*g"):
        return factor * g
    return {"g": g, "decay": decay, "1": torch.ones_like(g)}[choice]


def _reset_value(p: Mapping[str, Tensor], d: Discretization) -> Tensor:
    return p["v_reset"] if d.reset_to == "v_reset" else torch.zeros_like(p["v_reset"])


def initial_potential(node: Node, p: Mapping[str, Tensor], d: Discretization) -> Tensor | None:
    """The membrane potential of a neuron before the first step, float32, aligned with the signal; None: zero.

    `INITIAL_V` in the metadata of the node takes precedence over the Discretization.
    """
    if INITIAL_V in node.metadata:
        return stated_potential(node).to(p["r"].device)
    start = d.initial_state_of(_class_of(node, p))
    if start == "v_reset" and node.primitive.is_spiking:
        return _reset_value(p, d).float()
    if start == "v_leak" and node.primitive.is_leaky:
        return p["v_leak"].float()
    return None


def stated_potential(node: Node) -> Tensor:
    """The membrane potential that a neuron's metadata state, float32, aligned with the signal.

    Raises `Unfit` unless it is finite in float32 and fits the signal.
    """
    value, rank = float32(node.metadata[INITIAL_V]), len(node.input_shape)
    shape = align(value, rank).shape if value.ndim <= rank or value.size == 1 else None
    if shape is None or any(own not in (1, size) for own, size in zip(shape, node.input_shape, strict=True)):
        raise Unfit(f"a number, or numbers that fit {node.input_shape}", describe(value))
    return torch.from_numpy(align(value, rank).astype(np.float32))


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
