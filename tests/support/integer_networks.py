"""Networks with int8 layers, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from comparison import graph_of, tensors
from layers_at_bound import layer, ones
from make_nir import Node, graph, input_, neuron, numbers, output, scale, threshold
from oracle import Array
from strategies import MANY
from torch import Tensor

from neurocuda import Executor
from neurocuda.compiler.grids import InputGrid
from neurocuda.ops import int8

needs_bytes = pytest.mark.skipif(
    not int8.is_fast("cpu"), reason="no bytes are multiplied here: no x86 with VNNI, or no oneDNN"
)

BY_R: dict[str, Any] = {"if_gain": "r"}
COUNTS = {**MANY, **BY_R}


def ways(net: Executor) -> dict[str, list[str]]:
    """The implementations of each layer that have the same bits for on-grid inputs."""
    found = {}
    for name, node in net.graph.nodes.items():
        proof = net.certificate.of(name)
        if node.primitive.is_weighted and proof is not None:
            exact, whole = proof.exact, proof.integers is not None
            found[name] = ["ordered", *(["library"] if exact else []), *(["integer"] if whole else [])]
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return all(torch.equal(a[name].nan_to_num(1e38), b[name].nan_to_num(1e38)) for name in a)
    return torch.equal(a.nan_to_num(1e38), b.nan_to_num(1e38))


def library_of(net: Executor, **how: Any) -> Executor:
    """The same network in float32, with the current parameters."""
    force = {entry.node.name: "library" for entry in net.schedule.integer_layers}
    return copy_parameters(net, Executor(net.graph, net.discretization, force=force, **{"chunk": net.chunk, **how}))


def copy_parameters(net: Executor, other: Executor) -> Executor:
    other.load_state_dict(net.state_dict())
    return other


def grid_weight(*shape: int, key: object = 0) -> np.ndarray:
    return (numbers("grid", *shape, key).integers(-127, 128, shape) / 64).astype("f4")


def fc(out: int, into: int, key: object = 0) -> Node:
    return {"type": "Affine", "weight": grid_weight(out, into, key=key), "bias": grid_weight(out, key=key)}


def conv(out: int, into: int, kernel: int = 3, key: object = 0, **settings: Any) -> Node:
    fields = {"weight": grid_weight(out, into, kernel, kernel, key=key), "bias": grid_weight(out, key=key)}
    return {"type": "Conv2d", **fields, "stride": 1, "padding": kernel // 2, "dilation": 1, "groups": 1, **settings}


def pool(kind: str) -> Node:
    return {"type": kind, "kernel_size": np.array([2, 2]), "stride": np.array([2, 2]), "padding": np.array([0, 0])}


def fires(*shape: int, key: object = 0) -> Node:
    """An IF with a threshold for each neuron."""
    draw = numbers("fires", shape, key)
    return ones("IF", *shape, v_threshold=draw.integers(40, 200, shape) / 16, v_reset=draw.integers(-4, 5, shape) / 8)


def two_layers(chunk: int = 2, **how: Any) -> Executor:
    """A layer that reads the input, and one that reads spikes."""
    nodes = {"a": fc(6, 40), "n": neuron("LIF", 6), "b": fc(3, 6)}
    raw = graph("input>a a>n n>b b>output", input=input_(40), output=output(3), **nodes)
    force = how.pop("force", {"a": "integer", "b": "integer"})
    return Executor(graph_of(raw), chunk=chunk, force=force, **how)


def whole_signal(steps: int = 8, batch: int = 2) -> Tensor:
    return torch.from_numpy(numbers("whole", steps, batch).integers(0, 6, (steps, batch, 40)).astype("f4"))


def within_bytes(draw: np.random.Generator) -> tuple[Node, tuple[int, ...], InputGrid, Array]:
    """An int8 layer, the shape and grid of its input, and a scale for each of its channels.

    Its sums may reach the bound by their biases, which may be finer than the products.
    """
    node, shape = layer(draw)
    while "weight" not in node or (len(shape) > 1 and not node["type"].startswith("Conv")):
        node, shape = layer(draw)
    weight = np.clip(node["weight"], -127, 127)
    step, most = 2.0 ** int(draw.choice([0, 0, -4, 7, -40])), int(draw.choice([1, 1, 3, 31, 255]))
    by_row = 2.0 ** draw.choice([0, 0, -8, 3, -30], weight.shape[0]).reshape(-1, *[1] * (weight.ndim - 1))
    finer = int(draw.choice([0, 0, 1, 5]))
    if "bias" in node:
        left = 2**24 - np.abs(weight).reshape(weight.shape[0], -1).sum(1) * most * 2**finer
        signs = draw.choice([-1, 1], left.shape)
        bias = np.where(draw.random(left.shape) < 0.5, signs * np.maximum(left, 0), node["bias"])
        node["bias"] = (bias / 2**finer * step * by_row.ravel()).astype(np.float32)
        if np.abs(left).max() < 2**30 and draw.random() < 0.2:  # one for all
            node["bias"] = node["bias"][:1]
    scales: Array = 2.0 ** draw.integers(0, 4, shape[0]) if most <= 31 and draw.random() < 0.4 else np.ones(shape[0])
    node["weight"] = (weight * by_row).astype(np.float32)
    return node, shape, InputGrid(step, 0, step * most), scales


def spiking_graph(draw: np.random.Generator) -> Node:
    """Spiking populations with int8 layers between them, skips, soft resets and delayed edges."""
    shape = (2, 3, 3) if draw.random() < 0.5 else (5,)
    nodes: dict[str, Node] = {"input": input_(*shape)}
    edges: list[str] = []
    sources = ["input"]
    for number in range(int(draw.integers(2, 6))):
        layers = [f"l{number}", f"k{number}"][: int(draw.choice([1, 1, 2]))]
        for name in layers:
            size = int(draw.choice([1, 3]))
            weighted = fc(5, 5, key=draw.integers(99)) if len(shape) == 1 else conv(2, 2, size, key=draw.integers(99))
            nodes[name] = {**weighted, "weight": (weighted["weight"] * np.float32(draw.choice([0.25, 1.0])))}
            edges += [f"{source}>{name}" for source in draw.choice(sources, int(draw.choice([1, 1, 2])))]
        name, kind = f"n{number}", draw.choice(["IF", "LIF", "CubaLIF", "soft reset", "recurrent"])
        into = name
        if kind == "soft reset":
            nodes |= {f"{name}i": ones("I", *shape), name: threshold(2.0), f"{name}s": scale(-3.0)}
            edges += [f"{name}i>{name}", f"{name}>{name}s", f"{name}s>{name}i"]
            into = f"{name}i"
        elif kind == "IF" or len(shape) > 1 or kind != "recurrent":
            nodes[name] = fires(*shape, key=number) if kind in ("IF", "recurrent") else neuron(str(kind), *shape)
        else:
            nodes |= {name: neuron("LIF", *shape), f"{name}w": fc(5, 5, key=number)}
            edges += [f"{name}>{name}w", f"{name}w>{name}"]
        edges += [f"{source}>{into}" for source in layers]
        if draw.random() < 0.4:
            edges += [f"{draw.choice(sources)}>{into}"]
        sources.append(name)
    for source in {sources[-1], str(draw.choice(sources[1:]))}:
        nodes[f"out_{source}"] = output(*shape)
        edges.append(f"{source}>out_{source}")
    nodes["last"] = output(*shape)
    return graph(" ".join([*edges, f"l{number}>last"]), **nodes)


def assert_again(net: Executor, x: dict[str, np.ndarray], *what: object) -> None:
    """Repeated calls give the same bits: the second is captured, later ones replay it."""
    with torch.no_grad():
        first, state = net(tensors(x))
        for number in range(3):
            again, after = net(tensors(x))
            assert same(first, again), (number, *what)
            assert same(state.tensors, after.tensors), (number, *what)
