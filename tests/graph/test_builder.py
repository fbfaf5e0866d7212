"""The graph: shapes as in torch, added Inputs and Outputs, flattening, canonical order, immutability."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from graph_checks import assert_same, outputs, read, signal
from raw_nodes import IMAGE, SERIES, VECTOR, Raw, chain, everything, graph, node, ramp, terminal
from torch.nn import functional

import neurocuda
from neurocuda import ArgumentError, Discretization, Graph, NeuroCUDAWarning, ShapeError, from_nir
from neurocuda.graph import build


def built(raw: Raw) -> Graph:
    result, problems = build(raw, "graph", None)
    assert result is not None, "\n".join(map(str, problems))
    return result


def shape_or_refusal(kind: str, shape: tuple[int, ...], **fields: Any) -> tuple[int, ...] | None:
    """The output shape of a node for an Input of `shape`; None where building raises a `ShapeError`."""
    raw = chain({"n": node(kind, **fields)}, shape)
    result, problems = build(raw, "graph", None)
    assert all(problem.error is ShapeError and problem.where == "node 'n'" for problem in problems), problems
    return None if result is None else result.nodes["n"].output_shape


def torch_shape(compute: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return tuple(compute(torch.zeros(1, *shape)).shape[1:])
    except (RuntimeError, IndexError):
        return None


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("seed", range(150))
def test_convolutions_have_the_shape_that_torch_gives(seed: int) -> None:
    rng = random.Random(seed)
    axes = rng.choice([1, 2])
    groups, per_group = rng.choice([1, 1, 2, 3]), rng.randint(1, 3)
    size, kernel = [rng.randint(1, 9) for _ in range(axes)], [rng.randint(1, 4) for _ in range(axes)]
    stride, dilation = [rng.randint(1, 3) for _ in range(axes)], [rng.randint(1, 3) for _ in range(axes)]
    padding: Any = rng.choice(["same", "valid", [rng.randint(0, 3) for _ in range(axes)]])
    if padding == "same" and rng.random() < 0.8:
        stride = [1] * axes
    shape, out = (groups * per_group, *size), groups * rng.randint(1, 2)
    weight, bias = np.zeros((out, per_group, *kernel), np.float32), np.zeros(out, np.float32)
    convolve = functional.conv1d if axes == 1 else functional.conv2d

    def compute(x: torch.Tensor) -> torch.Tensor:
        return convolve(x, torch.from_numpy(weight), None, stride, padding, dilation, groups)

    def stored(value: Any) -> Any:
        return value if isinstance(value, str) else np.array(value) if axes == 2 else value[0]

    fields = {"stride": stored(stride), "padding": stored(padding), "dilation": stored(dilation), "groups": groups}
    found = shape_or_refusal(f"Conv{axes}d", shape, weight=weight, bias=bias, **fields)
    assert found == torch_shape(compute, shape), (shape, weight.shape, fields)


@pytest.mark.parametrize("seed", range(60))
def test_pools_have_the_shape_that_torch_gives(seed: int) -> None:
    rng = random.Random(seed)
    shape = (rng.randint(1, 3), rng.randint(1, 9), rng.randint(1, 9))
    kernel, stride = [rng.randint(1, 5) for _ in "yx"], [rng.randint(1, 4) for _ in "yx"]
    padding = [rng.randint(0, k // 2) for k in kernel]  # torch has no larger ones
    fields = {
        name: np.array(value) for name, value in (("kernel_size", kernel), ("stride", stride), ("padding", padding))
    }
    expected = torch_shape(lambda x: functional.avg_pool2d(x, kernel, stride, padding), shape)
    for kind in ("SumPool2d", "AvgPool2d"):
        assert shape_or_refusal(kind, shape, **fields) == expected, fields


@pytest.mark.parametrize("shape", [(), (5,), (2, 6), (2, 6, 5), (2, 3, 4, 5)])
def test_flatten_has_the_shape_that_torch_gives(shape: tuple[int, ...]) -> None:
    for start, end in itertools.product(range(-5, 5), repeat=2):
        try:
            expected = tuple(torch.zeros(shape).flatten(start, end).shape)
        except (RuntimeError, IndexError):
            expected = None
        assert shape_or_refusal("Flatten", shape, start_dim=start, end_dim=end) == expected, (start, end)


@pytest.mark.parametrize("weight", [(4, 3), (1, 1), (2, 4, 3), (5, 2, 4, 3), (5, 2, 1, 3)])
def test_matrices_have_the_shape_that_torch_gives(weight: tuple[int, ...]) -> None:
    shape = (*weight[:-2], weight[-1])
    expected = torch_shape(lambda x: torch.matmul(torch.zeros(weight), x.unsqueeze(-1)).squeeze(-1), shape)
    assert shape_or_refusal("Linear", shape, weight=ramp(*weight)) == expected
    assert (
        shape_or_refusal("Affine", shape, weight=ramp(*weight), bias=np.zeros(expected or (), np.float32)) == expected
    )


V, LI, LINEAR = node("LI", tau=np.ones(3)), node("LI"), node("Linear")
X, Z, Y = terminal("Input", VECTOR), terminal("Input", (2,)), terminal("Output", VECTOR)
CONV2D = node("Conv2d", input_shape=np.array([6, 5]))
GROUPED = node("Conv1d", weight=ramp(4, 2, 3), groups=2, input_shape=7)
FLATTEN = node("Flatten", input_type=np.array([2, 6]))

# nodes, edges, and the shapes of the added Inputs and Outputs, by name
Invention = tuple[dict[str, Raw], list[tuple[str, str]], dict[str, tuple[int, ...]]]
INVENTED: dict[str, Invention] = {
    "both": ({"n": V}, [], {"input_n": (3,), "output_n": (3,)}),
    "an Input": ({"n": V, "y": Y}, [("n", "y")], {"input_n": (3,)}),
    "an Output": ({"x": X, "n": LI}, [("x", "n")], {"output_n": (3,)}),
    "none": ({"x": X, "n": LI, "y": Y}, [("x", "y")], {}),
    "several": (
        {"a": V, "b": LINEAR, "c": node("Linear", weight=ramp(3, 2))},
        [("a", "b")],
        {"input_a": (3,), "input_c": (2,), "output_b": (4,), "output_c": (3,)},
    ),
    "of an Input": ({"x": X, "z": Z, "n": LI}, [("x", "n")], {"output_n": (3,), "output_z": (2,)}),
    "taken names": (
        {"n": V, "input_n": LI, "input_n_0": LI},
        [("n", "input_n"), ("input_n", "input_n_0")],
        {"input_n_1": (3,), "output_input_n_0": (3,)},
    ),
    "Conv2d": ({"c": CONV2D}, [], {"input_c": IMAGE, "output_c": (4, 4, 4)}),
    "groups": ({"c": GROUPED}, [], {"input_c": (4, 7), "output_c": (4, 5)}),
    "Flatten": ({"f": FLATTEN}, [], {"input_f": SERIES, "output_f": (12,)}),
    "one on itself": (
        {"n": V, "m": V, "o": LI},
        [("n", "n"), ("m", "n"), ("n", "o")],
        {"input_m": (3,), "output_o": (3,)},
    ),
}


@pytest.mark.parametrize("name", INVENTED)
def test_inputs_and_outputs_are_added_only_where_there_are_none(name: str) -> None:
    nodes, edges, expected = INVENTED[name]
    result = built(graph(nodes, edges))
    invented = {name: value for name, value in result.nodes.items() if name not in nodes}
    assert {name: value.output_shape for name, value in invented.items()} == expected
    for name, value in invented.items():
        assert value.type == ("Input" if name.startswith("input_") else "Output")
    assert set(result.edges) >= set(edges)
    assert len(result.edges) == len(edges) + len(invented)
    for name in invented:
        assert any(name in edge for edge in result.edges)


def test_inputs_and_outputs_of_nested_graphs_are_added() -> None:
    raw = chain({"net": graph({"a": node("LI"), "b": node("LI")}, [("a", "b")])})
    result = built(raw)
    assert list(result.nodes) == ["in", "net.a", "net.b", "net.input_a", "net.output_b", "out"]
    assert result.edges == (
        ("in", "net.input_a"),
        ("net.a", "net.b"),
        ("net.b", "net.output_b"),
        ("net.input_a", "net.a"),
        ("net.output_b", "out"),
    )
    assert {n.type for n in result.nodes.values()} == {"Input", "Output", "LI", "Identity"}
    assert result.inputs == ("in",)
    assert result.outputs == ("out",)


def test_nested_names_and_edges_are_made_flat() -> None:
    wide_in, wide_out = terminal("Input", (9,)), terminal("Output", (9,))
    inner = graph(
        {"i": wide_in, "j": wide_in, "n": node("LIF"), "o": wide_out},
        [("i", "n"), ("j", "n"), ("n", "o"), ("n", "n")],
    )
    outer = graph(
        {"i": wide_in, "g.h": inner, "o": wide_out},
        [("i", "g.h.i"), ("i", "g.h.n"), ("g.h", "o"), ("g.h.n", "g.h.j")],
    )
    raw = chain({"g": outer, "g.x": node("LI")})
    raw["edges"] += [("g.g.h.n", "out"), ("g.x", "g.g.h.o"), ("g.x", "g")]
    result = built(raw)
    assert [*result.nodes] == ["g.g.h.i", "g.g.h.j", "g.g.h.n", "g.g.h.o", "g.i", "g.o", "g.x", "in", "out"]
    expected = """
        in>g.i g.o>g.x g.x>out g.g.h.n>out g.x>g.g.h.o g.x>g.i g.i>g.g.h.i g.i>g.g.h.n g.g.h.o>g.o g.g.h.n>g.g.h.j
        g.g.h.i>g.g.h.n g.g.h.j>g.g.h.n g.g.h.n>g.g.h.o g.g.h.n>g.g.h.n
    """
    assert result.edges == tuple(sorted(tuple(edge.split(">")) for edge in expected.split()))
    assert all(result.nodes[name].input_shape == VECTOR for name in result.nodes)


def test_a_node_with_a_dotted_name_goes_before_a_nested_one() -> None:
    inner = graph({"i": terminal("Input", VECTOR), "o": terminal("Output", VECTOR)}, [("i", "o")])
    raw = chain({"a": inner, "a.b": node("LI")})
    assert ("a.o", "a.b") in built(raw).edges
    assert ("a.b", "out") in built(raw).edges


def test_the_order_of_a_file_does_not_matter() -> None:
    names = ["10", "9", "a", "B", "_", "~", "é", "層", "𝛼", "Ａ", "z", "Z"]
    nodes = {name: node("LI") for name in names}
    edges = [("in", name) for name in names] + [(name, "out") for name in names] + [("a", "B"), ("a", "B"), ("in", "a")]
    texts = set()
    for seed in range(5):
        rng = random.Random(seed)
        ends = {"in": terminal("Input", VECTOR), "out": terminal("Output", VECTOR)}
        shuffled = [*ends.items(), *nodes.items()]
        rng.shuffle(shuffled)
        rng.shuffle(edges)
        result = built(graph(dict(shuffled), list(edges)))
        assert list(result.nodes) == sorted(result.nodes)
        assert list(result.edges) == sorted(edges)
        texts.add(str(result))
    assert len(texts) == 1
    assert list(result.nodes).index("Ａ") < list(result.nodes).index("𝛼")  # code points, not UTF-16


def test_nothing_can_be_changed() -> None:
    result = built(everything())
    mutable: Any = result
    for value in result.nodes.values():
        for parameter in value.parameters.values():
            if isinstance(parameter, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    parameter[...] = 0
    one: Any = result.nodes["b_if"]
    for change in (
        lambda: mutable.nodes.__setitem__("x", one),
        lambda: mutable.nodes.pop("b_if"),
        lambda: one.parameters.__setitem__("r", 1),
        lambda: mutable.metadata.__setitem__("x", 1),
        lambda: one.metadata.__setitem__("x", 1),
        lambda: mutable.edges.__setitem__(0, ("a", "b")),
    ):
        with pytest.raises((TypeError, AttributeError)):
            change()
    for target, field in ((mutable, "edges"), (one, "type"), (mutable, "nodes"), (one, "parameters")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(target, field, None)


def test_arrays_of_the_user_are_neither_frozen_nor_shared() -> None:
    own = np.full(3, 0.5), np.eye(3, dtype=np.float32), np.zeros(3), np.array([1.0, 2.0])
    notes: dict[str, Any] = {"list": [1, 2], "inner": {"a": 1}, "array": own[3]}
    lif = nir.LIF(own[0], np.ones(3), own[2], np.ones(3), own[2], metadata=notes)
    user = nir.NIRGraph.from_list(nir.Linear(own[1]), lif)
    user.metadata = notes
    result = from_nir(user)
    before = pickle.dumps(result)
    for array in own:
        assert array.flags.writeable
        array += 1
    notes["list"].append(3)
    notes["inner"]["a"] = 2
    user.nodes["lif"].tau = np.full(3, 9.0)
    user.edges.clear()
    assert pickle.dumps(result) == before
    assert float(result.nodes["lif"].array("tau").reshape(-1)[0]) == 0.5


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies_are_the_same_and_as_immutable(duplicate: Callable[[Graph], Graph]) -> None:
    raw = everything()
    raw["metadata"] = {"dt": 1e-4, "inner": {"x": np.arange(3)}}
    original = built(raw)
    again = duplicate(original)
    assert_same(again, original)
    assert (again.source, again.version, again.warnings) == (original.source, original.version, original.warnings)
    assert not again.nodes["a_conv2d"].array("weight").flags.writeable
    with pytest.raises(TypeError):
        again.nodes["b_if"].parameters["r"] = 1


def test_it_prints_readably() -> None:
    result = built(everything())
    lines = str(result).splitlines()
    assert lines[0] == "Graph of graph: 19 nodes, 18 edges"
    for name, value in result.nodes.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.split()[1] == value.type
    (line,) = [line for line in lines if line.split()[:1] == ["a_conv2d"]]
    assert line.split()[2:4] == ["2x8x6", "4x8x6"]
    assert "groups=1" in line
    assert "in -> a_conv2d" in lines[-1]
    assert max(map(len, lines[:-1])) < 250


def test_constant_parameters_collapse() -> None:
    values = {"r": np.full((2, 6, 5), 2.0), "v_leak": np.full((1,), 0.5), "tau": np.full((2, 1, 1), 3.0)}
    values["v_threshold"] = np.broadcast_to(np.array([[[1.0]], [[2.0]]]), (2, 6, 5))
    values["v_reset"] = np.broadcast_to(np.arange(5.0), (2, 6, 5))
    parameters = built(chain({"n": node("LIF", **values)}, IMAGE)).nodes["n"]
    shapes = {name: parameters.array(name).shape for name in values}
    assert shapes == {"r": (), "v_leak": (), "tau": (), "v_threshold": (2,), "v_reset": (1, 1, 5)}


MISSTATED = graph(
    {"i": terminal("Input", (7, 7)), "n": node("LIF"), "o": terminal("Output", (1,))}, [("i", "n"), ("n", "o")]
)


def twice(*edges: tuple[str, str]) -> Raw:
    raw = chain({"n": node("LI")})
    return {**raw, "edges": [*raw["edges"], *edges]}


def grouped(**more: Any) -> Raw:
    return node("Conv2d", weight=ramp(4, 1, 3, 3), groups=2, **more)


# Graphs that the type check of the nir package rejects: graph, output shape, words of each warning
ODDITIES: dict[str, tuple[Raw, tuple[int, ...], list[str]]] = {
    "groups with a shape": (chain({"c": grouped(input_shape=np.array([6, 5]))}, IMAGE), (4, 4, 3), []),
    "kernel not square": (chain({"c": CONV2D}, IMAGE), (4, 4, 4), []),
    "duplicate edges": (twice(("in", "n")), VECTOR, []),
    "scalar after a convolution": (chain({"c": CONV2D, "n": node("LIF")}, IMAGE), (4, 4, 4), []),
    "(1,) after it": (chain({"c": CONV2D, "n": node("IF", r=np.ones(1))}, IMAGE), (4, 4, 4), []),
    "(1, 1) after it": (chain({"c": CONV2D, "n": node("LIF", tau=np.ones((1, 1)))}, IMAGE), (4, 4, 4), []),
    "(C,) after it": (chain({"c": CONV2D, "n": node("LI", tau=np.arange(1.0, 5))}, IMAGE), (4, 4, 4), []),
    "nested": (chain({"net": MISSTATED}), VECTOR, ["'net.i'|7x7|3 reaches it", "'net.o'|1|3 reaches it"]),
    "Output": (chain({"n": LINEAR}), (4,), ["'out'|3|4 reaches it"]),
    "Conv2d": (chain({"c": node("Conv2d", input_shape=np.array([9, 9]))}, IMAGE), (4, 4, 4), ["'c'|9x9|6x5"]),
    "Flatten": (chain({"f": node("Flatten", input_type=np.array([1, 12]))}, SERIES), (12,), ["'f'|1x12|2x6"]),
}


@pytest.mark.parametrize("name", ODDITIES)
def test_unusual_files_of_exporters_are_read(name: str, tmp_path: Path) -> None:
    raw, shape, warned = ODDITIES[name]
    raw["metadata"] = {"who": "a tool"}
    if name != "Output":
        raw["nodes"]["out"] = terminal("Output", shape)
    result = read(raw, tmp_path / "odd.nir")
    assert result.nodes["out"].output_shape == shape
    assert result.metadata["who"] == "a tool"
    assert outputs(result, signal(result))["out"].shape == (9, 2, *shape)
    assert len(result.warnings) == len(warned), result.warnings
    for text, words in zip(result.warnings, warned, strict=True):
        assert all(word in text for word in words.split("|")), text
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        neurocuda.load(tmp_path / "odd.nir", Discretization(dt=5e-3, if_gain="r"))
    ours = [str(warning.message) for warning in told if warning.category is NeuroCUDAWarning]
    assert ours == [f"{tmp_path / 'odd.nir'}: {text}" for text in result.warnings]


def test_duplicate_edges_count_twice() -> None:
    raw = chain({"s": node("Scale")})
    raw["edges"] += [("in", "s"), ("s", "out"), ("s", "out")]
    result = built(raw)
    x = signal(result)
    assert torch.equal(outputs(result, x)["out"], x["in"] * torch.tensor([1.0, 2, 3]) * 2 * 3)


def test_a_long_chain_is_read_whatever_its_names() -> None:
    names = [f"n{number:05}" for number in range(3000)][::-1]
    result = built(chain({name: node("Scale", scale=1.0) for name in names}))
    assert len(result.nodes) == 3002
    assert outputs(result, signal(result, 1))["out"].shape == (1, 2, 3)


@pytest.mark.parametrize("wrong", [None, 3, {}, nir.Threshold(np.ones(3))])
def test_only_nir_graphs_are_taken(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=type(wrong).__name__):
        from_nir(wrong)
