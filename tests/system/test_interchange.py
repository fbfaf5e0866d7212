"""The graphs on which the tools of the field disagree, one a row: here each equals the oracle, in any order."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import nir_files
import numpy as np
import pytest
import torch
from comparison import assert_as_oracle, graph_of
from devices import networks_on_each_device
from make_nir import (
    Node,
    affine,
    conv2d,
    delay,
    graph,
    input_,
    linear,
    neuron,
    numbers,
    output,
    scale,
    signal,
)

import neurocuda

IMAGE = (3, 6, 6)


def rows(kind: str) -> dict[str, Node]:
    """The rows that hold neurons, with neurons of one kind."""
    ends = {"input": input_(5), "output": output(5)}
    return {
        "identity skip, two branches": graph(
            "input>a a>n n>b b>m n>m m>output",
            a=affine(5, 5, "a"), n=neuron(kind, 5), b=affine(5, 5, "b"), m=neuron(kind, 5, key=1), **ends,
        ),
        "three branches": graph(
            "input>a input>b a>m b>m input>m m>output",
            a=affine(5, 5, "a"), b=affine(5, 5, "b"), m=neuron(kind, 5), **ends,
        ),
        "skip over two layers": graph(
            "input>n n>a a>m m>b b>k n>k k>output",
            n=neuron(kind, 5), a=affine(5, 5, "a"), m=neuron(kind, 5, key=1), b=affine(5, 5, "b"),
            k=neuron(kind, 5, key=2), **ends,
        ),
        "convolutional residual": graph(
            "input>c1 c1>n1 n1>c2 c2>n2 n2>c3 c3>n3 n1>n3 n3>output",
            input=input_(*IMAGE), c1=conv2d(3, 3, (3, 3), padding=1), n1=neuron(kind, *IMAGE),
            c2=conv2d(3, 3, (3, 3), padding="same"), n2=neuron(kind, *IMAGE, key=1),
            c3=conv2d(3, 3, (1, 1)), n3=neuron(kind, 3, key=2), output=output(*IMAGE),
        ),
        "cycle of neuron and weight": graph(
            "input>n n>w w>n n>output", n=neuron(kind, 5), w=affine(5, 5), **ends
        ),
        "recurrent network": graph(
            "input>fc1 fc1>lif1.lif lif1.w_rec>lif1.lif lif1.lif>lif1.w_rec lif1.lif>fc2 fc2>lif2 lif2>output",
            input=input_(4), fc1=affine(6, 4), lif1__lif=neuron(kind, 6), lif1__w_rec=affine(6, 6),
            fc2=affine(3, 6), lif2=neuron(kind, 3), output=output(3),
        ),
        "recurrent network, nested": graph(
            "input>fc1 fc1>lif1 lif1>fc2 fc2>lif2 lif2>output",
            input=input_(4), fc1=affine(6, 4), fc2=affine(3, 6), lif2=neuron(kind, 3), output=output(3),
            lif1=graph(
                "input>lif lif>w_rec w_rec>lif lif>output",
                input=input_(9), lif=neuron(kind, 6), w_rec=affine(6, 6), output=output(9),
            ),
        ),
        "delays": graph(
            "input>d d>n n>e n>output e>output", d=delay(0, 1, 2, 3, 5), n=neuron(kind, 5), e=delay(4), **ends
        ),
        "several inputs and outputs": graph(
            "i1>n i2>a a>n n>o1 n>m i1>m m>o2 a>o3",
            i1=input_(5), i2=input_(4), a=linear(5, 4), n=neuron(kind, 5), m=neuron(kind, 5, key=1),
            o1=output(5), o2=output(5), o3=output(5),
        ),
    }  # fmt: skip


@networks_on_each_device
@pytest.mark.parametrize("kind", ["IF", "LIF", "CubaLIF"])
@pytest.mark.parametrize("name", rows("IF"))
def test_row_equals_the_oracle(kind: str, name: str) -> None:
    raw = rows(kind)[name]
    inputs = {n: node["shape"] for n, node in raw["nodes"].items() if node["type"] == "Input"}
    for batch in (1, 2):
        x = {n: signal(25, batch, *shape) for n, shape in inputs.items()}
        assert_as_oracle(raw, x, {})


def convolutional_network() -> Node:
    """The layout of the paper's N-MNIST network, small."""
    settings = {"stride": 2, "padding": 1}
    return graph(
        "input>0 0>1 1>2 2>3 3>4 4>5 5>output",
        input=input_(2, 10, 10),
        output=output(4),
        **{
            "0": conv2d(4, 2, (5, 5), **settings),
            "1": neuron("IF", 4, 4, 4),
            "2": {"type": "SumPool2d", "kernel_size": 2, "stride": 2, "padding": 0},
            "3": {"type": "Flatten", "start_dim": 0, "end_dim": -1},
            "4": affine(4, 16),
            "5": neuron("IF", 4),
        },
    )


@networks_on_each_device
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_convolutional_network_of_any_batch_equals_the_oracle(batch: int) -> None:
    assert_as_oracle(convolutional_network(), {"input": signal(20, batch, 2, 10, 10)}, {})


# --- order: five branches of arbitrary floats -------------------------------------------------------------------

BRANCHES = ("b", "e", "a", "d", "c")


def five_branches(edges: list[tuple[str, str]], names: list[str]) -> Node:
    everything = {
        "input": input_(7),
        "output": output(7),
        **{name: scale(numbers("branch", name).normal(0, 1e3, 7)) for name in BRANCHES},
        "sum": neuron("LI", 7),
    }
    return {"type": "NIRGraph", "nodes": {name: everything[name] for name in names}, "edges": edges}


EDGES = [("input", name) for name in BRANCHES] + [(name, "sum") for name in BRANCHES] + [("sum", "output")]
NODES = ["input", "output", "sum", *BRANCHES]


def bits(raw: Node) -> str:
    net = neurocuda.load(graph_of(raw))
    x = torch.from_numpy(numbers("order").normal(0, 1, (4, 2, 7)).astype("f4"))
    with torch.no_grad():
        return hashlib.sha256(net(x)[0].numpy().tobytes()).hexdigest()


def test_no_order_of_edges_or_nodes_in_the_file_changes_a_bit() -> None:
    seen = set()
    for order in itertools.permutations(range(5, 10)):
        edges = EDGES[:5] + [EDGES[i] for i in order] + EDGES[10:]
        turned = NODES[order[0] - 5 :] + NODES[: order[0] - 5]
        seen.add(bits(five_branches(edges, turned)))
    draw = np.random.default_rng(0)
    for _ in range(30):
        edges = [EDGES[i] for i in draw.permutation(len(EDGES))]
        seen.add(bits(five_branches(edges, [NODES[i] for i in draw.permutation(len(NODES))])))
    assert len(seen) == 1


@networks_on_each_device
def test_the_sum_is_the_left_fold_in_order_of_names() -> None:
    assert_as_oracle(five_branches(EDGES, NODES), {"input": numbers("fold").normal(0, 1, (4, 2, 7)).astype("f4")}, {})


@pytest.mark.slow
def test_no_hash_seed_changes_a_bit(tmp_path: Path) -> None:
    file = tmp_path / "five.nir"
    nir_files.write_raw(five_branches(EDGES, NODES), file)
    program = (
        "import hashlib, torch, neurocuda\n"
        f"net = neurocuda.load({str(file)!r})\n"
        "x = torch.randn(4, 2, 7, generator=torch.Generator().manual_seed(0))\n"
        "print(hashlib.sha256(net(x)[0].detach().numpy().tobytes()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in range(6)
    }  # fmt: skip
    assert len(seen) == 1
