"""`RANGE_RULES`: the grid and bounds of each primitive's output, and whether its own sum is exact.

A primitive without a rule is not proved: its output is on no grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from neurocuda.compiler import grids
from neurocuda.compiler.certificate import Integers, Proof
from neurocuda.compiler.grids import LEAST, MOST, Grid, Sum
from neurocuda.discretization.coefficients import coefficients, initial_potential, neuron_parameters
from neurocuda.discretization.settings import Discretization
from neurocuda.graph import Node, align, complete

_MOST_SPIKES = 2**20
"""The most spikes of a neuron in a step for which rounding of its potential adds less than one."""


@dataclass(frozen=True)
class Lost:
    """A signal that is on no grid: the node that lost it, why, what would keep it; its bounds where they are known."""

    node: str
    reason: str
    remedy: str
    bounds: Grid | None = None


Signal = Grid | Lost


@dataclass(frozen=True)
class Context:
    """steps: the most steps of a run, None if unknown. from_state: the input depends on inputs of earlier steps."""

    d: Discretization
    steps: int | None
    from_state: bool


Rule = Callable[[Node, Grid, Context], tuple[Signal, Proof | None]]
"""Computes the signal of a node from the grid of its input sum, and of a layer or pool the proof."""


def follow(node: Node, x: Grid, context: Context) -> tuple[Signal, Proof | None]:
    """The signal of a node for an input sum on the grid x, and of a layer or pool the proof of its sum."""
    rule = RANGE_RULES.get(node.type)
    if rule is None:
        return Lost(title(node), "it has no range rule", "a primitive with a range rule"), None
    return rule(node, x, context)


def lost_sum(node: Node, total: Sum) -> Lost:
    """The sum of the edges into a node, where that is not exact."""
    reason = f"the sum of its branches may reach {_steps(total)} steps of 2^{total.grid.coarsest}"
    return Lost(title(node), reason, "float32 represents 2^24: fewer or coarser branches")


def title(node: Node) -> str:
    return f"node {node.name!r} ({node.type})"


def channels(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def weighted_sum(node: Node, weight: np.ndarray, bias: np.ndarray | None, x: Grid) -> Sum:
    """The sum of a matrix, a convolution or a Scale with these weights."""
    if node.primitive.weight_field == "scale":
        return grids.scaled(x, weight)
    if node.primitive.is_convolution:
        padding = node.parameters["padding"]
        padded = padding == "same" or (isinstance(padding, tuple) and any(padding))
        x = x.with_zero() if padded else x
        return grids.layer(weight.reshape(*weight.shape[:2], -1), bias, x, node.number("groups"))
    if weight.ndim > 2:
        return grids.matrices(weight, bias, x)
    return grids.layer(weight[:, :, None], bias, x)


def _same(node: Node, x: Grid, context: Context) -> tuple[Signal, None]:
    return x, None


def _flatten(node: Node, x: Grid, context: Context) -> tuple[Signal, None]:
    return grids.flattened(x, channels(node.output_shape)), None


def _delay(node: Node, x: Grid, context: Context) -> tuple[Signal, None]:
    return x.with_zero(), None


def _scale(node: Node, x: Grid, context: Context) -> tuple[Signal, None]:
    total = grids.scaled(x, align(node.array("scale"), len(node.input_shape)))
    if total.exact:
        return total.grid, None
    remedy = "a scale of a power of two, or of few bits, keeps the grid"
    return Lost(title(node), "it takes its signal off the grid", remedy, total.grid), None


def _layer(node: Node, x: Grid, context: Context) -> tuple[Signal, Proof]:
    bias = node.array("bias") if "bias" in node.parameters else None
    total = weighted_sum(node, node.array("weight"), bias, x)
    weights = _integer_weights(node)
    signal_bits = _bits(x.low.min(), x.high.max(), x.coarsest)
    weight_bits = None if weights is None else int(weights[1]).bit_length() + 1
    proof = Proof(node.name, node.type, total.exact, total.steps_used, signal_bits, weight_bits, x.inputs)
    if not total.exact:
        return _lost(proof, _too_fine(node, total, weight_bits))
    bytes_ = signal_bits is not None and signal_bits <= 8 and x.low.min() >= 0
    batched = node.primitive.is_matrix and len(node.input_shape) > 1
    if bytes_ and not batched and not context.from_state and weights is not None and weights[1] <= 127:
        spacings = weights[0]
        if _are_normal(x.coarsest, spacings):
            proof = replace(proof, integers=Integers(x.coarsest, spacings))
    return total.grid, proof


def _pool(node: Node, x: Grid, context: Context) -> tuple[Signal, Proof]:
    area = math.prod(node.numbers("kernel_size"))
    total = grids.pool(x, area, any(node.numbers("padding")))
    bits = _bits(x.low.min(), x.high.max(), x.coarsest)
    proof = Proof(node.name, node.type, total.exact, total.steps_used, bits, None, x.inputs)
    if not total.exact:
        remedy = "float32 represents 2^24: a smaller window, or fewer bits"
        return _lost(proof, Lost(title(node), f"its sum may reach {_steps(total)} steps", remedy, total.rounded))
    if not node.primitive.averages:
        return total.grid, proof
    remedy = "SumPool2d with 1/area in the next weights keeps it, as neurocuda.quantize writes it"
    return grids.divided(total.grid, area) or Lost(title(node), f"it divides by {area}", remedy, x), proof


def _lost(proof: Proof, lost: Lost) -> tuple[Lost, Proof]:
    return lost, replace(proof, reason=lost.reason, remedy=lost.remedy)


def _leaky(node: Node, x: Grid, context: Context) -> tuple[Signal, None]:
    return Lost(title(node), "it outputs a potential that decays", "a spiking neuron outputs 0 or 1"), None


def _integrator(node: Node, x: Grid, context: Context) -> tuple[Signal, None]:
    remedy, steps = "certify(..., steps=) bounds it, or a Threshold in its place", context.steps
    if steps is None:
        return Lost(title(node), "it outputs a potential that grows with time", remedy), None
    p = neuron_parameters(node)
    start = initial_potential(node, p, context.d)
    if start is not None and start.any():
        return Lost(title(node), "it starts at a potential other than zero", "an initial potential of zero"), None
    gain = grids.scaled(x, coefficients(node, p, context.d).gain_v.numpy())
    longest = replace(gain, magnitude=gain.magnitude * steps)
    if not (gain.exact and longest.exact):
        reason = f"it may reach {_steps(longest)} steps of its grid in {steps} steps"
        return Lost(title(node), reason, remedy), None
    low, high = gain.grid.low, gain.grid.high
    return replace(gain.grid, low=np.minimum(low * steps, low), high=np.maximum(high * steps, high)), None


def _threshold(node: Node, x: Grid, context: Context) -> tuple[Signal, None]:
    return grids.constant(channels(node.output_shape), 0, 0.0, 1.0), None


def _spikes(node: Node, x: Grid, context: Context) -> tuple[Signal, None]:
    """0 or 1; with many spikes per step, a bound of their count, since a reset leaves less than the threshold."""
    if context.d.spikes_per_step == "one":
        return _threshold(node, x, context)
    p = neuron_parameters(node)
    c, start = coefficients(node, p, context.d), initial_potential(node, p, context.d)
    assert c.threshold is not None
    decays = bool((c.decay_v >= 0).all()) and bool((c.decay_v <= 1).all())
    plain = c.decay_i is None and decays and bool((c.bias_v <= 0).all()) and bool((c.threshold > 0).all())
    gained = float(c.gain_v.abs().max()) * float(x.magnitude.max())
    gained += 0.0 if start is None else max(0.0, float(start.max()))
    most = gained / float(c.threshold.min()) + 2 if plain else math.inf  # one for the rest, one for rounding
    if most > _MOST_SPIKES:
        return Lost(title(node), "it may fire any number of spikes in a step", "spikes_per_step='one'"), None
    return grids.constant(channels(node.output_shape), 0, 0.0, float(math.floor(most)), x.inputs), None


def _steps(total: Sum) -> str:
    return f"2^{math.log2(max(total.steps_used, 1)):.1f}"


def _too_fine(node: Node, total: Sum, weight_bits: int | None) -> Lost:
    bits = "more than 24" if weight_bits is None else str(weight_bits)
    reason = f"{bits} bits a weight, its sum may reach {_steps(total)} steps of 2^{int(total.step.min())}"
    remedy = "float32 represents 2^24: neurocuda.quantize(graph, bits=8)"
    if weight_bits is not None and weight_bits <= 8:
        remedy = "float32 represents 2^24: fewer bits of the signal or the bias, or a smaller fan-in"
    return Lost(title(node), reason, remedy, total.rounded)


def _are_normal(signal_spacing: int, weight_spacings: tuple[int, ...]) -> bool:
    """Whether the spacings of the weights and of the products are normal numbers."""
    least, most = min(weight_spacings), max(weight_spacings)
    return min(least, signal_spacing + least) >= LEAST and signal_spacing + most <= -LEAST


def _bits(low: float, high: float, spacing: int) -> int | None:
    """Bits of the integers from low to high in units of 2^spacing, with a sign where there is one."""
    largest = math.ldexp(max(abs(low), abs(high)), -spacing)
    return None if largest > MOST else int(largest).bit_length() + (1 if low < 0 else 0)


def _integer_weights(node: Node) -> tuple[tuple[int, ...], int] | None:
    """The weights as integers: the spacing of each output channel, and the largest of all; None above 24 bits."""
    weight = node.array("weight").astype(np.float32)
    rows = weight.reshape(weight.shape[0] if node.primitive.is_convolution else math.prod(weight.shape[:-1]), -1)
    spacings = grids.lowest_bits(rows).min(1)
    largest = np.abs(rows).max(1).astype(np.float64)
    spacings = np.where(largest == 0, 0, spacings)
    numbers = np.ldexp(largest, -spacings)
    return (tuple(int(s) for s in spacings), int(numbers.max())) if numbers.max() <= MOST else None


RANGE_RULES: Mapping[str, Rule | None] = complete(
    {
        "Input": None,  # its range is the promise on the inputs, not a rule
        "Output": _same,
        "Identity": _same,
        "Affine": _layer,
        "Linear": _layer,
        "Scale": _scale,
        "Conv1d": _layer,
        "Conv2d": _layer,
        "SumPool2d": _pool,
        "AvgPool2d": _pool,
        "Flatten": _flatten,
        "Delay": _delay,
        "Threshold": _threshold,
        "I": _integrator,
        "IF": _spikes,
        "LI": _leaky,
        "LIF": _spikes,
        "CubaLI": _leaky,
        "CubaLIF": _spikes,
    },
    "neurocuda/compiler/range_rules.py, RANGE_RULES",
)
