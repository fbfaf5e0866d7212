"""Proves of each layer and pool of a graph that its sum is the same in any order, or says why it is not.

Grids and bounds are followed from the inputs through the graph (`grids`). A spiking neuron emits 0 or 1 whatever its
membrane does, so that a layer after one is exact by its own weights alone. Sums into nodes and updates of neurons have
one defined order and need no proof. Nothing is measured and nothing assumed but the promise on the inputs, which the
executor checks: the proof may miss what is exact, and never takes for exact what is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from neurocuda.compiler import grids
from neurocuda.compiler.certificate import Certificate, Integers, Proof
from neurocuda.compiler.grids import LEAST, MOST, Grid, InputGrid, Sum
from neurocuda.compiler.schedule import Edge, Schedule, schedule
from neurocuda.discretization.coefficients import coefficients, neuron_parameters
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError
from neurocuda.graph import NEURONS, SPIKING, WEIGHTED, Graph, Node, align

_SUMS = WEIGHTED | {"SumPool2d", "AvgPool2d"}

_IDENTITIES = frozenset({"Output", "Identity"})

_MOST_SPIKES = 2**20
"""Of a neuron in a step: up to here a rounding of its potential adds less than one."""

InputGrids = InputGrid | Mapping[str, InputGrid]


def certify(
    graph: Graph,
    discretization: Discretization | None = None,
    *,
    input_grid: InputGrids | None = None,
    steps: int | None = None,
) -> Certificate:
    """The certificate of a graph.

    input_grid: what the inputs are promised to be, one for all or by name; whole numbers 0 .. 255 without. steps: the
    most steps of a run, which bounds the membranes of I neurons that are summed; without, those are not on a grid.
    Raises `ArgumentError`.
    """
    d = Discretization() if discretization is None else discretization
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        raise ArgumentError(f"steps: expected a whole number >= 1, found {steps!r}")
    return Search(graph, d, promised(graph, input_grid), steps).certificate()


def promised(graph: Graph, input_grid: InputGrids | None) -> dict[str, InputGrid]:
    """The grid of each Input by name."""
    if input_grid is None or isinstance(input_grid, InputGrid):
        return dict.fromkeys(graph.inputs, input_grid or InputGrid())
    if not isinstance(input_grid, Mapping) or not all(isinstance(g, InputGrid) for g in input_grid.values()):
        raise ArgumentError(f"input_grid: expected an InputGrid, or a dict of them by input, found {input_grid!r}")
    unknown = sorted(set(input_grid) - set(graph.inputs))
    if unknown:
        raise ArgumentError(f"input_grid: expected the inputs {list(graph.inputs)}, found {unknown}")
    return {name: input_grid.get(name, InputGrid()) for name in graph.inputs}


@dataclass(frozen=True)
class Lost:
    """A signal that is on no grid: the node that lost it, why, what would keep it; its size where that is known."""

    node: str
    reason: str
    remedy: str
    bounds: Grid | None = None


Signal = Grid | Lost


class Search:
    """Goes through a graph in the order of its schedule; what a cycle brings is known where spikes are.

    `signals` holds what it has found of each node. `replaced` gives the node that is to stand for another, once it is
    known what that sums.
    """

    def __init__(
        self,
        graph: Graph,
        d: Discretization,
        inputs: Mapping[str, InputGrid],
        steps: int | None,
        replaced: Callable[[Node, Grid], Node] | None = None,
    ) -> None:
        self.graph, self.d, self.inputs, self.steps, self.replaced = graph, d, inputs, steps, replaced
        self.signals: dict[str, Signal] = {}
        self.proofs: list[Proof] = []
        self.kept: set[str] = set()  # signals that rest on the promise on inputs of earlier steps
        for name, node in graph.nodes.items():
            if node.type == "Threshold" or (node.type in SPIKING and d.spikes_per_step == "one"):
                self.signals[name] = grids.constant(_channels(node.output_shape), 0, 0.0, 1.0)

    def certificate(self) -> Certificate:
        plan: Schedule = schedule(self.graph, self.d)
        order = [name for stage in plan.stages for name in stage.nodes]
        waiting = [name for name in order if name not in self.signals]
        # Cycles may come to rest on spikes only after a node that the schedule has first.
        while waiting:
            left = [name for name in waiting if not self._visit(self.graph.nodes[name], plan.edges[name])]
            if len(left) == len(waiting):
                for name in left:
                    self._lose(self.graph.nodes[name])
                break
            waiting = left
        self.proofs.sort(key=lambda proof: order.index(proof.node))
        return Certificate(self.graph.source, tuple(self.proofs), self.inputs, self.steps)

    def _lose(self, node: Node) -> None:
        lost = Lost(
            _name(node),
            "what it gives comes back to it without bound",
            "a spiking neuron in the cycle bounds it",
        )
        self.signals[node.name] = lost
        if node.type in _SUMS:
            self.proofs.append(_not_exact(node, lost))

    def _visit(self, node: Node, edges: tuple[Edge, ...]) -> bool:
        """Follow the grid through a node; False while something that it reads is not known."""
        if node.type == "Input" and node.name in self.inputs:
            promise = self.inputs[node.name]
            channels = _channels(node.output_shape)
            self.signals[node.name] = grids.constant(
                channels, promise.exponent, promise.low, promise.high, frozenset({node.name})
            )
            return True
        arriving: list[Grid] = []
        whole = True
        for edge in edges:
            signal = self.signals.get(edge.source)
            if signal is None:
                return False
            if isinstance(signal, Lost) and node.type in SPIKING and signal.bounds is not None:
                signal, whole = signal.bounds, False
            if isinstance(signal, Lost):
                self.signals[node.name] = replace(signal, bounds=None)
                if node.type in _SUMS:
                    self.proofs.append(_not_exact(node, signal))
                return True
            arriving.append(signal.with_zero() if edge.delayed else signal)
            if edge.source in self.kept or (edge.delayed and signal.inputs):
                self.kept.add(node.name)
        total = grids.add(arriving, _channels(node.input_shape))
        if total.grid.inputs and (node.type == "Delay" or node.type in NEURONS):
            self.kept.add(node.name)
        if node.type in SPIKING:  # many spikes a step: what is left after a reset is below the threshold
            self.signals[node.name] = self._spike_counts(node, total.grid if whole and total.exact else total.rounded)
            return True
        if not total.exact:
            lost = Lost(
                _name(node),
                f"the sum of its branches may reach {_steps(total)} steps of 2^{total.grid.coarsest}",
                "2^24 are held: fewer or coarser branches",
            )
            self.signals[node.name] = lost
            if node.type in _SUMS:
                self.proofs.append(_not_exact(node, lost))
            return True
        self.signals[node.name] = self._through(node, total.grid)
        return True

    def _through(self, node: Node, x: Grid) -> Signal:
        """What a node gives for a sum on the grid x."""
        node = node if self.replaced is None else self.replaced(node, x)
        if node.type in WEIGHTED:
            return self._layer(node, x)
        if node.type in ("SumPool2d", "AvgPool2d"):
            return self._pool(node, x)
        if node.type in NEURONS:
            return self._neuron(node, x)
        if node.type == "Scale":
            total = grids.scaled(x, align(node.array("scale"), len(node.input_shape)))
            remedy = "a scale of a power of two, or of few bits, keeps the grid"
            return (
                total.grid if total.exact else Lost(_name(node), "it takes its signal off the grid", remedy, total.grid)
            )
        if node.type == "Flatten":
            return grids.flattened(x, _channels(node.output_shape))
        if node.type == "Delay":
            return x.with_zero()
        if node.type in _IDENTITIES:
            return x
        return Lost(_name(node), "no rule says what values it gives", "a primitive that the certificate knows")

    def _layer(self, node: Node, x: Grid) -> Signal:
        total = _layer_sum(node, x)
        weights = _whole_weights(node)
        signal_bits = _bits(x.low.min(), x.high.max(), x.coarsest)
        weight_bits = None if weights is None else int(weights[1]).bit_length() + 1
        proof = Proof(node.name, node.type, total.exact, total.steps_used, signal_bits, weight_bits, x.inputs)
        if total.exact:
            whole = signal_bits is not None and signal_bits <= 8 and x.low.min() >= 0
            plain = len(node.input_shape) == len(_AXES[node.type]) and node.name not in self.kept
            if whole and plain and weights is not None and weights[1] <= 127 and _are_floats(x.coarsest, weights[0]):
                proof = replace(proof, integers=Integers(x.coarsest, weights[0]))
            self.proofs.append(proof)
            return total.grid
        lost = _too_fine(node, total, weight_bits)
        self.proofs.append(replace(proof, reason=lost.reason, remedy=lost.remedy))
        return lost

    def _pool(self, node: Node, x: Grid) -> Signal:
        area = math.prod(node.numbers("kernel_size"))
        total = grids.pool(x, area, any(node.numbers("padding")))
        bits = _bits(x.low.min(), x.high.max(), x.coarsest)
        proof = Proof(node.name, node.type, total.exact, total.steps_used, bits, None, x.inputs)
        if not total.exact:
            remedy = "2^24 are held: a smaller window, or fewer bits"
            lost = Lost(_name(node), f"its sum may reach {_steps(total)} steps", remedy, total.rounded)
            self.proofs.append(replace(proof, reason=lost.reason, remedy=lost.remedy))
            return lost
        self.proofs.append(proof)
        if node.type == "SumPool2d":
            return total.grid
        mean = grids.divided(total.grid, area)
        remedy = "SumPool2d with 1/area in the next weights keeps it, as neurocuda.quantize writes it"
        return mean or Lost(_name(node), f"it divides by {area}", remedy, x)

    def _neuron(self, node: Node, x: Grid) -> Signal:
        if node.type != "I":
            return Lost(_name(node), "it gives a potential that decays", "a spiking neuron gives 0 or 1")
        remedy = "certify(..., steps=) bounds it, or a Threshold in its place"
        if self.steps is None:
            return Lost(_name(node), "it gives a potential that grows with time", remedy)
        gain = grids.scaled(x, coefficients(node, neuron_parameters(node), self.d).gain_v.numpy())
        longest = replace(gain, magnitude=gain.magnitude * self.steps)
        if not (gain.exact and longest.exact):
            return Lost(_name(node), f"it may reach {_steps(longest)} steps of its grid in {self.steps} steps", remedy)
        low, high = gain.grid.low, gain.grid.high
        return replace(gain.grid, low=np.minimum(low * self.steps, low), high=np.maximum(high * self.steps, high))

    def _spike_counts(self, node: Node, x: Grid) -> Signal:
        c = coefficients(node, neuron_parameters(node), self.d)
        assert c.threshold is not None
        decays = bool((c.decay_v >= 0).all()) and bool((c.decay_v <= 1).all())
        plain = c.decay_i is None and decays and bool((c.bias_v <= 0).all()) and bool((c.threshold > 0).all())
        gained = float(c.gain_v.abs().max()) * float(x.magnitude.max())
        most = gained / float(c.threshold.min()) + 2 if plain else math.inf  # one for what was left, one for rounding
        if most > _MOST_SPIKES:
            return Lost(_name(node), "it may fire any number of spikes in a step", "spikes_per_step='one'")
        most = math.floor(most)
        return grids.constant(_channels(node.output_shape), 0, 0.0, float(most), x.inputs)


_AXES = {"Affine": "x", "Linear": "x", "Conv1d": "cx", "Conv2d": "cyx"}


def _channels(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def _name(node: Node) -> str:
    return f"node {node.name!r} ({node.type})"


def _steps(total: Sum) -> str:
    return f"2^{math.log2(max(total.steps_used, 1)):.1f}"


def _not_exact(node: Node, lost: Lost) -> Proof:
    return Proof(
        node.name,
        node.type,
        False,
        reason=f"what it sums is on no grid since {lost.node}: {lost.reason}",
        remedy=lost.remedy,
    )


def _too_fine(node: Node, total: Sum, weight_bits: int | None) -> Lost:
    bits = "more than 24" if weight_bits is None else str(weight_bits)
    reason = f"{bits} bits a weight, its sum may reach {_steps(total)} steps of 2^{int(total.step.min())}"
    remedy = "2^24 are held: neurocuda.quantize(graph, bits=8)"
    if weight_bits is not None and weight_bits <= 8:
        remedy = "2^24 are held: fewer bits of the signal or the bias, or a smaller fan-in"
    return Lost(_name(node), reason, remedy, total.rounded)


def _are_floats(signal_step: int, weight_steps: tuple[int, ...]) -> bool:
    """Whether the steps of the weights and of the products are normal numbers."""
    least, most = min(weight_steps), max(weight_steps)
    return min(least, signal_step + least) >= LEAST and signal_step + most <= -LEAST


def _bits(low: float, high: float, step: int) -> int | None:
    """Bits of whole numbers from low to high in steps of 2^step, with a sign where there is one."""
    largest = math.ldexp(max(abs(low), abs(high)), -step)
    return None if largest > MOST else int(largest).bit_length() + (1 if low < 0 else 0)


def _layer_sum(node: Node, x: Grid) -> Sum:
    weight = node.array("weight")
    bias = node.array("bias") if "bias" in node.parameters else None
    if node.type in ("Affine", "Linear"):
        if weight.ndim > 2:
            return grids.matrices(weight, bias, x)
        return grids.layer(weight[:, :, None], bias, x)
    padding = node.parameters["padding"]
    padded = padding == "same" or (isinstance(padding, tuple) and any(padding))
    x = x.with_zero() if padded else x
    return grids.layer(weight.reshape(*weight.shape[:2], -1), bias, x, node.number("groups"))


def _whole_weights(node: Node) -> tuple[tuple[int, ...], int] | None:
    """The weights as whole numbers: a step for each output channel, and the largest of all; None above 24 bits."""
    weight = node.array("weight").astype(np.float32)
    rows = (
        weight.reshape(weight.shape[0], -1)
        if node.type in ("Conv1d", "Conv2d")
        else weight.reshape(-1, weight.shape[-1])
    )
    steps = grids.lowest_bits(rows).min(1)
    largest = np.abs(rows).max(1).astype(np.float64)
    steps = np.where(largest == 0, 0, steps)
    numbers = np.ldexp(largest, -steps)
    return (tuple(int(step) for step in steps), int(numbers.max())) if numbers.max() <= MOST else None
