"""Networks of Spyx 1.0.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import nir
import numpy as np
from flax import nnx
from spyx import nn
from spyx.nir import from_nir, to_nir

from record.case import INPUTS, NEURONS, Array, Case, Run, alternating, chain, full, recurrent_weight

BETAS = alternating(0.5, 0.75)
THRESHOLDS = alternating(1.0, 1.5, 2.0)


def steps(layers: list[Any], x: Array) -> Run:
    """Runs Linear, neuron, Linear, neuron step by step, each operation by itself."""
    found: tuple[list[Any], ...] = ([], [], [], [])
    states = [layer.initial_state(x.shape[1]) for layer in layers[1::2]]
    with jax.disable_jit():
        for step in x:
            now = jnp.asarray(step)
            for i in (0, 1):
                layer = layers[2 * i + 1]
                now, states[i] = layer(layers[2 * i](now), states[i])
                found[i].append(np.asarray(now))
                found[2 + i].append(potential(layer, states[i]))
    return Run([np.stack(f) for f in found[:2]], [np.stack(f) for f in found[2:]])


def potential(layer: Any, state: Any) -> Array:
    """The membrane potential of a state. CuBaLIF stores that before the reset, which the next step does first."""
    v = np.asarray(state)
    if not isinstance(layer, nn.CuBaLIF | nn.RCuBaLIF):
        return v
    v = v[..., :NEURONS]
    return v - (v > np.asarray(layer.threshold)) * np.asarray(layer.threshold, dtype=np.float32)


def loaded(graph: nir.NIRGraph, x: Array) -> Run:
    """Runs what the importer makes of a graph."""
    net, (y, states) = from_nir(graph, jnp.asarray(x), dt=1, return_all_states=True)
    pairs = [(layer, s) for layer, s in zip(net.layers, states, strict=True) if s is not None]
    return Run([np.asarray(y)], [potential(layer, s) for layer, s in pairs])


def linear(weight: Array) -> nnx.Linear:
    """A Linear without bias of this weight."""
    module = nnx.Linear(weight.shape[1], weight.shape[0], use_bias=False, rngs=nnx.Rngs(0))
    module.kernel[...] = jnp.asarray(weight.T)
    return module


def case(
    name: str,
    neuron: Callable[[], Any],
    node: Callable[[], nir.NIRNode],
    first: tuple[Callable[[], Any], Callable[[], nir.NIRNode]] | None = None,
) -> Case:
    """A network of two equal populations; `first` is the first one of a network with a recurrent second one."""

    def layers(w: list[Array]) -> list[Any]:
        return [linear(w[0]), first[0]() if first else neuron(), linear(w[1]), neuron()]

    def written(w: list[Array]) -> nir.NIRGraph:
        back = nir.Linear(recurrent_weight()) if first else None
        # Its importer does not return from a loop round IF that is not nested.
        return chain(w, first[1]() if first else node(), node(), back, nested=True)

    def export(w: list[Array], x: Array) -> nir.NIRGraph:
        shapes = {"input": np.array([INPUTS])}, {"output": np.array([NEURONS])}
        return to_nir(nn.Sequential(*layers(w)), *shapes, dt=1)

    return Case("spyx", name, 1.0, written, lambda w, x: steps(layers(w), x), export, loaded)


def made(layer: Callable[..., Any], threshold: Any = 1.0, **decays: Any) -> Callable[[], Any]:
    """A layer with these decays, each one for all neurons or [N]."""

    def build() -> Any:
        module = layer((NEURONS,), threshold=threshold, rngs=nnx.Rngs(0))
        for name, value in decays.items():
            getattr(module, name)[...] = jnp.asarray(full(value))
        if hasattr(module, "recurrent_w"):
            module.recurrent_w[...] = jnp.asarray(recurrent_weight().T)
        return module

    return build


def integrator(threshold: Any = 1.0) -> nir.IF:
    """IF."""
    return nir.IF(r=full(1), v_threshold=full(threshold), v_reset=full(0))


def lif(beta: Any = 0.5, threshold: Any = 1.0) -> nir.LIF:
    """LIF, whose input is multiplied by 1: r = tau."""
    tau = 1 / (1 - full(beta))
    return nir.LIF(tau=tau, r=tau, v_leak=full(0), v_threshold=full(threshold), v_reset=full(0))


def cuba(threshold: Any = 1.0) -> nir.CubaLIF:
    """CuBaLIF."""
    times = {"tau_syn": full(2), "tau_mem": full(2), "r": full(2), "w_in": full(2)}
    return nir.CubaLIF(**times, v_leak=full(0), v_threshold=full(threshold), v_reset=full(0))


IF, LIF, CUBA = made(nn.IF), made(nn.LIF, beta=0.5), made(nn.CuBaLIF, alpha=0.5, beta=0.5)

CASES = [
    case("IF", IF, integrator),
    case("IF(per neuron)", made(nn.IF, THRESHOLDS), lambda: integrator(THRESHOLDS)),
    case("LIF", LIF, lif),
    case("LIF(per neuron)", made(nn.LIF, THRESHOLDS, beta=BETAS), lambda: lif(BETAS, THRESHOLDS)),
    case("LIF(beta=0.9)", made(nn.LIF, THRESHOLDS, beta=0.9), lambda: lif(0.9, THRESHOLDS)),
    case("CuBaLIF", CUBA, cuba),
    case("RIF", made(nn.RIF), integrator, (IF, integrator)),
    case("RLIF", made(nn.RLIF, beta=0.5), lif, (LIF, lif)),
    case("RCuBaLIF", made(nn.RCuBaLIF, alpha=0.5, beta=0.5), cuba, (CUBA, cuba)),
]
