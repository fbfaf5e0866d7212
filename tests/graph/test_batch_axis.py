"""Files whose Inputs and Outputs state the batch axis of the exported sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nir_files import write_raw
from raw_nodes import Raw, chain, graph, node, ramp, terminal

import neurocuda
from neurocuda import NeuroCUDAWarning, ShapeError
from neurocuda.graph import build

WITH_BATCH: dict[str, tuple[Raw, tuple[int, ...], tuple[int, ...]]] = {
    # name: nodes between Input and Output, the shapes without batch
    "dense": ({"fc": node("Affine"), "n": node("LIF")}, (3,), (4,)),
    "convolution": ({"conv": node("Conv2d", weight=ramp(4, 2, 3, 3)), "n": node("LIF")}, (2, 6, 5), (4, 4, 3)),
    "flatten": (
        {
            "conv": node("Conv2d", weight=ramp(4, 2, 3, 3)),
            "flat": node("Flatten"),
            "fc": node("Linear", weight=ramp(2, 48)),
        },
        (2, 6, 5),
        (2,),
    ),
    "series": ({"conv": node("Conv1d"), "n": node("LI")}, (2, 6), (4, 4)),
}


def exported(nodes: Raw, shape: tuple[int, ...], out: tuple[int, ...], batch: int) -> Raw:
    raw = chain(nodes, (batch, *shape))
    raw["nodes"]["out"] = terminal("Output", (batch, *out))
    return raw


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("case", WITH_BATCH)
def test_a_batch_axis_is_dropped_with_one_warning(case: str, batch: int) -> None:
    nodes, shape, out = WITH_BATCH[case]
    with_it, _ = build(exported(nodes, shape, out, batch), "exported", None)
    plain, _ = build({**chain(nodes, shape)}, "plain", None)
    assert with_it is not None
    assert plain is not None
    assert [node.input_shape for node in with_it.nodes.values()] == [n.input_shape for n in plain.nodes.values()]
    stated = ["x".join(map(str, (batch, *sizes))) for sizes in (shape, out)]
    assert len(with_it.warnings) == 1
    assert with_it.warnings[0].startswith(
        f"Input 'in' ({stated[0]}), Output 'out' ({stated[1]}): with the stated shape"
    )
    x = torch.rand(5, 2, *shape).round()
    with pytest.warns(NeuroCUDAWarning, match="batch axis of the sample") as warned:
        net = neurocuda.load(with_it)
    assert sum("batch axis" in str(warning.message) for warning in warned) == 1
    assert torch.equal(net(x)[0], neurocuda.load(plain)(x)[0])


def test_a_written_copy_states_no_batch_axis(tmp_path: object) -> None:
    graph_, _ = build(exported(*WITH_BATCH["convolution"], 4), "exported", None)
    assert graph_ is not None
    neurocuda.write(graph_, f"{tmp_path}/copy.nir")
    copy = neurocuda.read(f"{tmp_path}/copy.nir")
    assert copy.warnings == ()
    assert copy.nodes["in"].output_shape == (2, 6, 5)


def test_an_axis_with_which_shapes_fit_is_no_batch_axis() -> None:
    """A first axis of size 1 stays where nothing contradicts it, and a weight may have batch axes of its own."""
    for nodes, shape in (
        ({"n": node("LIF")}, (1, 3)),
        ({"fc": node("Linear", weight=np.stack([ramp(4, 3)] * 2))}, (2, 3)),
        ({"conv": node("Conv2d")}, (2, 6, 5)),
    ):
        found, problems = build(chain(nodes, shape), "graph", None)
        assert not problems
        assert found is not None
        assert found.nodes["in"].output_shape == shape
        assert not any("batch axis" in line for line in found.warnings)


def test_shapes_that_fit_neither_with_nor_without_it_are_reported_as_stated() -> None:
    _, problems = build(exported({"fc": node("Affine")}, (7,), (4,), 2), "graph", None)
    assert [str(problem) for problem in problems] == [
        "edge 'in' -> 'fc': expected shape (3,), the input of Affine 'fc', found shape (2, 7), the output of Input 'in'"
    ]
    inputs = {"a": terminal("Input", (2, 3)), "b": terminal("Input", (4, 3)), "out": terminal("Output", (4,))}
    raw = graph({**inputs, "fc": node("Affine")}, [("a", "fc"), ("b", "fc"), ("fc", "out")])
    assert len(build(raw, "graph", None)[1]) == 2  # two batches of different sizes are none


def test_every_input_of_several_loses_it() -> None:
    inputs = {"a": terminal("Input", (2, 3)), "b": terminal("Input", (2, 3)), "out": terminal("Output", (2, 4))}
    raw = graph({**inputs, "fc": node("Affine")}, [("a", "fc"), ("b", "fc"), ("fc", "out")])
    found, _ = build(raw, "graph", None)
    assert found is not None
    assert [found.nodes[name].output_shape for name in ("a", "b")] == [(3,), (3,)]
    assert len(found.warnings) == 1


TRANSPOSED = {
    "linear": (node("Linear", weight=ramp(3, 4)), (3,), "the weight (3, 4) is transposed?"),
    "affine": (node("Affine", weight=ramp(3, 4), bias=ramp(4)), (3,), "the weight is transposed?"),
    "convolution": (node("Conv2d", weight=ramp(2, 4, 3, 3)), (2, 6, 5), "the weight is transposed?"),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_a_weight_that_fits_transposed_is_told(case: str, tmp_path: object) -> None:
    layer, shape, hint = TRANSPOSED[case]
    write_raw(chain({"fc": layer}, shape), f"{tmp_path}/x.nir")
    with pytest.raises(ShapeError) as raised:
        neurocuda.read(f"{tmp_path}/x.nir")
    assert hint in str(raised.value)


def test_a_weight_that_fits_in_no_orientation_is_not_called_transposed() -> None:
    for layer, shape in ((node("Linear", weight=ramp(3, 4)), (5,)), (node("Conv2d"), (7, 6, 5))):
        _, problems = build(chain({"fc": layer}, shape), "graph", None)
        assert problems
        assert not any("transposed" in str(problem) for problem in problems)


def test_added_outputs_are_explained() -> None:
    """nir.NIRGraph adds Outputs to nodes without outgoing edges: a nested graph then has two."""
    inner_nodes = {
        "in": terminal("Input", (3,)),
        "lif": node("LIF"),
        "loose": node("LI"),
        "out": terminal("Output", (3,)),
    }
    inner_edges = [("in", "lif"), ("lif", "out"), ("lif", "loose")]
    added = {"output_loose": terminal("Output", (3,))}
    inner = graph({**inner_nodes, **added}, [*inner_edges, ("loose", "output_loose")])
    raw = chain({"net": inner})
    _, problems = build(raw, "graph", None)
    assert [problem.found for problem in problems] == [
        "'net.out', 'net.output_loose'; Output 'output_loose' was added to node 'loose', which has no other outgoing "
        "edge: the nir package adds an Output to such a node"
    ]
    both = graph({**inner_nodes, "output_b": terminal("Output", (3,))}, [*inner_edges, ("lif", "output_b")])
    assert "was added" not in str(build(chain({"net": both}), "graph", None)[1])
