"""`quantize`: weights of few bits on power-of-two grids, so that the sums of a graph are exact in any order.

Each output channel has its own scale: a weight is a small integer times a power of two. Biases and the amounts that
resets subtract are put on grids that fit these sums. Average pools become sum pools, with the division in the weights
after them. The result is ordinary NIR.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import nir
import numpy as np

from neurocuda.compiler import grids
from neurocuda.compiler.certificate import Certificate
from neurocuda.compiler.exactness import InputGrids, Search, certify, promised
from neurocuda.compiler.grids import HIGHEST, LEAST, MOST, Grid, InputGrid, Sum
from neurocuda.compiler.range_rules import channels, weighted_sum
from neurocuda.discretization.coefficients import coefficients, neuron_parameters
from neurocuda.discretization.metadata import restated, settled
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, check_integer
from neurocuda.graph import Graph, Node, SoftReset, align, from_nir, soft_resets, table
from neurocuda.graph.model import collapse
from neurocuda.graph.primitives import MAY_BE_INFINITE, SIGNAL_PARAMETERS
from neurocuda.quantization.fold_pools import with_sums
from neurocuda.quantization.rounding import near, on_grid, on_step, steps_of

BITS = range(2, 9)
"""Bits that a weight can have, with its sign; 8 at most, for int8 units."""

QUANTIZED = "quantized"
"""The key of a graph's metadata for its bits, and the step and bounds of each input."""

_LEFT = (8, 24)
"""Bits of a sum's 24 that a bias leaves free, for sums over branches and time steps and for the next weights.

The second is tried if the first is not enough; with it no bias is finer than its sum.
"""

_FINER = 8
"""The most bits by which a bias is finer than the sum of the weights."""


_INPUT_BITS = 10
"""The most bits of samples whose own grid is used."""


@dataclass(frozen=True)
class Change:
    """How an array of a node was rounded.

    low, high: exponents to base 2 of the finest and the coarsest spacing of its channels. largest: the largest change
    of a value. relative: the root mean square of all changes, divided by that of the values.
    """

    node: str
    field: str
    low: int
    high: int
    largest: float
    relative: float


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, and the changes. Its text is a table.

    inputs: the grid that each Input must be on; the caller has to round to it. certificate: which sums are exact.
    notes: one line for each average pool.
    """

    graph: Graph
    bits: int
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    inputs: Mapping[str, InputGrid]
    certificate: Certificate

    def __str__(self) -> str:
        rows = [("node", "field", "steps", "largest change", "relative")]
        for c in self.changes:
            steps = f"2^{c.low}" if c.low == c.high else f"2^{c.low} .. 2^{c.high}"
            rows.append((c.node, c.field, steps, f"{c.largest:.3g}", f"{100 * c.relative:.2g} %"))
        lines = [f"{self.graph.source}: weights of {self.bits} bits"]
        lines += [f"  input {name!r} has to be {grid}" for name, grid in self.inputs.items()]
        lines += [f"  {line}" for line in table(rows)]
        lines += [f"  {note}" for note in self.notes]
        first = self.certificate.first
        lines.append(self.certificate.summary)
        return "\n".join(lines if first is None else [*lines, f"not exact, first {first}"])


def quantize(
    graph: Graph | nir.NIRGraph,
    bits: int = 8,
    *,
    input_grid: InputGrids | None = None,
    discretization: Discretization | None = None,
    steps: int | None = None,
) -> Quantized:
    """Rounds the weights of a graph to `bits` bits, so that its sums are exact in any order.

    Weights of layers and scales become k * 2^e, |k| < 2^(bits - 1), with one e for each output channel, that of the
    least squared error; where a sum would exceed 2^24 spacings, k has fewer bits. Biases, and the amounts that
    the resets of IF and of soft resets (I, Threshold and Scale in a cycle) subtract, become multiples of spacings that
    keep sums and potentials exact. AvgPool2d becomes SumPool2d where the next weights can take the division. All else
    is unchanged; the input graph is not modified.

    Args:
        graph: The graph.
        bits: Bits of a weight with its sign, 2 to 8.
        input_grid: The grid of the inputs, one for all or by name. Default: the integers 0 .. 255.
        discretization: As the graph will run. Default: that of the file, else `Discretization()`.
        steps: The most time steps of a run (see `certify`). Default: unknown.

    Returns:
        The quantized graph with its certificate.

    Raises:
        ArgumentError: An argument does not fit.
        GraphError: A nir.NIRGraph has no meaning.

    Example:
        >>> import neurocuda, nir, numpy as np
        >>> one = np.ones(2, np.float32)
        >>> nodes = {"x": nir.Input(np.array([2])), "w": nir.Linear(np.array([[0.3, 0.5], [0.2, 0.1]], np.float32)),
        ...          "n": nir.IF(r=one, v_threshold=one), "y": nir.Output(np.array([2]))}
        >>> graph = nir.NIRGraph(nodes, [("x", "w"), ("w", "n"), ("n", "y")])
        >>> neurocuda.quantize(graph, bits=4).certificate.exact
        True
    """
    checked_bits("bits", bits)
    if not isinstance(graph, Graph | nir.NIRGraph):
        raise ArgumentError(f"graph: expected a Graph or a nir.NIRGraph, found {type(graph).__name__}")
    graph = from_nir(graph) if isinstance(graph, nir.NIRGraph) else graph
    d = settled(graph, discretization)
    inputs = promised(graph, input_grid)
    _check_finite(graph)
    summed, notes = with_sums(graph)
    about = {"bits": bits, "inputs": {name: [grid.step, grid.low, grid.high] for name, grid in inputs.items()}}
    found: list[Quantized] = []
    for left in _LEFT:
        nodes = _Rounder(summed, d, inputs, steps, bits, left).nodes()
        result = replace(graph, nodes=nodes, metadata={**restated(graph, d), QUANTIZED: about})
        certificate = certify(result, d, input_grid=inputs, steps=steps)
        found.append(Quantized(result, bits, _changes(summed, result), notes, inputs, certificate))
        if certificate.exact:
            return found[-1]
    return max(found, key=lambda quantized: sum(proof.exact for proof in quantized.certificate.proofs))


def input_grid(samples: Sequence[np.ndarray], bits: int = 8) -> InputGrid:
    """The grid of an input: that of the samples, if they are on one of few bits, else one of `bits` bits and a sign.

    The step is 2^-bits of the power of two that no sample exceeds, and the bounds reach up to that power.
    """
    arrays = [np.asarray(array, np.float32) for array in samples]
    low = min((float(array.min()) for array in arrays if array.size), default=0.0)
    high = max((float(array.max()) for array in arrays if array.size), default=0.0)
    most = max(abs(low), abs(high))
    if most == 0:
        return InputGrid()
    mantissa, exponent = np.frexp(most)
    power = int(exponent) - int(mantissa == 0.5)  # the least 2^power >= most
    own = min(int(grids.lowest_bits(array).min()) for array in arrays if array.size)
    step = own if own >= power - _INPUT_BITS else max(power - bits, LEAST)
    most = max(most, 2.0**power - 2.0**step)
    return InputGrid(2.0**step, -most if low < 0 else 0.0, most if high > 0 else 0.0)


def checked_bits(name: str, bits: object) -> int:
    """The value of an argument that is a number of bits of weights. Raises `ArgumentError`."""
    return check_integer(name, bits, BITS[0], BITS[-1])


def _arrays(graph: Graph) -> Iterator[tuple[Node, str, np.ndarray]]:
    """The real arrays of a graph, each with its node and field."""
    for node in graph.nodes.values():
        for field, value in node.parameters.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                yield node, field, value


def _check_finite(graph: Graph) -> None:
    for node, field, value in _arrays(graph):
        with np.errstate(over="ignore"):
            single = value.astype(np.float32) if node.primitive.weight_field else value
        wrong = ~np.isfinite(single) & ~((single == np.inf) & (field in MAY_BE_INFINITE))
        if wrong.any():
            found = value[wrong].flat[0]
            raise ArgumentError(
                f"graph, node {node.name!r}, field {field!r}: expected finite float32 numbers, found {found}"
            )


class _Rounder:
    """Rounds each layer when the range analysis knows the grid of its input."""

    def __init__(
        self,
        graph: Graph,
        d: Discretization,
        inputs: Mapping[str, InputGrid],
        steps: int | None,
        bits: int,
        left: int,
    ) -> None:
        self.graph, self.d, self.bits, self.left = graph, d, bits, left
        self.search = Search(graph, d, inputs, steps, self._replaced)
        self.loops = soft_resets(graph)
        self.resets = {loop.scale for loop in self.loops}
        self.rounded: dict[str, Node] = {}

    def nodes(self) -> dict[str, Node]:
        """All nodes, rounded."""
        self.search.certificate()
        for name, node in self.graph.nodes.items():
            if node.primitive.weight_field and name not in self.rounded and name not in self.resets:
                self.rounded[name] = _rounded(node, self.bits, self.left, None)
        for loop in self.loops:
            self.rounded |= self._loop(loop)
        for name, node in self.graph.nodes.items():
            if node.primitive.is_spiking and not node.primitive.is_leaky:
                self.rounded[name] = self._fire(node)
        return {**self.graph.nodes, **self.rounded}

    def _replaced(self, node: Node, x: Grid) -> Node:
        if node.primitive.weight_field and node.name not in self.resets:
            node = self.rounded[node.name] = _rounded(node, self.bits, self.left, x)
        return node

    def _arriving(self, name: str, without: str | None = None) -> Grid | None:
        """The grid of the sum into a node, None where one of its terms is on none."""
        signals = [self.search.signals.get(a) for a in self.graph.sources[name] if a != without]
        parts = [signal for signal in signals if isinstance(signal, Grid)]
        return (
            grids.add(parts, channels(self.graph.nodes[name].input_shape)).grid if len(parts) == len(signals) else None
        )

    def _potential(self, node: Node, x: Grid | None) -> np.ndarray | None:
        """The exponent of the spacing of an integrator's potential by channel, None where a product is rounded."""
        if x is None:
            return None
        gained = grids.scaled(x, coefficients(node, neuron_parameters(node), self.d).gain_v.numpy())
        return gained.step if gained.exact else None

    def _loop(self, loop: SoftReset) -> dict[str, Node]:
        """A soft reset with its subtracted amount on the input's grid, and its threshold on the potential's."""
        node, back, level = (self.graph.nodes[name] for name in (loop.integrator, loop.scale, loop.threshold))
        x = self._arriving(loop.integrator, without=loop.scale)
        off = near(back.array("scale"), len(back.input_shape), self.bits, None if x is None else x.step)
        nodes = {loop.scale: _with(back, "scale", off.astype(np.float32))}
        if x is not None:
            x = replace(x, step=np.minimum(x.step, steps_of(off, x.step.size)))
        step = self._potential(node, x)
        if step is not None:
            nodes[loop.threshold] = self._level(level, "threshold", step)
        return nodes

    def _fire(self, node: Node) -> Node:
        """An IF whose reset and lower bound keep the potential on the grid of its input, if it can have one."""
        step = self._potential(node, self._arriving(node.name))
        if step is None:
            return node
        fields = ["v_reset"] if self.d.reset == "to-value" else ["v_threshold"]
        if self.d.clamp_of("IF") == "-threshold" and self.d.reset == "to-value":
            fields.append("v_threshold")
        if not all(np.isfinite(node.array(field)).all() for field in fields):
            return node  # an infinite threshold is never reached
        for field in fields:
            values = near(node.array(field), len(node.input_shape), self.bits, step)
            step = np.minimum(step, steps_of(values, step.size))
            node = _with(node, field, values)
        return self._level(node, "v_threshold", step)

    def _level(self, node: Node, field: str, step: np.ndarray) -> Node:
        """A threshold moved to a multiple of the potential's spacing, at which the same potentials fire."""
        rank = len(node.input_shape)
        level = align(node.array(field), rank).astype(np.float32).astype(np.float64)
        spread = step.reshape(-1, *(1,) * (rank - 1)) if rank else step.reshape(())
        usual = np.floor if self.d.spike_when == "above" else np.ceil
        with np.errstate(over="ignore", invalid="ignore"):
            moved = np.ldexp(usual(np.ldexp(level, -spread)), spread)
            fits = (np.abs(np.ldexp(level, -spread)) <= MOST) & (spread >= LEAST)
        return _with(node, field, np.where(fits, moved, level))


def _with(node: Node, field: str, value: np.ndarray) -> Node:
    """A node with another value of a parameter; the same node if it is equal."""
    value = collapse(value, len(node.input_shape))
    old = node.array(field)
    if old.shape == value.shape and (old == value).all():
        return node
    value = value.astype(np.result_type(old.dtype, np.float32))  # float32 represents all values on a grid
    return replace(node, parameters={**node.parameters, field: value})


def _rounded(node: Node, bits: int, left: int, x: Grid | None) -> Node:
    """A layer or a Scale with weights of at most so many bits, for an input on the grid x, if x is not None.

    left: bits of the sum that the bias leaves free.
    """
    field = node.primitive.weight_field
    assert field is not None
    array = node.array(field).astype(np.float64)
    if field == "scale":
        array = align(array, len(node.input_shape))
        array = np.broadcast_to(array, (*node.input_shape[:1], *array.shape[1:]))
    rows = array.reshape(array.shape[0] if array.ndim else 1, -1)
    bias = _bias_rows(node, len(rows))
    largest = np.abs(bias).max(1)
    found = on_grid(rows, bits)

    def total() -> Sum | None:
        """The sum with the weights found so far, without the bias."""
        return None if x is None else weighted_sum(node, found.reshape(array.shape), None, x)

    for fewer in range(bits - 1, BITS[0] - 1, -1):
        over = _over(total(), largest)
        if not over.any():
            break
        found = np.where(over[:, None], on_grid(rows, fewer), found)
    last = total()
    if last is not None and not _over(last, largest).any():
        bias = on_step(bias, _bias_steps(last, largest, left))
    else:  # no number of bits helps
        found = on_grid(rows, bits)
    fresh: dict[str, np.ndarray] = {field: found.reshape(array.shape)}
    if field == "scale":
        fresh[field] = collapse(fresh[field], len(node.input_shape))
    if "bias" in node.parameters:
        single = node.array("bias").size == 1 and bool((bias == bias[0, 0]).all())
        fresh["bias"] = bias[:1, :1].reshape(node.array("bias").shape) if single else bias.reshape(node.bias_shape)
    return replace(node, parameters={**node.parameters, **{name: v.astype(np.float32) for name, v in fresh.items()}})


def _bias_rows(node: Node, rows: int) -> np.ndarray:
    """The biases beside the rows of the weights, zero where there is none."""
    if "bias" not in node.parameters:
        return np.zeros((rows, 1))
    bias = node.array("bias").astype(np.float64)
    return np.broadcast_to(bias.reshape(()) if bias.size == 1 else bias, node.bias_shape).reshape(rows, -1)


def _over(total: Sum | None, largest: np.ndarray) -> np.ndarray:
    """Which rows may exceed 2^24 spacings of their sum, with biases of at most `largest`."""
    if total is None:
        return np.zeros(len(largest), bool)
    with np.errstate(over="ignore"):
        step = np.ldexp(1.0, total.step)
    over: np.ndarray = total.magnitude + np.where(largest > 0, largest + step, 0) > MOST * step
    return over


def _bias_steps(total: Sum, largest: np.ndarray, left: int) -> np.ndarray:
    """The exponent of the spacing of each row's biases: that of the sum, or finer if that leaves so many bits."""
    power = np.frexp(total.magnitude + largest)[1].astype(np.int64)  # no magnitude exceeds 2^power
    finest = np.maximum(power - (24 - left), total.step - _FINER)
    finest = np.where(total.step > HIGHEST, power - 16, finest)  # a row of zeros
    steps: np.ndarray = np.maximum(np.minimum(total.step, finest), LEAST)
    return steps


def _changes(before: Graph, after: Graph) -> tuple[Change, ...]:
    """The changes of each array of a layer, and of the arrays of other nodes that were rounded."""
    found = []
    for node, field, value in _arrays(after):
        old = before.nodes[node.name].array(field).astype(np.float64)
        new = value.astype(np.float64)
        if field in SIGNAL_PARAMETERS:
            old, new = (align(array, len(node.input_shape)) for array in (old, new))
        if not node.primitive.is_weighted and old.shape == new.shape and (old == new).all():
            continue
        moved, size = np.abs(new - old), np.broadcast_to(old, np.broadcast_shapes(old.shape, new.shape))
        scale = float(np.sqrt((size**2).mean()))
        relative = float(np.sqrt((moved**2).mean())) / scale if scale else 0.0
        steps = steps_of(new.astype(np.float32), new.shape[0] if new.ndim else 1)
        steps = steps[steps <= HIGHEST] if (steps <= HIGHEST).any() else np.zeros(1, np.int64)
        found.append(Change(node.name, field, int(steps.min()), int(steps.max()), float(moved.max()), relative))
    return tuple(found)
