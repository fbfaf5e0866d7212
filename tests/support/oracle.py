"""An independent interpreter of NIR graphs: plain numpy, one step at a time, one node at a time.

Written from the specification alone, it shares no code with the package, so that the two can be compared bit
for bit. Every float32 operation is its own numpy operation, so rounded separately; coefficients are float64,
rounded once. A raw graph is a nested dict with the layout of a NIR file; it is taken to be valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Node = dict[str, Any]
Edge = tuple[str, str]
Shape = tuple[int, ...]

SPIKING = ("IF", "LIF", "CubaLIF", "Threshold")
NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")
IDENTITIES = ("Input", "Output", "Identity")
DEFAULTS: dict[str, Any] = {
    "dt": 1e-4,
    "integrator": "euler",
    "spike_when": "above",
    "reset": "to-value",
    "synapse": "updated",
    "spikes_per_step": "one",
    "gain": "r*g",
    "feedback": "neuron-output",
    "output_delay": 0,
    "reset_to": "v_reset",
    "initial_state": "zero",
    "reset_delay": 0,
    "clamp": "none",
}
INITIAL_V = "neurocuda.initial_v"


class AlgebraicLoop(ValueError):
    """A cycle without state in it; its arguments are the flattened names on it."""


@dataclass(frozen=True)
class Flat:
    """Nodes and edges after inlining, by flattened name (`outer.inner`)."""

    nodes: dict[str, Node]
    edges: list[Edge]


@dataclass(frozen=True)
class Plan:
    """How time runs through a flat graph.

    `order`: nodes within one step; `delayed`: edges that carry the previous step; `late`: Delays that break a
    cycle themselves, so that their input of a step is summed after all outputs of that step.
    """

    order: tuple[str, ...]
    delayed: frozenset[Edge]
    late: frozenset[str]


@dataclass(frozen=True)
class OracleResult:
    """All arrays are float32 [T, B, *shape], keyed by flattened node name.

    `outputs`: top-level Outputs; `node_outputs`: what a node emits at that step; `node_inputs`: its input sum
    (x for an Input); `v`: membranes of neurons after the step; `i`: currents of CubaLI and CubaLIF.
    """

    outputs: dict[str, Array]
    node_outputs: dict[str, Array]
    node_inputs: dict[str, Array]
    v: dict[str, Array]
    i: dict[str, Array]


def read_raw(path: str | Path) -> Node:
    """Reads the graph of a NIR file as a raw nested dict."""

    def read(name: str, item: h5py.Group | h5py.Dataset) -> Any:
        if isinstance(item, h5py.Group):
            return {key: read(key, child) for key, child in item.items()}
        if name == "edges":
            return [(a.decode(), b.decode()) for a, b in item[()]]
        return item[()].decode() if isinstance(item[()], bytes) else item[()]

    with h5py.File(path, "r") as file:
        return dict(read("node", file["node"]))


def flatten(raw: Node) -> Flat:
    """Inlines nested graphs; invents Inputs and Outputs where a graph has none."""
    flat = Flat({}, [])
    _inline(raw, "", flat, {})
    return flat


def _inline(graph: Node, prefix: str, flat: Flat, ports: dict[tuple[str, str], list[str]]) -> None:
    """Adds the nodes and edges of `graph` under `prefix`; `ports`: Inputs, Outputs of each nested graph."""
    nodes, edges = _with_invented_ends(graph)
    for name, node in nodes.items():
        full = prefix + name
        if full in flat.nodes or (full, "Input") in ports:
            raise ValueError(f"two nodes are named {full}")
        if node["type"] == "NIRGraph":
            inner, _ = _with_invented_ends(node)
            for kind in ("Input", "Output"):
                ports[full, kind] = [f"{full}.{name}" for name in inner if inner[name]["type"] == kind]
            _inline(node, full + ".", flat, ports)
        elif prefix and node["type"] in ("Input", "Output"):
            flat.nodes[full] = {**node, "type": "Identity"}
        else:
            flat.nodes[full] = node

    def resolve(name: str, kind: str) -> str:
        full = prefix + name
        candidates = [full] if full in flat.nodes else ports.get((full, kind), [])
        if len(candidates) != 1:
            raise ValueError(f"an edge names {full}: {len(candidates)} candidates, not one")
        return candidates[0]

    for source, target in edges:
        flat.edges.append((resolve(source, "Output"), resolve(target, "Input")))


def _with_invented_ends(graph: Node) -> tuple[dict[str, Node], list[Edge]]:
    """The nodes and edges of one level, plus `input_<node>` (`output_<node>`) if it has no Input (Output)."""
    nodes, edges = dict(graph["nodes"]), [(a, b) for a, b in graph["edges"]]

    def touched(name: str, ends: Iterable[str]) -> bool:
        nested = nodes[name]["type"] == "NIRGraph"
        return any(end == name or (nested and end.startswith(name + ".")) for end in ends)

    types = [node["type"] for node in nodes.values()]
    for name in sorted(nodes):
        if "Input" not in types and not touched(name, [b for _, b in graph["edges"]]):
            nodes[f"input_{name}"] = {"type": "Input"}
            edges.append((f"input_{name}", name))
        if "Output" not in types and not touched(name, [a for a, _ in graph["edges"]]):
            nodes[f"output_{name}"] = {"type": "Output"}
            edges.append((name, f"output_{name}"))
    return nodes, edges


def make_plan(graph: Flat, discretization: Mapping[str, Any]) -> Plan:
    """Which edges carry the previous step, and the order of nodes within a step. Raises AlgebraicLoop."""
    options = {**DEFAULTS, **discretization}
    kind = {name: node["type"] for name, node in graph.nodes.items()}
    now = set(graph.edges)  # edges along which step t needs step t
    delayed: set[Edge] = set()
    late: set[str] = set()

    # Pass 1: a Delay of at least one step in every element breaks its cycle itself.
    for source, target in cyclic(now):
        if kind[target] == "Delay" and np.all(delay_steps(graph.nodes[target], options) >= 1):
            late.add(target)
            now.discard((source, target))
    if options["output_delay"] == 1:
        delayed |= {(a, b) for a, b in graph.edges if kind[a] in SPIKING}
    if options["feedback"] == "neuron-output":  # passes 2 and 3: edges that leave these nodes
        for kinds in (SPIKING, ("I", "LI", "CubaLI", "Delay")):
            delayed |= {(a, b) for a, b in cyclic(now - delayed) if kind[a] in kinds}
    else:  # edges that enter a neuron
        delayed |= {(a, b) for a, b in cyclic(now - delayed) if kind[b] in NEURONS}
    now -= delayed
    if remaining := cyclic(now):
        raise AlgebraicLoop(*sorted({name for edge in remaining for name in edge}))

    order: list[str] = []
    while len(order) < len(kind):
        for name in sorted(kind):
            if name not in order and all(a in order for a, b in now if b == name):
                order.append(name)
    return Plan(tuple(order), frozenset(delayed), frozenset(late))


def cyclic(edges: set[Edge]) -> set[Edge]:
    """The edges within a strongly connected component: those whose target leads back to their source."""
    reach = set(edges)
    while True:
        longer = {(a, d) for a, b in reach for c, d in edges if b == c} - reach
        if not longer:
            return {(a, b) for a, b in edges if a == b or (b, a) in reach}
        reach |= longer


def delay_steps(node: Node, options: Mapping[str, Any]) -> Array:
    """Whole steps of a Delay, in the shape it is stored in: float64 quotient, rounded half to even."""
    return np.rint(np.asarray(node["delay"], np.float64) / float(options["dt"])).astype(np.int64)


def infer_shapes(graph: Flat, inputs: Mapping[str, Shape]) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Input shape and output shape of every node, by sweeping until nothing is new."""
    into: dict[str, Shape] = dict(inputs)
    fed = {b for _, b in graph.edges}
    for name, node in graph.nodes.items():
        if name not in fed and name not in into:
            into[name] = own_shape(name, node)
    out: dict[str, Shape] = {}
    while len(out) < len(graph.nodes):
        known = len(into) + len(out)
        for source, target in graph.edges:
            if source in out:
                into.setdefault(target, out[source])
        for name in into.keys() - out.keys():
            out[name] = output_shape(graph.nodes[name], into[name])
        if len(into) + len(out) == known:  # a loop that nothing feeds: ask its own parameters
            stuck = min(name for name in graph.nodes if name not in into)
            into[stuck] = own_shape(stuck, graph.nodes[stuck])
    for source, target in graph.edges:
        if out[source] != into[target]:
            raise ValueError(f"edge {source} -> {target}: {out[source]} does not fit {into[target]}")
    return into, out


def own_shape(name: str, node: Node) -> Shape:
    """The input shape that a node's own fields imply."""
    kind = node["type"]
    if kind in ("Linear", "Affine"):
        weight = np.shape(node["weight"])
        return weight[:-2] + weight[-1:]
    if kind in ("Conv1d", "Conv2d") and node.get("input_shape") is not None:
        channels = np.shape(node["weight"])[1] * int(node["groups"])
        return (channels, *(int(n) for n in np.ravel(node["input_shape"])))
    for field in ("input_type", "shape"):  # of a Flatten; of an Input or Output
        if node.get(field) is not None:
            return tuple(int(n) for n in np.ravel(node[field]))
    if kind in (*NEURONS, "Scale", "Threshold", "Delay"):
        shapes = [np.shape(value) for field, value in node.items() if field not in ("type", "metadata")]
        axes = max(len(shape) for shape in shapes)
        return np.broadcast_shapes(*[shape + (1,) * (axes - len(shape)) for shape in shapes])
    raise ValueError(f"{name}: its shape cannot be inferred")


def output_shape(node: Node, shape: Shape) -> Shape:
    if node["type"] in (*NEURONS, "Delay"):
        return shape
    return stateless(node, np.zeros((1, *shape), np.float32), DEFAULTS).shape[1:]


def stateless(node: Node, x: Array, options: Mapping[str, Any]) -> Array:
    """One step of a node without state; x is [B, *shape]."""
    kind = node["type"]
    if kind in IDENTITIES:
        return x
    if kind in ("Linear", "Affine"):
        return ordered_linear(node, x)
    if kind == "Conv1d":  # a Conv2d on images of one row
        return ordered_conv(node, np.asarray(node["weight"])[:, :, None, :], x[:, :, None, :])[:, :, 0, :]
    if kind == "Conv2d":
        return ordered_conv(node, np.asarray(node["weight"]), x)
    if kind in ("SumPool2d", "AvgPool2d"):
        return pool(node, x)
    if kind == "Scale":
        return x * rounded(node["scale"], x.shape[1:])
    if kind == "Threshold":
        return fires(x, rounded(node["threshold"], x.shape[1:]), options)
    if kind == "Flatten":
        shape, axes = x.shape[1:], x.ndim - 1
        start, end = (int(node[field]) % axes for field in ("start_dim", "end_dim"))
        return x.reshape(x.shape[0], *shape[:start], -1, *shape[end + 1 :])
    raise ValueError(f"tests/support/oracle.py, stateless: expected a rule for {kind}, found none")


def aligned(value: Any, shape: Shape) -> Array:
    """A parameter in float64, spread over a signal of `shape`: leading axes align, size 1 is a scalar."""
    array = np.asarray(value, np.float64)
    axes = () if array.size == 1 else array.shape + (1,) * (len(shape) - array.ndim)
    return np.broadcast_to(array.reshape(axes), shape)


def rounded(value: Any, shape: Shape) -> Array:
    return aligned(value, shape).astype(np.float32)


def fires(u: Array, threshold: Array, options: Mapping[str, Any]) -> Array:
    return (u >= threshold if options["spike_when"] == "reaching" else u > threshold).astype(np.float32)


def ordered_linear(node: Node, x: Array) -> Array:
    """y = W x (+ b): weight [..., out, in], x [B, ..., in]; input features ascending, bias last."""
    weight = np.asarray(node["weight"]).astype(np.float32)
    acc = np.zeros((x.shape[0], *weight.shape[:-1]), np.float32)
    for feature in range(weight.shape[-1]):
        acc = acc + x[..., feature, None] * weight[..., feature]
    return acc + rounded(node["bias"], acc.shape[1:]) if node["type"] == "Affine" else acc


def pair(value: Any) -> tuple[int, int]:
    """(along height, along width); a single number serves both."""
    numbers = [int(n) for n in np.ravel(value)]
    return (numbers[0], numbers[-1])


def windows(x: Array, kernel: Shape, stride: Shape, dilation: Shape) -> Iterator[tuple[int, int, Array]]:
    """For ky ascending, then kx: (ky, kx, what this tap sees of x [..., H, W] at every output position)."""
    (kh, kw), (sy, sx), (dy, dx) = kernel, stride, dilation
    rows = (x.shape[-2] - dy * (kh - 1) - 1) // sy + 1
    cols = (x.shape[-1] - dx * (kw - 1) - 1) // sx + 1
    for ky in range(kh):
        for kx in range(kw):
            ys = slice(ky * dy, ky * dy + (rows - 1) * sy + 1, sy)
            xs = slice(kx * dx, kx * dx + (cols - 1) * sx + 1, sx)
            yield ky, kx, x[..., ys, xs]


def ordered_conv(node: Node, weight: Array, x: Array) -> Array:
    """x [B, in, H, W], weight [out, in / groups, kh, kw]; sums channel of the group, ky, kx; bias last."""
    weight, groups = weight.astype(np.float32), int(node["groups"])
    out, per_group, *kernel = weight.shape
    stride, dilation, padding = pair(node["stride"]), pair(node["dilation"]), node["padding"]
    if isinstance(padding, str) and padding == "same":  # an odd total pads the far side more
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(p, p) for p in ((0, 0) if isinstance(padding, str) else pair(padding))]
    if node["type"] == "Conv1d":
        sides[0] = (0, 0)  # the added axis keeps its one row
    x = np.pad(x, [(0, 0), (0, 0), *sides])
    x = x.reshape(x.shape[0], groups, per_group, 1, *x.shape[2:])
    weight = weight.reshape(groups, out // groups, per_group, *kernel, 1, 1)
    acc: Array = np.zeros((), np.float32)
    for channel in range(per_group):
        for ky, kx, seen in windows(x[:, :, channel], (kernel[0], kernel[1]), stride, dilation):
            acc = acc + seen * weight[:, :, channel, ky, kx]
    acc = acc.reshape(acc.shape[0], out, *acc.shape[-2:])
    return acc + rounded(node["bias"], (out,))[:, None, None]


def pool(node: Node, x: Array) -> Array:
    """Sums windows of x [B, C, H, W] in the order ky, kx; an average divides once by the full kernel area."""
    kernel, stride, (py, px) = (pair(node[field]) for field in ("kernel_size", "stride", "padding"))
    acc: Array = np.zeros((), np.float32)
    for _, _, seen in windows(np.pad(x, [(0, 0), (0, 0), (py, py), (px, px)]), kernel, stride, (1, 1)):
        acc = acc + seen
    return acc / np.float32(kernel[0] * kernel[1]) if node["type"] == "AvgPool2d" else acc


def neuron_coefficients(node: Node, shape: Shape, options: Mapping[str, Any]) -> dict[str, Array]:
    """The float32 coefficients of a neuron, each computed in float64 and rounded once."""
    dt, kind = float(options["dt"]), node["type"]
    euler = options["integrator"] == "euler"

    def g(tau: Array) -> Array:
        return dt / tau if euler else 1 - np.exp(-dt / tau)

    def d(tau: Array) -> Array:
        return 1 - dt / tau if euler else np.exp(-dt / tau)

    p = parameters(node, shape)
    c: dict[str, Any] = {}
    if kind in ("CubaLI", "CubaLIF"):
        tau, w_in = p["tau_syn"], p["w_in"]
        gains = {"w_in*g": w_in * g(tau), "g": g(tau), "w_in": w_in, "1": 1.0, "decay": d(tau)}
        c |= {"decay_i": d(tau), "gain_i": gains[gain_of("synapse", options)]}
    if kind in ("I", "IF"):
        of_membrane, decay, bias = dt, 1.0, 0.0
    else:
        tau = p["tau"] if kind in ("LI", "LIF") else p["tau_mem"]
        of_membrane, decay, bias = g(tau), d(tau), p["v_leak"] * g(tau)
    gains = {"r*g": p["r"] * of_membrane, "g": of_membrane, "r": p["r"], "1": 1.0}
    gain = gains[gain_of({"I": "IF", "LI": "LIF", "CubaLI": "CubaLIF"}.get(kind, kind), options)]
    c |= {"decay_v": decay, "gain_v": gain, "bias_v": bias}
    if kind in SPIKING:
        c |= {"threshold": p["v_threshold"], "v_reset": p["v_reset"] if options["reset_to"] == "v_reset" else 0.0}
    return {name: np.asarray(value).astype(np.float32) for name, value in c.items()}


def parameters(node: Node, shape: Shape) -> dict[str, Array]:
    """The parameters of a neuron, float64, aligned with its signal."""
    fields = {"v_reset": 0.0, "w_in": 1.0, **node}
    return {name: aligned(value, shape) for name, value in fields.items() if name not in ("type", "metadata")}


def gain_of(neurons: str, options: Mapping[str, Any]) -> str:
    """The gain of a class of neurons: "IF", "LIF", "CubaLIF" or "synapse"."""
    if neurons == "IF" and options.get("if_gain") is not None:
        return str(options["if_gain"]).replace("dt", "g")
    if neurons == "synapse" and ":" not in options["gain"]:
        return "w_in*g"
    return by_class("gain", neurons, options, "w_in*g" if neurons == "synapse" else "r*g")


def by_class(field: str, neurons: str, options: Mapping[str, Any], default: str | None = None) -> str:
    """The value of a field for a class of neurons: the field is one value, or text as "IF:1, LIF:g"."""
    text = str(options[field])
    if ":" not in text:
        return text
    default = str(DEFAULTS[field]) if default is None else default
    return dict(part.strip().split(":") for part in text.split(",")).get(neurons, default)


def start_of(node: Node, shape: Shape, options: Mapping[str, Any]) -> Array:
    """The membrane potential before the first step, float32."""
    p, stated = parameters(node, shape), node.get("metadata", {}).get(INITIAL_V)
    if stated is not None:
        return np.asarray(aligned(stated, shape), np.float32)
    kind = {"I": "IF", "LI": "LIF", "CubaLI": "CubaLIF"}.get(node["type"], node["type"])
    start = by_class("initial_state", kind, options)
    if start == "v_reset" and node["type"] in SPIKING and options["reset_to"] == "v_reset":
        return np.asarray(p["v_reset"], np.float32)
    if start == "v_leak" and "v_leak" in p:
        return np.asarray(p["v_leak"], np.float32)
    return np.zeros((), np.float32)


def neuron_step(
    kind: str, c: dict[str, Array], x: Array, v: Array, i: Array, options: Mapping[str, Any]
) -> tuple[Array, Array, Array]:
    """(output, new v, new i) of one neuron for one step; all [B, *shape], float32."""
    if "decay_i" in c:
        new_i = i * c["decay_i"] + x * c["gain_i"]
        current = new_i if options["synapse"] == "updated" else i
    else:
        new_i = current = x
    if kind not in SPIKING:
        u = v * c["decay_v"] + (current * c["gain_v"] + c["bias_v"])
        return u, u, new_i
    late = str(by_class("reset_delay", kind, options)) == "1"
    before = fires(v, c["threshold"], options) if late else np.float32(0)
    if late and options["reset"] == "to-value":
        v = np.where(before > 0, c["v_reset"], v)
    u = v * c["decay_v"] + (current * c["gain_v"] + c["bias_v"])
    if late and options["reset"] == "subtract":
        u = u - before * c["threshold"]
    if options["spikes_per_step"] == "many":
        s = np.maximum(np.float32(0), np.floor(u / c["threshold"]))
    else:
        s = fires(u, c["threshold"], options)
    if not late:
        u = u - s * c["threshold"] if options["reset"] == "subtract" else np.where(s > 0, c["v_reset"], u)
    bound = {"none": u, "zero": np.float32(0), "-threshold": -c["threshold"]}[by_class("clamp", kind, options)]
    return s, np.where(u < bound, bound, u), new_i


def run(raw: Node, x: Mapping[str, Array], discretization: Mapping[str, Any]) -> OracleResult:
    """Runs a raw graph from its initial state on x: {Input name: [T, B, *shape]}."""
    options = {**DEFAULTS, **discretization}
    graph = flatten(raw)
    plan, nodes = make_plan(graph, options), graph.nodes
    if set(x) != {name for name in nodes if nodes[name]["type"] == "Input"}:
        raise ValueError(f"x is given for {sorted(x)}, the graph has other inputs")
    x = {name: np.asarray(value, np.float32) for name, value in x.items()}
    ((steps, batch),) = {value.shape[:2] for value in x.values()}
    into, out = infer_shapes(graph, {name: value.shape[2:] for name, value in x.items()})

    neurons = {name: node["type"] for name, node in nodes.items() if node["type"] in NEURONS}
    coefficients = {name: neuron_coefficients(nodes[name], into[name], options) for name in neurons}
    sources = {name: sorted(a for a, b in graph.edges if b == name) for name in nodes}
    inputs = {name: np.zeros((steps, batch, *into[name]), np.float32) for name in nodes}
    outputs = {name: np.zeros((steps, batch, *out[name]), np.float32) for name in nodes}
    v = {name: np.zeros_like(outputs[name]) for name in neurons}
    i = {name: np.zeros_like(outputs[name]) for name in neurons}

    starts = {name: np.zeros_like(v[name][0]) + start_of(nodes[name], into[name], options) for name in neurons}

    def at(history: Array, t: int) -> Array:
        return np.asarray(history[t] if t >= 0 else np.zeros_like(history[0]))

    def input_sum(name: str, t: int) -> Array:
        if nodes[name]["type"] == "Input":
            return np.asarray(x[name][t])
        total = np.zeros((batch, *into[name]), np.float32)
        for source in sources[name]:
            total = total + at(outputs[source], t - 1 if (source, name) in plan.delayed else t)
        return total

    def delayed_output(name: str, t: int) -> Array:
        back = delay_steps({"delay": aligned(nodes[name]["delay"], into[name])}, options)
        result = np.zeros((batch, *into[name]), np.float32)
        for k in np.unique(back):
            result = np.where(back == k, at(inputs[name], t - int(k)), result)
        return result

    for t in range(steps):
        for name in plan.order:
            if name not in plan.late:
                inputs[name][t] = input_sum(name, t)
            if nodes[name]["type"] == "Delay":
                outputs[name][t] = delayed_output(name, t)
            elif name in neurons:
                state = (at(v[name], t - 1) if t else starts[name], at(i[name], t - 1))
                outputs[name][t], v[name][t], i[name][t] = neuron_step(
                    neurons[name], coefficients[name], inputs[name][t], *state, options
                )
            else:
                outputs[name][t] = stateless(nodes[name], inputs[name][t], options)
        for name in plan.late:
            inputs[name][t] = input_sum(name, t)

    return OracleResult(
        outputs={name: outputs[name] for name in nodes if nodes[name]["type"] == "Output"},
        node_outputs=outputs,
        node_inputs=inputs,
        v=v,
        i={name: i[name] for name in neurons if "Cuba" in neurons[name]},
    )
