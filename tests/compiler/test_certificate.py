"""What a certificate says: the first node that is not exact, why, and what would make it so; promises on inputs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from comparison import graph_of
from layers_at_bound import MOST, ones, weighted
from make_nir import Node, affine, graph, input_, neuron, output, scale
from paper import FOLDER, needs_paper

import neurocuda
from neurocuda import ArgumentError, Graph
from neurocuda.compiler.certificate import Certificate
from neurocuda.compiler.exactness import certify
from neurocuda.compiler.grids import InputGrid

FLAWS: dict[str, tuple[Node, str, str, str]] = {
    "float weights": (
        graph("input>fc fc>output", input=input_(3), fc=affine(2, 3), output=output(2)),
        "fc",
        "more than 24 bits a weight",
        "neurocuda.quantize",
    ),
    "an average over 9": (
        graph(
            "input>pool pool>f f>fc fc>output",
            input=input_(1, 3, 3),
            pool={"type": "AvgPool2d", "kernel_size": np.array([3, 3]), "stride": np.array([3, 3]), "padding": 0},
            f={"type": "Flatten", "start_dim": 0, "end_dim": -1},
            fc=weighted(1),
            output=output(1),
        ),
        "fc",
        "on no grid since node 'pool' (AvgPool2d): it divides by 9",
        "SumPool2d with 1/area in the next weights",
    ),
    "a scale of many bits": (
        graph("input>s s>fc fc>output", input=input_(2), s=scale(0.3), fc=weighted(1, 1), output=output(1)),
        "fc",
        "since node 's' (Scale): it takes its signal off the grid",
        "a scale of a power of two",
    ),
    "a potential that decays": (
        graph("input>n n>fc fc>output", input=input_(2), n=neuron("LI", 2), fc=weighted(1, 1), output=output(1)),
        "fc",
        "since node 'n' (LI): it outputs a potential that decays",
        "a spiking neuron outputs 0 or 1",
    ),
    "a potential without steps": (
        graph("input>n n>fc fc>output", input=input_(2), n=ones("I", 2), fc=weighted(1, 1), output=output(1)),
        "fc",
        "since node 'n' (I): it outputs a potential that grows with time",
        "certify(..., steps=)",
    ),
    "a cycle without spikes": (
        graph(
            "input>fc fc>n n>s s>fc fc>output",
            input=input_(2),
            n=ones("I", 2),
            s=scale(0.5),
            fc={"type": "Linear", "weight": np.eye(2, dtype="f4")},
            output=output(2),
        ),
        "fc",
        "its output feeds back to it without bound",
        "a spiking neuron in the cycle",
    ),
    "branches too far apart": (
        graph(
            "input>a input>b a>fc b>fc fc>output",
            input=input_(2),
            a=scale(2.0**20),
            b=scale(2.0**-10),
            fc=weighted(1, 1),
            output=output(1),
        ),
        "fc",
        "since node 'fc' (Linear): the sum of its branches may reach 2^38.0 steps of 2^-10",
        "fewer or coarser branches",
    ),
    "too many terms": (
        graph("input>fc fc>output", input=input_(2), fc=weighted(2.0**16, 2.0**16 - 1, bias=0.5), output=output(1)),
        "fc",
        "18 bits a weight, its sum may reach 2^26.0 steps of 2^-1",
        "float32 represents 2^24",
    ),
    "a window too large": (
        graph(
            "input>pool pool>output",
            input=input_(1, 300, 300),
            pool={"type": "SumPool2d", "kernel_size": np.array([300, 300]), "stride": 1, "padding": 0},
            output=output(1, 1, 1),
        ),
        "pool",
        "its sum may reach 2^24.5 steps",
        "a smaller window, or fewer bits",
    ),
}


@pytest.mark.parametrize("name", FLAWS)
def test_the_first_node_that_is_not_exact_says_why(name: str) -> None:
    raw, node, reason, remedy = FLAWS[name]
    certificate = certify(graph_of(raw))
    assert_first(certificate, node, reason, remedy)


def assert_first(certificate: Certificate, node: str, reason: str, remedy: str) -> None:
    first = certificate.first
    assert first is not None
    assert not certificate.exact
    assert first.node == node
    assert reason in first.reason
    assert remedy in first.remedy
    assert str(certificate).splitlines()[-1] == f"not exact, first {first}"
    assert certificate.of(node) == first


@needs_paper
@pytest.mark.parametrize(
    ("file", "node", "type_"),
    [
        ("cnn/cnn_sinabs.nir", "0", "Conv2d"),
        ("rnn/braille_noDelay_bias_zero.nir", "fc1", "Affine"),
        ("rnn/braille_noDelay_bias_zero_nested.nir", "fc1", "Affine"),
    ],
)
def test_the_papers_networks_are_inexact_by_their_weights(file: str, node: str, type_: str) -> None:
    certificate = certify(neurocuda.read(FOLDER / file))
    assert certificate.first is not None
    assert certificate.first.type == type_
    assert_first(
        certificate, node, "more than 24 bits a weight, its sum may reach 2^", "neurocuda.quantize(graph, bits=8)"
    )


def test_a_graph_without_layers_is_exact() -> None:
    certificate = certify(graph_of(graph("input>n n>output", input=input_(2), n=neuron("LIF", 2), output=output(2))))
    assert certificate.exact
    assert certificate.first is None
    assert certificate.of("n") is None


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"step": 0.3}, "input_grid, step: expected a power of two, found 0.3"),
        ({"step": 0.0}, "input_grid, step: expected a power of two, found 0.0"),
        ({"step": -1.0}, "input_grid, step: expected a power of two, found -1.0"),
        ({"step": 2.0**-127}, "input_grid, step: expected a power of two"),
        ({"step": "1"}, "input_grid: expected three finite numbers"),
        ({"high": float("inf")}, "input_grid: expected three finite numbers"),
        ({"low": float("nan")}, "input_grid: expected three finite numbers"),
        ({"low": 2, "high": 1}, "input_grid: expected low <= high, found 2 and 1"),
        ({"low": 0.2, "high": 0.8}, "input_grid: expected a multiple of the step between low and high"),
        ({"high": MOST + 1}, "input_grid: expected bounds within 16777216 steps, which float32 represents"),
        ({"low": -MOST - 1, "step": 1}, "input_grid: expected bounds within 16777216 steps"),
        ({"high": 1e300, "step": 2.0**-126}, "input_grid: expected bounds within 16777216 steps"),
    ],
)
def test_a_promise_that_cannot_be_is_refused(how: dict[str, Any], told: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(told)):
        InputGrid(**how)


def test_the_ends_of_a_promise_are_its_outermost_multiples() -> None:
    assert InputGrid(1.0, -0.5, 256 - 1e-9) == InputGrid(1, 0, 255)
    assert str(InputGrid(0.25, -1.1, 1.1)) == "multiples of 0.25 from -1 to 1"
    assert InputGrid(high=MOST).high == MOST


def test_promises_by_name() -> None:
    two = graph("a>n b>n n>output", a=input_(2), b=input_(2), n=neuron("LIF", 2), output=output(2))
    found = graph_of(two)
    assert dict(certify(found).inputs) == {"a": InputGrid(), "b": InputGrid()}
    assert dict(certify(found, input_grid={"b": InputGrid(high=1)}).inputs) == {
        "a": InputGrid(),
        "b": InputGrid(high=1),
    }
    wrong: Any
    for wrong in (3, {"a": 3}, [InputGrid()]):
        with pytest.raises(ArgumentError, match="input_grid: expected an InputGrid, or a dict of them by input, found"):
            certify(found, input_grid=wrong)
    with pytest.raises(ArgumentError, match=re.escape("input_grid: expected the inputs ['a', 'b'], found ['c']")):
        neurocuda.load(found, input_grid={"c": InputGrid()})
    for wrong in (0, -1, 2.0, True, "3"):
        with pytest.raises(ArgumentError, match=f"steps: expected an integer >= 1, found {wrong!r}"):
            certify(found, steps=wrong)


def test_a_node_without_a_rule_is_not_proved() -> None:
    """A primitive that the certificate does not know may give anything: nothing after it is exact."""
    known = graph_of(
        graph("input>m m>fc fc>output", input=input_(2), m=scale(1.0), fc=weighted(1, 1), output=output(1))
    )
    assert certify(known).exact
    traced = {"m": replace(known.nodes["m"], type="ReLU")}
    certificate = certify(Graph({**known.nodes, **traced}, known.edges))
    assert not certificate.exact
    (proof,) = certificate.proofs
    assert proof.node == "fc"
    assert "since node 'm' (ReLU): it has no range rule" in proof.reason
