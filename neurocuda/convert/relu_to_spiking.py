"""Converts a network of ReLU nodes to a NIR graph of soft-reset neurons.

The firing rate of a neuron is the activation in units of its threshold: activation = theta * spikes per step.
Weights are rescaled so that every neuron has a threshold of 1: W' = W * theta_in / theta_out, b' = b / theta_out
(Diehl et al. 2015; Rueckauer et al. 2017), each branch of a sum from its own producer's theta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import nir
import numpy as np

from neurocuda.compiler.schedule import in_order
from neurocuda.convert.relu_network import SUPPORTED, operand
from neurocuda.convert.tracing.max_pool import MAXIMUM
from neurocuda.errors import ArgumentError, raise_problems
from neurocuda.graph import PRIMITIVES, Graph, Node, SoftReset, align, complete
from neurocuda.graph.builder import build
from neurocuda.graph.patterns import replaced
from neurocuda.graph.shape_rules import fits

SPIKES = ".spikes"
"""The suffix of the name of a rectifier's threshold; the integrator has the name of the rectifier."""

_LAST = "\U0010ffff"


def spiking(
    graph: Graph,
    thresholds: Mapping[str, np.ndarray],
    *,
    dt: float = 1e-4,
    initial: float = 0.5,
) -> Graph:
    """The NIR graph whose firing rates approximate the activations of `graph`, a network of ReLU nodes.

    Every ReLU becomes a soft reset: an integrator of its name with r = 1 / dt, `Threshold(1 - initial)`, and
    `Scale(-1)` as feedback. The Output is in the units of the network, whose output its mean over time approximates.

    thresholds: theta > 0 of each ReLU, aligned with the leading axes of its signal (one for each channel). initial: the
    membrane potential at the start, in units of theta; half of that in a maximum of two signals. dt: seconds.
    """
    return _Writer(graph, thresholds, dt, initial).graph()


def as_rectifiers(graph: Graph) -> Graph:
    """The network of ReLU nodes that a graph from `spiking` approximates, in its units: activations from 0 to 1."""

    def rectifier(loop: SoftReset) -> Node:
        return replace(graph.nodes[loop.integrator], type="ReLU", parameters={"cap": np.array(1.0)})

    return replaced(graph, rectifier)


def initial_potential(node: Node, initial: float = 0.5) -> float:
    """The membrane potential of a rectifier's neuron at the start, in units of theta.

    A neuron that compares two signals for a maximum starts lower, since their fluctuations alone make it fire.
    """
    return initial / 2 if MAXIMUM in node.metadata else initial


class _Writer:
    """Writes the graph node by node. Units: the activation that a value of 1 represents, aligned with the signal."""

    def __init__(self, graph: Graph, thresholds: Mapping[str, np.ndarray], dt: float, initial: float) -> None:
        self.source, self.dt, self.initial = graph, dt, initial
        self.thetas = {
            name: _theta(node, thresholds) for name, node in graph.nodes.items() if node.primitive.is_rectifier
        }
        self.required: dict[str, np.ndarray | None] = {}
        self.units: dict[str, np.ndarray] = {}
        self.fields: dict[str, dict[str, object]] = {}
        self.edges: list[tuple[str, str]] = []
        # The feedback must be the last term of the sum, whatever the modules are called.
        self.last = "~" if all(name < "~" for name in graph.nodes) else _LAST

    def graph(self) -> Graph:
        order = in_order(self.source.nodes, self.source.edges)
        for name in reversed(order):
            self.required[name] = self._requires(self.source.nodes[name])
        for name in order:
            self._write(self.source.nodes[name])
        raw = {"type": "NIRGraph", "nodes": self.fields, "edges": self.edges}
        graph, problems = build(raw, self.source.source, nir.version)
        raise_problems(problems, self.source.source)
        assert graph is not None
        return graph

    def _requires(self, node: Node) -> np.ndarray | None:
        """The units that a node requires of its input; None if it accepts any."""
        if node.primitive.is_rectifier:
            return self.thetas[node.name]
        if node.primitive.is_terminal:
            return _ones(node.input_shape)
        # A pool does not change the units.
        return self._agreed(node) if node.primitive.is_pool else None

    def _agreed(self, node: Node) -> np.ndarray | None:
        """The units that all targets of a node require; None if they differ or accept any."""
        units = [self.required[target] for target in self.source.targets[node.name]]
        first = units[0] if units else None
        if first is None or any(other is None or not _same(first, other) for other in units[1:]):
            return None
        channelwise = first.ndim < 2 or first.size == first.shape[0]
        return first if channelwise or node.primitive.is_matrix else None

    def _write(self, node: Node) -> None:
        units = self._connect(node)
        rule = _WRITE.get(node.type)
        if rule is None:
            known = "a network of rectifiers, convolutions, linear layers and pools"
            raise ArgumentError(f"node {node.name!r}: expected {known}, found {node.type}")
        self.units[node.name] = rule(self, node, units)

    def _terminal(self, node: Node, units: np.ndarray) -> np.ndarray:
        self._copy(node)
        return _ones(node.output_shape)

    def _weighted(self, node: Node, units: np.ndarray) -> np.ndarray:
        agreed = self._agreed(node)
        out = _ones(node.output_shape) if agreed is None else agreed
        self._copy(node, _rescaled(node, units, out))
        return out

    def _pool(self, node: Node, units: np.ndarray) -> np.ndarray:
        self._copy(node)
        return units

    def _flatten(self, node: Node, units: np.ndarray) -> np.ndarray:
        self._copy(node)
        if units.size == 1:
            return units.reshape((1,) * len(node.output_shape))
        return np.broadcast_to(units, node.input_shape).reshape(node.output_shape)

    def _rectifier(self, node: Node, units: np.ndarray) -> np.ndarray:
        reset, spikes = f"{self.last}{node.name}.reset", node.name + SPIKES
        self._add(node.name, {"type": "I", "r": np.array(1 / self.dt)})
        level = np.array(1 - initial_potential(node, self.initial), np.float32)
        self._add(spikes, {"type": "Threshold", "threshold": level})
        self._add(reset, {"type": "Scale", "scale": np.array(-1, np.float32)})
        self.edges += [(node.name, spikes), (spikes, reset), (reset, node.name)]
        return self.thetas[node.name]

    def _copy(self, node: Node, changed: Mapping[str, object] | None = None) -> None:
        self._add(node.name, {"type": node.type, **node.parameters, **node.shape_fields, **(changed or {})})

    def _connect(self, node: Node) -> np.ndarray:
        """Connect the sources of a node in the same units, by a Scale where they differ; returns these units."""
        sources = self.source.sources[node.name]
        target = self.required[node.name]
        if target is None and sources:
            plain = [name for name in sources if self.source.nodes[name].primitive.weight_field]
            target = self.units[(plain or sources)[0]]
        if target is None:
            return _ones(node.input_shape)
        for source in sources:
            if _same(self.units[source], target):
                self.edges.append((source + self._suffix(source), node.name))
                continue
            name = self._fresh(f"{node.name}.shortcut")
            scale = (self.units[source] / target).astype(np.float32)
            self._add(name, {"type": "Scale", "scale": scale})
            self.edges += [(source + self._suffix(source), name), (name, node.name)]
        return target

    def _suffix(self, source: str) -> str:
        return SPIKES if self.source.nodes[source].primitive.is_rectifier else ""

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


_Rule = Callable[[_Writer, Node, np.ndarray], np.ndarray]
"""Writes a node that takes these units, and returns the units of its output."""

_WRITE: Mapping[str, _Rule] = complete(
    {
        "Input": _Writer._terminal,
        "Output": _Writer._terminal,
        "ReLU": _Writer._rectifier,
        "Affine": _Writer._weighted,
        "Linear": _Writer._weighted,
        "Conv1d": _Writer._weighted,
        "Conv2d": _Writer._weighted,
        "Scale": _Writer._weighted,
        "AvgPool2d": _Writer._pool,
        "SumPool2d": _Writer._pool,
        "Flatten": _Writer._flatten,
    },
    "neurocuda/convert/relu_to_spiking.py, _WRITE",
    {"Input": PRIMITIVES["Input"], **SUPPORTED},
)


def _theta(node: Node, thresholds: Mapping[str, np.ndarray]) -> np.ndarray:
    """The threshold of a ReLU, float64, aligned with its signal. Raises `ArgumentError`."""
    name, shape = node.name, node.output_shape
    theta = np.asarray(thresholds[name], np.float64) if name in thresholds else np.zeros(0)
    if theta.size == 0 or not (np.isfinite(theta) & (theta > 0)).all():
        found = "none" if theta.size == 0 else f"values from {theta.min():.6g} to {theta.max():.6g}"
        raise ArgumentError(f"thresholds, node {name!r}: expected finite values > 0, found {found}")
    if theta.size == 1:
        return theta.reshape((1,) * len(shape))
    if not fits(theta, shape):
        raise ArgumentError(f"thresholds: expected a shape that fits a signal {shape}, found {theta.shape}")
    return align(theta, len(shape))


def _rescaled(node: Node, into: np.ndarray, out: np.ndarray) -> dict[str, object]:
    """The weights of a node for other units of its input and output."""
    if node.primitive.weight_field == "scale":
        return {"scale": (operand(node, "scale").astype(np.float64) * into / out).astype(np.float32)}
    weight = node.array("weight").astype(np.float64)
    result: dict[str, object] = {}
    if node.primitive.is_matrix:
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


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a == b).all())
