"""Random NIR graphs with inputs and a discretization, drawn by hypothesis.

The structure of a graph is drawn by hypothesis, so it shrinks; its numbers come from a generator with a drawn
seed. Most weights are multiples of 1/16 and most inputs small integers: their sums are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import oracle
from hypothesis import strategies as st
from oracle import Array, Node, Shape

T = TypeVar("T")

# Their order differs from file order, natural order ("9", "10") and UTF-16 order ("𝛼" is beyond "Ａ").
NAMES = (
    "10 9 a B z é ω Ω ß 層 𝛼 Ａ b2 b10 conv.1 _x ~ -n ! 0 input output lif1 LIF I x.y.z é̃ A Z w fc q-1 1e-4"
).split()
NEURON_KINDS = ("I", "LI", "CubaLI", "IF", "LIF", "CubaLIF", "IF", "LIF", "CubaLIF")
PLAIN_KINDS: tuple[str, ...] = ()  # these keep the shape of any signal, and have no parameters
SAME_KINDS = ("Delay", "Scale", "Threshold", *NEURON_KINDS)  # these keep the shape of any signal
LAYER_KINDS = {1: ("Affine", "Linear", "Affine"), 2: ("Conv1d", "Flatten", "Linear", "Affine", "Conv1d")}
IMAGE_KINDS = ("AvgPool2d", "Conv2d", "SumPool2d", "Flatten", "Conv2d", "Affine")
DRAWN = {"Input", "Output", *PLAIN_KINDS, *SAME_KINDS, *LAYER_KINDS[1], *LAYER_KINDS[2], *IMAGE_KINDS}
# Chains that are closed into cycles; "weight" is a layer that keeps the shape.
RINGS = [
    ring.split()
    for ring in (
        "I, LI Scale, CubaLI weight, LI I Scale, I Threshold Scale, I Threshold weight, LI weight CubaLI,"
        "LI Delay Scale, Delay Scale, IF Delay, LIF Delay weight, Threshold Delay weight, Threshold Scale,"
        "IF, LIF IF, LIF weight, CubaLIF weight, IF weight, CubaLIF weight LIF weight, IF LI, LIF CubaLI"
    ).split(",")
]


@dataclass(frozen=True, eq=False)
class Case:
    """A raw graph, x {Input name: float32 [T, B, *shape]}, fields of a Discretization (missing = default)."""

    raw: Node
    x: dict[str, Array]
    discretization: dict[str, Any]

    @cached_property
    def expected(self) -> oracle.OracleResult:
        """What the oracle computes."""
        return oracle.run(self.raw, self.x, self.discretization)

    @cached_property
    def exact_layers(self) -> frozenset[str]:
        """Flattened names of the Linear, Affine, Conv nodes whose float32 sums are the same in any order."""
        nodes = oracle.flatten(self.raw).nodes
        kinds = ("Linear", "Affine", "Conv1d", "Conv2d")
        layers = [name for name, node in nodes.items() if node["type"] in kinds]
        return frozenset(n for n in layers if is_exact(nodes[n], self.expected.node_inputs[n]))


def is_exact(node: Node, x: Array) -> bool:
    """Whether all terms lie on one grid and the sum of their magnitudes stays below 2^24 grid steps."""
    weight = np.asarray(node["weight"]).astype(np.float32).astype(np.float64)
    bias = np.asarray(node.get("bias", 0.0)).astype(np.float32).astype(np.float64)
    inputs = x.astype(np.float64)
    x_bits, weight_bits, bias_bits = fraction_bits(inputs), fraction_bits(weight), fraction_bits(bias)
    if x_bits is None or weight_bits is None or bias_bits is None:
        return False
    bits = max(x_bits + weight_bits, bias_bits)
    axes = -1 if node["type"] in ("Linear", "Affine") else tuple(range(1, weight.ndim))
    total = np.abs(weight).sum(axis=axes).max() * np.abs(inputs).max() + np.abs(bias).max()
    return bool(total < 2.0 ** (24 - bits))


def fraction_bits(values: Array) -> int | None:
    """The least s for which all values are multiples of 2^-s; None above 16."""
    return next((s for s in range(17) if np.all(values * 2.0**s == np.rint(values * 2.0**s))), None)


@dataclass
class Source:
    """Where all choices of one case come from."""

    draw: Callable[..., Any]
    numbers: np.random.Generator
    options: dict[str, Any]
    on_grid: bool
    budget: int  # nodes still to draw

    def pick(self, items: Sequence[T]) -> T:
        return self.draw(st.sampled_from(items)) if len(items) > 1 else items[0]

    def count(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def chance(self, percent: int) -> bool:
        return self.count(0, 99) >= 100 - percent

    def names(self) -> list[str]:
        return [NAMES[k] for k in self.numbers.permutation(len(NAMES))]

    def stored(self, values: Any) -> Array:
        """As a file might hold it: float32, or sometimes float64."""
        return np.asarray(values, np.float64 if self.numbers.random() < 0.3 else np.float32)

    def weights(self, shape: Shape) -> Array:
        if self.on_grid:
            return self.stored(self.numbers.integers(-6, 17, shape) / 16)
        return self.stored(self.numbers.normal(0.3, 0.5, shape))

    def some(self, choices: Sequence[float], shape: Shape) -> Array:
        """Choices at random places; off the grid, each moved a little, so that they are arbitrary floats."""
        values = self.numbers.choice(np.asarray(choices, np.float64), shape)
        return self.stored(values if self.on_grid else values * self.numbers.uniform(0.9, 1.1, shape))

    def parameter_shape(self, shape: Shape) -> Shape:
        """A shape that a parameter of a signal of `shape` may have."""
        ones = tuple(1 if self.numbers.random() < 0.5 else n for n in shape)
        choices = [shape, (), (1,), shape[:1], (*shape[:1], *(1 for _ in shape[1:])), ones]
        return self.pick([*choices, ones[: 1 + int(self.numbers.integers(len(shape)))]])


def parameters(s: Source, kind: str, shape: Shape, *, full: bool) -> Node:
    """A neuron, Scale, Threshold or Delay on a signal of `shape`; `full`: parameters no smaller than that."""
    one = shape if full else s.parameter_shape(shape)
    mixed = not full and s.chance(20)

    def some(*choices: float) -> Array:
        return s.some(choices, s.parameter_shape(shape) if mixed else one)

    dt = s.options["dt"]
    if kind == "Scale":
        return {"type": kind, "scale": some(0.5, 1, 2, -0.5, 0.75)}
    positive = s.options["spikes_per_step"] == "many" or not s.chance(5)
    thresholds = (0.5, 0.75, 1, 1, 1.5, 2) if positive else (-0.5, 0, 1)
    if kind == "Threshold":
        return {"type": kind, "threshold": some(*thresholds)}
    if kind == "Delay":
        steps = s.pick([(1, 2, 3), (0.5, 1.5, 2.5, 0.49), (0, 1, 2), (1,), (0,), (2,), (1, 2.5, 4)])
        return {"type": kind, "delay": s.stored(s.numbers.choice(steps, one) * dt)}
    taus = (dt, 1.5 * dt, 2 * dt, 4 * dt) if s.chance(90) else (0.75 * dt, 100 * dt)
    fields: Node = {"type": kind}
    if kind in ("I", "IF"):
        fields["r"] = some(*(np.array([0.25, 0.5, 1, 2]) / (1 if oracle.gain_of("IF", s.options) == "r" else dt)))
    else:
        for name in ("tau",) if kind in ("LI", "LIF") else ("tau_syn", "tau_mem"):
            fields[name] = some(*taus)
        fields |= {"r": some(1, 2, 3, 4), "v_leak": some(0, 0, 0.5, -0.25) if s.chance(50) else some(0)}
    if kind in ("CubaLI", "CubaLIF") and (full or s.chance(70)):
        fields["w_in"] = some(1, 2, 0.5, 3)
    if kind in oracle.SPIKING:
        fields["v_threshold"] = some(*thresholds)
        if full or s.chance(60):
            fields["v_reset"] = some(0, 0.25, -0.5)
    if s.chance(10):
        fields["metadata"] = {oracle.INITIAL_V: some(0.25, 0.75, -0.5)}
    return fields


def linear(s: Source, kind: str, shape: Shape, out: int) -> Node:
    """A Linear or Affine from `shape` to (*shape[:-1], out): a batch of matrices if it has several axes."""
    fields: Node = {"type": kind, "weight": s.weights((*shape[:-1], out, shape[-1]))}
    if kind == "Affine":
        fields["bias"] = s.weights(s.pick([(*shape[:-1], out), (*shape[:-1], out), (), (1,)]))
    return fields


def written(s: Source, numbers: list[int]) -> Any:
    """One number where all are equal (always for one axis), else or sometimes an array."""
    scalar = len(numbers) == 1 or (len(set(numbers)) == 1 and s.chance(40))
    return numbers[0] if scalar else np.array(numbers)


def convolution(s: Source, shape: Shape, *, keep: bool = False) -> Node:
    """A Conv1d or Conv2d on a signal of `shape`; `keep`: its output has the same shape."""
    channels, *size = shape
    groups = channels if 1 < channels <= 4 and s.chance(40) else 1
    out = channels if keep else groups * s.count(1, 3 if groups == 1 else 2)
    kernel = [s.count(1, 3) for _ in size]
    dilation = [s.pick([1, 1, 2]) for _ in size]
    stride = [1 if keep else s.pick([1, 1, 2, 3]) for _ in size]
    mode = "same" if keep else s.pick(["integer", "integer", "valid", "same"])
    sides = [s.count(0, 2) if mode == "integer" else 0 for _ in size]
    if mode == "same":
        stride = [1 for _ in size]
    else:  # the kernel must fit into the padded image
        most = [(n + 2 * p - 1) // d + 1 for n, p, d in zip(size, sides, dilation, strict=True)]
        kernel = [min(pair) for pair in zip(kernel, most, strict=True)]
    return {
        "type": f"Conv{len(size)}d",
        "weight": s.weights((out, channels // groups, *kernel)),
        "bias": s.weights(s.pick([(out,), (out,), (), (1,)])),
        "stride": written(s, stride),
        "dilation": written(s, dilation),
        "padding": written(s, sides) if mode == "integer" else mode,
        "groups": groups,
        **({"input_shape": np.array(size) if len(size) > 1 else size[0]} if s.chance(50) else {}),
    }


def pooling(s: Source, kind: str, shape: Shape) -> Node:
    """A pool whose padding is at most half its kernel."""
    kernel = [s.count(1, min(3, n)) for n in shape[1:]]
    fields = {"kernel_size": kernel, "stride": [s.count(1, 3) for _ in kernel]}
    fields["padding"] = [s.count(0, k // 2) for k in kernel]
    return {"type": kind, **{name: written(s, value) for name, value in fields.items()}}


def flattening(s: Source, shape: Shape) -> Node:
    start = s.count(0, len(shape) - 1)
    end = s.count(start, len(shape) - 1)
    ends = [value - len(shape) if s.chance(50) else value for value in (start, end)]
    fields: Node = {"type": "Flatten", "start_dim": ends[0], "end_dim": ends[1]}
    return fields | ({"input_type": np.array(shape)} if s.chance(50) else {})


def layer(s: Source, kind: str, shape: Shape, sizes: Sequence[int]) -> Node:
    """Any node that is fed with a signal of `shape`; `sizes` are favoured lengths of vectors."""
    if kind in PLAIN_KINDS:
        return {"type": kind}
    if kind in ("Linear", "Affine"):
        return linear(s, kind, shape, s.pick(sizes))
    if kind in ("Conv1d", "Conv2d"):
        return convolution(s, shape)
    if kind in ("SumPool2d", "AvgPool2d"):
        return pooling(s, kind, shape)
    if kind == "Flatten":
        return flattening(s, shape)
    if kind == "weight":
        if len(shape) > 1 and s.chance(70):
            return convolution(s, shape, keep=True)
        return linear(s, s.pick(["Linear", "Affine"]), shape, shape[-1])
    return parameters(s, kind, shape, full=False)


@dataclass
class Level:
    """One graph, nested or not, while it is drawn. Names are those that edges at this level may use."""

    s: Source
    depth: int
    sizes: list[int]
    names: list[str]
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    sources: dict[str, Shape] = field(default_factory=dict)  # where edges may start: output shape
    sinks: dict[str, Shape] = field(default_factory=dict)  # where edges may end: input shape
    inputs: dict[str, Shape] = field(default_factory=dict)  # Inputs, invented ones included
    outputs: dict[str, Shape] = field(default_factory=dict)
    declares_inputs: bool = True
    declares_outputs: bool = True

    def add(self, node: Node, shape: Shape, feeds: Sequence[str]) -> str:
        """Adds a node with an input of `shape`, fed by edges from `feeds`."""
        name = self.names.pop()
        self.nodes[name] = node
        self.edges += [(feed, name) for feed in feeds]
        self.sources[name] = oracle.output_shape(node, shape)
        self.sinks[name] = shape
        self.s.budget -= 1
        return name

    def feeds(self, shape: Shape, most: int) -> list[str]:
        """One to `most` sources of a shape, seldom the same one twice."""
        fitting = [name for name, other in self.sources.items() if other == shape][::-1]
        chosen = [self.s.pick(fitting)]
        for _ in range(self.s.count(0, most - 1)):
            name = self.s.pick(fitting)
            if name not in chosen or self.s.chance(15):
                chosen.append(name)
        return chosen

    def some_shape(self) -> Shape:
        return self.s.pick(list(self.sources.values())[::-1])

    def head(self, shape: Shape) -> str:
        """A node that nothing feeds, whose own fields tell its input shape."""
        kinds = (*LAYER_KINDS.get(len(shape), IMAGE_KINDS), *NEURON_KINDS, "Scale", "Threshold", "Delay")
        kind = self.s.pick([k for k in kinds if "Pool" not in k and k != "Flatten"])
        same = kind in SAME_KINDS
        node = parameters(self.s, kind, shape, full=True) if same else layer(self.s, kind, shape, self.sizes)
        if kind.startswith("Conv"):
            node["input_shape"] = np.array(shape[1:]) if len(shape) > 2 else shape[1]
        name = self.add(node, shape, [])
        del self.sinks[name]  # an edge into it would leave no Input to invent, or a loop of unknown shape
        return name

    def open(self, shapes: Sequence[Shape]) -> None:
        """The Inputs: declared, or invented later for nodes that nothing feeds."""
        for shape in shapes:
            if self.declares_inputs:
                name = self.names.pop()
                self.nodes[name] = {"type": "Input", "shape": np.array(shape)}
                self.sources[name] = self.inputs[name] = shape
            else:
                self.inputs[f"input_{self.head(shape)}"] = shape

    def grow(self, steps: int) -> None:
        for _ in range(steps):
            if self.s.budget <= 0:
                return
            what = self.s.count(0, 99)
            if what < 58:
                self.grow_node()
            elif what < 80:
                self.grow_ring()
            elif what < 95 and self.depth < 2:
                self.grow_nested()
            elif self.declares_inputs:
                self.head(self.some_shape())

    def grow_node(self) -> None:
        shape = self.some_shape()
        kinds = (*LAYER_KINDS.get(len(shape), IMAGE_KINDS) * 2, *SAME_KINDS, *PLAIN_KINDS)
        self.add(layer(self.s, self.s.pick(kinds), shape, self.sizes), shape, self.feeds(shape, 3))

    def grow_ring(self) -> None:
        shape = self.some_shape()
        kinds = self.s.pick(RINGS)
        ring: list[str] = []
        for kind in kinds:
            feeds = self.feeds(shape, 2) if not ring or self.s.chance(15) else []
            ring.append(self.add(layer(self.s, kind, shape, self.sizes), shape, ring[-1:] + feeds))
        if kinds == ["I", "Threshold", "Scale"] and self.s.chance(70):  # reset by subtraction
            self.nodes[ring[2]]["scale"] = -self.nodes[ring[1]]["threshold"]
        self.try_edge(ring[-1], ring[0])

    def grow_nested(self) -> None:
        inner = Level(self.s, self.depth + 1, self.sizes, self.s.names())
        inner.declares_inputs, inner.declares_outputs = not self.s.chance(20), not self.s.chance(20)
        inner.open([self.some_shape() for _ in range(self.s.count(1, 2) if inner.declares_inputs else 1)])
        inner.grow(self.s.count(1, 4))
        inner.close(self.s.count(1, 2))
        name = self.names.pop().replace(".", "_")
        self.nodes[name] = inner.raw()
        fed: dict[str, Shape] = {}
        for port, shape in inner.inputs.items():
            if fed and self.declares_inputs and self.s.chance(15):
                continue  # it receives zero, and no edge later: a loop through it would have no known shape
            fed[port] = shape
            bare = not inner.declares_inputs or (len(inner.inputs) == 1 and self.s.chance(70))
            self.edges += [(feed, name if bare else f"{name}.{port}") for feed in self.feeds(shape, 2)]
            if inner.declares_inputs and self.s.chance(20):  # a wrong declaration, which nobody trusts
                inner.nodes[port]["shape"] = np.array([7, *shape])
        if len(inner.outputs) == 1:
            self.sources[name] = next(iter(inner.outputs.values()))
        if len(inner.inputs) == 1:
            self.sinks[name] = next(iter(inner.inputs.values()))
        if all(level.declares_inputs and level.declares_outputs for level in (inner, self)):
            self.sources |= {f"{name}.{n}": shape for n, shape in inner.sources.items()}
            self.sinks |= {f"{name}.{n}": shape for n, shape in (fed | inner.sinks).items()}

    def close(self, count: int) -> None:
        """The Outputs, and a few edges back."""
        kinds = [self.nodes[name]["type"] for name in self.ends()]
        if "NIRGraph" in kinds or not 1 <= len(kinds) <= (1 if self.depth > 0 else 9):
            self.declares_outputs = True
        for _ in range(count if self.declares_outputs else 0):
            ends = [n for n in self.ends() if n in self.sources and n not in self.inputs]
            shape = self.sources[self.s.pick(ends)] if ends else self.some_shape()
            feeds = self.feeds(shape, 2) if not ends else [n for n in ends if self.sources[n] == shape][:3]
            name = self.names.pop()
            declared = (1, 1, *shape) if self.s.chance(10) else shape  # nobody trusts it
            self.nodes[name] = {"type": "Output", "shape": np.array(declared)}
            self.edges += [(feed, name) for feed in feeds]
            self.sources[name] = self.sinks[name] = self.outputs[name] = shape
        for _ in range(self.s.pick([0, 0, 1, 2])):
            outs, ins = self.sources.items(), self.sinks.items()
            if pairs := [(a, b) for a, shape in outs for b, other in ins if shape == other]:
                self.try_edge(*self.s.pick(pairs[::-1]))
        if not self.declares_outputs:
            self.outputs = {f"output_{n}": self.sources[n] for n in self.ends()}

    def ends(self) -> list[str]:
        """Nodes without outgoing edges."""
        starts = {a.split(".")[0] for a, _ in self.edges} | {a for a, _ in self.edges}
        return [name for name in self.nodes if name not in starts]

    def try_edge(self, source: str, target: str) -> None:
        """Adds an edge, unless it closes a cycle without state or leaves no Output to invent."""
        self.edges.append((source, target))
        ends = {"->": {"type": "Input"}, "<-": {"type": "Output"}}  # so that none is invented yet
        whole = {**self.raw(), "nodes": {**self.nodes, **ends}}
        try:
            oracle.make_plan(oracle.flatten(whole), self.s.options)
            stateful = True
        except oracle.AlgebraicLoop:
            stateful = False
        if not stateful or not (self.declares_outputs or self.ends()):
            self.edges.pop()

    def raw(self) -> Node:
        return {"type": "NIRGraph", "nodes": self.nodes, "edges": self.edges}


def shuffled(graph: Node, numbers: np.random.Generator) -> Node:
    """The same graph, its nodes and edges in another order."""
    names, edges = list(graph["nodes"]), graph["edges"]
    nodes = {names[k]: graph["nodes"][names[k]] for k in numbers.permutation(len(names))}
    nodes = {n: shuffled(node, numbers) if node["type"] == "NIRGraph" else node for n, node in nodes.items()}
    return {"type": "NIRGraph", "nodes": nodes, "edges": [edges[k] for k in numbers.permutation(len(edges))]}


CHOICES: dict[str, tuple[Any, ...]] = {
    "dt": (1e-4, 1e-4, 1e-3, 1.0, 0.5, 0.037),
    "integrator": ("euler", "exponential"),
    "spike_when": ("above", "reaching"),
    "reset": ("to-value", "subtract"),
    "synapse": ("updated", "previous"),
    "spikes_per_step": ("one",),
    "gain": ("r*g", "r*g", "IF:r", "IF:r", "r", "IF:1, LIF:g, CubaLIF:1, synapse:1", "g", "1", "synapse:decay"),
    "feedback": ("neuron-output", "weight-output"),
    "output_delay": (0, 0, 1),
    "reset_to": ("v_reset", "v_reset", "zero"),
    "initial_state": ("zero", "zero", "v_reset", "v_leak", "IF:v_reset, LIF:v_leak"),
    "reset_delay": (0, 0, 0, 1, "LIF:1"),
    "clamp": ("none", "none", "none", "zero", "-threshold", "IF:-threshold", "LIF:zero"),
}
MANY = {"spikes_per_step": "many", "spike_when": "reaching", "reset": "subtract", "reset_delay": 0}


@st.composite
def discretizations(draw: Callable[..., Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """Fields of a Discretization; a default is sometimes left out."""
    fields = {name: draw(st.sampled_from(values)) for name, values in CHOICES.items()}
    fields |= fixed
    if all(fixed.get(name, value) == value for name, value in MANY.items()) and draw(st.integers(0, 6)) == 6:
        fields |= MANY
    if "reset_delay" not in fixed and (fields["spikes_per_step"], fields["synapse"]) != ("one", "updated"):
        fields["reset_delay"] = 0  # refused otherwise
    left_out = draw(st.sets(st.sampled_from(sorted(CHOICES)))) - set(fixed)
    return {n: value for n, value in fields.items() if n not in left_out or value != oracle.DEFAULTS[n]}


@st.composite
def cases(draw: Callable[..., Any], max_nodes: int = 10, fixed: dict[str, Any] | None = None) -> Case:
    """A case of about `max_nodes` nodes at most; `fixed`: fields of the discretization that are given."""
    fields = draw(discretizations(fixed or {}))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    s = Source(draw, numbers, {**oracle.DEFAULTS, **fields}, True, draw(st.integers(3, max_nodes)))
    s.on_grid = not s.chance(30)
    sizes = [s.count(1, 6), s.count(2, 6)]
    top = Level(s, 0, sizes, s.names())
    top.declares_inputs, top.declares_outputs = not s.chance(15), not s.chance(15)
    sequence, image = (s.count(1, 3), s.count(2, 7)), (s.count(1, 3), s.count(2, 5), s.count(3, 6))
    shapes = [image, (sizes[0],), sequence, image, (sizes[1],)]
    top.open([s.pick(shapes) for _ in range(s.pick([1, 1, 2, 3]))])
    top.grow(max_nodes)
    top.close(s.count(1, 3))

    steps, batch = s.pick([6, 7, 8, 9, 5, 4, 3, 2, 1]), s.count(1, 3)
    x = {}
    for name, shape in top.inputs.items():
        full, below = (steps, batch, *shape), s.pick([4, 4, 2, 0])
        values = numbers.integers(0, below, full) if below else numbers.normal(1, 1, full)
        x[name] = values.astype(np.float32)
    return Case(shuffled(top.raw(), numbers), x, fields)
