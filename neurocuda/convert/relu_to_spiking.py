"""From a network of rectifiers to a NIR graph of soft-reset neurons.

The rate of a neuron stands for an activation in units of its threshold: activation = theta * spikes per step.
Weights are rescaled so that every neuron has a threshold of 1: W' = W * theta_in / theta_out, b' = b / theta_out
(Diehl et al. 2015; Rueckauer et al. 2017), each branch of a sum from its own producer's theta.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import nir
import numpy as np

from neurocuda.convert.relu_network import in_order
from neurocuda.convert.tracing.max_pool import MAXIMUM
from neurocuda.errors import ArgumentError, raise_problems
from neurocuda.graph import WEIGHTED, Graph, Node, soft_resets
from neurocuda.graph.builder import build
from neurocuda.graph.model import align, fits

SPIKES = ".spikes"
"""What the name of a rectifier's threshold ends in; the rectifier's own name is the integrator's."""

_SCALED = WEIGHTED | {"Scale"}
_POOLS = frozenset({"AvgPool2d", "SumPool2d"})
_LAST = "\U0010ffff"


def spiking(
    graph: Graph,
    thresholds: Mapping[str, np.ndarray],
    *,
    dt: float = 1e-4,
    initial: float = 0.5,
    metadata: Mapping[str, object] | None = None,
) -> Graph:
    """The NIR graph whose rates approximate the activations of `graph`, a network of ReLU nodes.

    thresholds: theta of each ReLU > 0, aligned with the leading axes of its signal (one for each channel).
    initial: the membrane potential at the start, in units of theta, half of that where signals are compared for a
    maximum. Every ReLU becomes an integrator `name`
    with r = 1 / dt, `Threshold(1 - initial)` and `Scale(-1)` back: a soft reset. The Output is in the units
    of the network, its mean over time approximates what the network computes.
    """
    return _Writer(graph, thresholds, dt, initial).graph(metadata or {})


def as_rectifiers(graph: Graph) -> Graph:
    """The network of rectifiers that a graph from `spiking` stands for, in its units: each gives 0 to 1."""
    loops = soft_resets(graph)
    nodes = dict(graph.nodes)
    spikes = {loop.threshold: loop.integrator for loop in loops}
    gone = {loop.scale for loop in loops}
    for loop in loops:
        node = nodes[loop.integrator]
        nodes[node.name] = replace(node, type="ReLU", parameters={"cap": np.array(1.0)})
        del nodes[loop.threshold], nodes[loop.scale]
    edges = [(a, b) for a, b in graph.edges if b not in spikes and not {a, b} & gone]
    return replace(graph, nodes=nodes, edges=tuple((spikes.get(a, a), b) for a, b in edges))


def initial_potential(node: Node, initial: float = 0.5) -> float:
    """Where the neuron of a rectifier starts, in units of theta.

    Fluctuations of two signals alone make a neuron fire that compares them: it starts further from its threshold.
    """
    return initial / 2 if MAXIMUM in node.metadata else initial


class _Writer:
    """Writes the graph node by node. Units: what 1 of a node's signal stands for, aligned with the signal."""

    def __init__(self, graph: Graph, thresholds: Mapping[str, np.ndarray], dt: float, initial: float) -> None:
        self.source, self.dt, self.initial = graph, dt, initial
        self.into: dict[str, list[str]] = {name: [] for name in graph.nodes}
        self.out_of: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for a, b in graph.edges:
            self.into[b].append(a)
            self.out_of[a].append(b)
        self.thetas = {
            name: _aligned(_theta(name, thresholds), node.output_shape)
            for name, node in graph.nodes.items()
            if node.type == "ReLU"
        }
        self.wanted: dict[str, np.ndarray | None] = {}
        self.units: dict[str, np.ndarray] = {}
        self.fields: dict[str, dict[str, object]] = {}
        self.edges: list[tuple[str, str]] = []
        # The feedback must be the last term of the sum, whatever the modules are called.
        self.last = "~" if all(name < "~" for name in graph.nodes) else _LAST

    def graph(self, metadata: Mapping[str, object]) -> Graph:
        order = in_order(self.source)
        for name in reversed(order):
            self.wanted[name] = self._wants(self.source.nodes[name])
        for name in order:
            self._write(self.source.nodes[name])
        raw = {"type": "NIRGraph", "nodes": self.fields, "edges": self.edges, "metadata": dict(metadata)}
        graph, problems = build(raw, self.source.source, nir.version)
        raise_problems(problems, self.source.source)
        assert graph is not None
        return graph

    def _wants(self, node: Node) -> np.ndarray | None:
        """The units in which a node needs its input; None if it takes any."""
        if node.type == "ReLU":
            return self.thetas[node.name]
        if node.type == "Output":
            return _ones(node.input_shape)
        # A pool keeps what stands for a channel.
        return self._agreed(node) if node.type in _POOLS else None

    def _agreed(self, node: Node) -> np.ndarray | None:
        """The units that all who listen to a node want; None if they differ or take any."""
        wants = [self.wanted[target] for target in self.out_of[node.name]]
        first = wants[0] if wants else None
        if first is None or any(other is None or not _same(first, other) for other in wants[1:]):
            return None
        channelwise = first.ndim < 2 or first.size == first.shape[0]
        return first if channelwise or node.type in ("Affine", "Linear") else None

    def _write(self, node: Node) -> None:
        units = self._connect(node)
        fields: dict[str, object] = {"type": node.type, **node.parameters}
        if node.type == "ReLU":
            self._write_neuron(node)
            return
        if node.type in _SCALED:
            agreed = self._agreed(node)
            out = _ones(node.output_shape) if agreed is None else agreed
            fields |= _rescaled(node, units, out)
        elif node.type == "Flatten":
            full = np.broadcast_to(units, node.input_shape)
            out = units.reshape(1) if units.size == 1 else full.reshape(node.output_shape)
            out = out.reshape((1,) * len(node.output_shape)) if out.size == 1 else out
            fields |= {"input_type": np.array(node.input_shape)}
        elif node.type in _POOLS:
            out = units
        elif node.type in ("Input", "Output"):
            out = _ones(node.output_shape)
            fields |= {"shape": np.array(node.input_shape, np.int64)}
        else:
            known = "a network of rectifiers, convolutions, linear layers and pools"
            raise ArgumentError(f"node {node.name!r}: expected {known}, found {node.type}")
        if node.type in ("Conv1d", "Conv2d"):
            spatial = node.input_shape[1:]
            fields |= {"input_shape": spatial[0] if node.type == "Conv1d" else np.array(spatial)}
        self.units[node.name] = out
        self._add(node.name, fields)

    def _connect(self, node: Node) -> np.ndarray:
        """Bring all edges into a node to one unit, which is returned; where one differs, by a Scale."""
        sources = self.into[node.name]
        target = self.wanted[node.name]
        if target is None and sources:
            plain = [name for name in sources if self.source.nodes[name].type in _SCALED]
            target = self.units[(plain or sources)[0]]
        if target is None:
            return _ones(node.input_shape)
        for source in sources:
            if _same(self.units[source], target):
                self.edges.append((source + self._suffix(source), node.name))
                continue
            name = self._fresh(f"{node.name}.shortcut")
            scale = _collapsed(self.units[source] / target)
            self._add(name, {"type": "Scale", "scale": scale.astype(np.float32)})
            self.edges += [(source + self._suffix(source), name), (name, node.name)]
        return target

    def _suffix(self, source: str) -> str:
        return SPIKES if self.source.nodes[source].type == "ReLU" else ""

    def _write_neuron(self, node: Node) -> None:
        reset, spikes = f"{self.last}{node.name}.reset", node.name + SPIKES
        self.units[node.name] = self.thetas[node.name]
        self._add(node.name, {"type": "I", "r": np.array(1 / self.dt)})
        level = np.array(1 - initial_potential(node, self.initial), np.float32)
        self._add(spikes, {"type": "Threshold", "threshold": level})
        self._add(reset, {"type": "Scale", "scale": np.array(-1, np.float32)})
        self.edges += [(node.name, spikes), (spikes, reset), (reset, node.name)]

    def _fresh(self, name: str) -> str:
        number, free = 1, name
        while free in self.fields or free in self.source.nodes:
            number += 1
            free = f"{name}{number}"
        return free

    def _add(self, name: str, fields: dict[str, object]) -> None:
        if name in self.fields:
            raise ArgumentError(f"node {name!r}: expected names that do not end in {SPIKES!r}, found two nodes of it")
        self.fields[name] = fields


def _theta(name: str, thresholds: Mapping[str, np.ndarray]) -> np.ndarray:
    theta = np.asarray(thresholds[name], np.float64) if name in thresholds else np.zeros(0)
    if theta.size == 0 or not (np.isfinite(theta) & (theta > 0)).all():
        found = "none" if theta.size == 0 else f"values from {theta.min():.6g} to {theta.max():.6g}"
        raise ArgumentError(f"thresholds, node {name!r}: expected finite values > 0, found {found}")
    return theta


def _rescaled(node: Node, into: np.ndarray, out: np.ndarray) -> dict[str, object]:
    """The weights of a node that takes and gives other units."""
    if node.type == "Scale":
        scale = _aligned(node.array("scale"), node.input_shape) * into / out
        return {"scale": _collapsed(scale).astype(np.float32)}
    weight = node.array("weight").astype(np.float64)
    result: dict[str, object] = {}
    if node.type in ("Affine", "Linear"):
        rows = np.broadcast_to(out, node.output_shape)
        weight = weight * np.broadcast_to(into, node.input_shape)[..., None, :] / rows[..., :, None]
    else:
        channels, groups = _of_channels(node, into, node.input_shape), node.number("groups")
        rows = _of_channels(node, out, node.output_shape)
        each = channels.reshape(groups, 1, -1).repeat(len(rows) // groups, 1).reshape(len(rows), -1)
        axes = (..., *[None] * (weight.ndim - 2))
        weight = weight * each[axes] / rows[:, None][axes]
    result["weight"] = weight.astype(np.float32)
    if "bias" in node.parameters:
        result["bias"] = (np.broadcast_to(node.array("bias"), rows.shape) / rows).astype(np.float32)
    return result


def _of_channels(node: Node, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if units.size not in (1, units.shape[0]):
        raise ArgumentError(f"node {node.name!r}: expected units of its channels, found units of shape {units.shape}")
    return np.broadcast_to(units.reshape(-1), (shape[0],))


def _ones(shape: tuple[int, ...]) -> np.ndarray:
    return np.ones((1,) * len(shape))


def _aligned(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.size == 1:
        return values.reshape((1,) * len(shape))
    if not fits(values, shape):
        raise ArgumentError(f"thresholds: expected a shape that fits a signal {shape}, found {values.shape}")
    return align(values, len(shape))


def _collapsed(values: np.ndarray) -> np.ndarray:
    """Without the trailing axes of size 1, which a parameter need not have."""
    shape = values.shape
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return values.reshape(shape)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a == b).all())
