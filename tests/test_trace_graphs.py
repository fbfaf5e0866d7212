"""What the nodes of a traced network are, and that tracing leaves the model alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import traced
from test_trace import CALLS, IMAGE, Does, calls_of, conv, norm
from torch import Tensor, nn
from torch.nn import functional

from neurocuda import ArgumentError
from neurocuda.convert.rectified import evaluate, evaluate_all, rectifiers
from neurocuda.convert.trace import trace


def test_names_and_nodes() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = conv(4, 4, padding=1, bias=False), conv(4, 4, padding=1, bias=False)
            self.bn1, self.bn2, self.relu = norm(), norm(), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            y += x
            return functional.relu(self.relu(y))

    model = traced.randomised(nn.Sequential(conv(), nn.ReLU6(), Block()))
    graph = traced.check(model, traced.frames(1, 3, 5, 5))
    block = ["2.conv1", "2.conv2", "2.relu", "2.relu#2"]
    assert sorted(graph.nodes) == sorted(["0", "1", *block, "input", "output", "relu"])
    assert rectifiers(graph) == ("1", "2.relu", "2.relu#2", "relu")
    assert graph.nodes["1"].array("cap") == 6
    assert "cap" not in graph.nodes["2.relu"].parameters
    assert [a for a, b in graph.edges if b == "2.relu#2"] == ["1", "2.conv2"]  # the sum makes no node
    weight = graph.nodes["2.conv1"].array("weight")
    bn = model[2].bn1
    own = (
        model[2].conv1.weight.double()
        * (bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt())[:, None, None, None]
    )
    assert weight.dtype == np.float64
    np.testing.assert_allclose(weight, own.detach().numpy(), rtol=1e-14)


@pytest.mark.parametrize("name", ["input", "output"])
def test_modules_named_like_the_ends(name: str) -> None:
    model = Does(lambda m, x: getattr(m, name)(x), **{name: nn.Linear(6, 2)})
    graph = traced.check(model, traced.frames(1, 6))
    assert graph.inputs == ("input",)
    assert graph.outputs == ("output",)
    assert graph.nodes[f"{name}#2"].type == "Affine"


NODES = {
    "norm after a sum": ("norm of a sum", {"Conv2d": 2}),
    "norm after a sum used twice": ("norm of a sum that is used twice", {"Conv2d": 3}),
    "norm of a sum with the input": ("norm of a sum with the input", {"Conv2d": 2}),
    "constants before a plain layer": ("by channels into a layer", {"Conv2d": 1}),
    "constants before a padded layer": ("by channels into a padded layer", {"Conv2d": 2}),
    "a factor": ("0.5 * x", {"Conv2d": 1}),
    "a factor of what cannot hold it": ("half of half", {"Scale": 1}),
    "a difference": ("-", {"Conv2d": 2}),
    "dead code": ("dead code", {"Conv2d": 1}),
    "a cat into a layer": ("cat into a layer", {"Conv2d": 3, "ReLU": 1}),
}


@pytest.mark.parametrize("case", NODES)
def test_which_nodes(case: str) -> None:
    name, expected = NODES[case]
    assert traced.kinds(trace(calls_of(CALLS[name]), traced.frames(1, *IMAGE))) == expected


def test_maximum_is_of_rectifiers() -> None:
    graph = trace(nn.MaxPool2d(3, 2), traced.frames(1, *IMAGE))
    assert traced.kinds(graph) == {"Conv2d": 6, "ReLU": 4}
    weights = {float(w) for node in graph.nodes.values() if node.type == "Conv2d" for w in node.array("weight").flat}
    assert weights <= {-1.0, 0.0, 1.0}


def test_example_of_any_size_and_mode() -> None:
    model = traced.randomised(nn.Sequential(conv(padding=1), norm(), nn.ReLU(), nn.Dropout(), nn.Flatten()))
    x = traced.frames(5, *IMAGE)
    graphs = [trace(model.train(mode), x[:count]) for mode in (True, False) for count in (1, 5)]
    assert len({str(graph) for graph in graphs}) == 1
    assert all(torch.equal(evaluate(graph, x)[0], evaluate(graphs[0], x)[0]) for graph in graphs)


def test_what_a_forward_changes_is_a_copy() -> None:
    class Counts(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.weight.data.clamp_(-0.1, 0.1)
            return super().forward(x)

    traced_model = Counts(6, 4)
    before = traced.state(traced_model)
    graph = trace(traced_model, traced.frames(1, 6))
    assert traced_model.calls == 0
    assert torch.equal(traced_model.weight, before["weight"])
    assert abs(graph.nodes["linear"].array("weight")).max() == pytest.approx(0.1)


def test_evaluate() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    x = traced.frames(3, 6)
    graph = trace(model, x)
    y, recorded = evaluate(graph, x, record=["0", "1"])
    assert torch.equal(recorded["0"], model[0](x))
    assert torch.equal(recorded["1"], model[:2](x))
    assert y.dtype == torch.float32
    assert evaluate(graph, x.double(), dtype=torch.float64)[0].dtype == torch.float64
    with pytest.raises(ArgumentError, match=r"record: expected names of nodes, found '3'; the nearest name"):
        evaluate(graph, x, record=["3"])
    with pytest.raises(ArgumentError, match=r"x: expected frames \[B, \*\(6,\)\], found shape \(3, 5\)"):
        evaluate(graph, x[:, 1:])
    two = trace(Does(lambda m, x: (x, x)), x)
    assert set(evaluate_all(two, x)[0]) == {"output.0", "output.1"}
    with pytest.raises(ArgumentError, match=r"expected one Output, found 2: output\.0, output\.1"):
        evaluate(two, x)


@pytest.mark.parametrize("strict", [True, False])
def test_of_torch_export(strict: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(padding=1), norm(), nn.ReLU6(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = traced.randomised(model).eval()
    x = traced.frames(2, *IMAGE)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=strict).module()
    y, _ = evaluate(trace(exported, x), x.double(), dtype=torch.float64)
    with torch.no_grad():
        assert float((y - model.double()(x.double())).abs().max()) < traced.EXACT
