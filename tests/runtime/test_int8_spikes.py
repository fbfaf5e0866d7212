"""Spikes as uint8 between int8 layers: the bits of float32 spikes, and float32 wherever a user sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch
from comparison import assert_equal, graph_of, order_of, recorded, tensors, told
from drawn import settings
from integer_networks import (
    BY_R,
    COUNTS,
    assert_again,
    conv,
    fc,
    fires,
    needs_bytes,
    pool,
    same,
    ways,
)
from layers_at_bound import ones
from make_nir import Node, delay, graph, input_, neuron, numbers, output, scale, threshold

import neurocuda
from neurocuda import Discretization, Executor

IMAGE = (2, 4, 4)
FLAT = {"type": "Flatten", "start_dim": 0, "end_dim": -1}
ENDS = {"input": input_(*IMAGE), "c1": conv(3, 2), "n1": fires(3, 4, 4)}

BYTES: dict[str, tuple[Node, dict[str, Any], set[str]]] = {
    "one after another": (
        graph(
            "input>c1 c1>n1 n1>c2 c2>n2 n2>c3 c3>output",
            **ENDS,
            c2=conv(2, 3, key=5),
            n2=fires(2, 4, 4),
            c3=conv(1, 2, 1),
            output=output(1, 4, 4),
        ),
        BY_R,
        {"n1", "n2"},
    ),
    "a skip read by a layer and by neurons": (
        graph(
            "input>c1 c1>n1 n1>c2 c2>n2 n2>c3 c3>n3 n1>n3 n3>c4 n1>c4 c4>output",
            **ENDS,
            c2=conv(3, 3, key=2),
            n2=fires(3, 4, 4, key=2),
            c3=conv(3, 3, key=3),
            n3=fires(3, 4, 4, key=3),
            c4=conv(2, 3),
            output=output(2, 4, 4),
        ),
        BY_R,
        {"n1", "n2", "n3"},
    ),
    "twice the same edge": (
        graph("input>c1 c1>n1 n1>c2 n1>c2 c2>output", **ENDS, c2=conv(2, 3), output=output(2, 4, 4)),
        BY_R,
        {"n1"},
    ),
    "many readers, and an output": (
        graph(
            "input>c1 c1>n1 n1>c2 n1>p n1>q n1>f n1>s n1>t n1>d n1>li n1>out2 "
            "c2>out1 p>out3 q>out3 f>out4 s>out5 t>out5 d>out5 li>out5",
            **ENDS,
            c2=conv(2, 3),
            p=pool("SumPool2d"),
            q=pool("AvgPool2d"),
            f=FLAT,
            s=scale(0.3),
            t=threshold(0.5),
            d=delay(2.0),
            li=neuron("LI", 3, 4, 4),
            out1=output(2, 4, 4),
            out2=output(3, 4, 4),
            out3=output(3, 2, 2),
            out4=output(48),
            out5=output(3, 4, 4),
        ),
        BY_R,
        {"n1"},
    ),
    "pool and flatten between": (
        graph(
            "input>c1 c1>n1 n1>p p>c2 c2>n2 n2>f f>fc fc>n3 n3>gc gc>output",
            **ENDS,
            p=pool("SumPool2d"),
            c2=conv(2, 3),
            n2=fires(2, 2, 2),
            f=FLAT,
            fc=fc(5, 8),
            n3=fires(5),
            gc=fc(2, 5),
            output=output(2),
        ),
        BY_R,
        {"n3"},
    ),
    "soft reset": (
        graph(
            "input>c1 c1>i i>t t>z z>i t>c2 t>n2 c2>n2 n2>c3 c3>output",
            input=input_(*IMAGE),
            c1=conv(3, 2),
            i=ones("I", 3, 4, 4),
            t=threshold(np.full((3, 4, 4), 3.0)),
            z=scale(np.full((3, 4, 4), -4.0)),
            c2=conv(3, 3),
            n2=fires(3, 4, 4),
            c3=conv(2, 3),
            output=output(2, 4, 4),
        ),
        BY_R,
        {"t", "n2"},
    ),
    "a step late": (
        graph("input>c1 c1>n1 n1>c2 c2>n2 n2>output", **ENDS, c2=conv(2, 3), n2=fires(2, 4, 4), output=output(2, 4, 4)),
        {**BY_R, "output_delay": 1},
        set(),
    ),
    "a reader in a cycle": (
        graph(
            "input>c1 c1>n1 n1>c2 c2>output n1>n2 n2>c3 c3>n2 n2>output2 n2>c4 c4>output",
            **ENDS,
            c2=conv(2, 3),
            n2=fires(3, 4, 4, key=2),
            c3=conv(3, 3, key=3),
            c4=conv(2, 3, key=4),
            output=output(2, 4, 4),
            output2=output(3, 4, 4),
        ),
        BY_R,
        set(),
    ),
    "a neuron and its weight": (
        graph(
            "input>a a>n1 n1>b b>lif lif>w w>lif lif>c c>output n1>lif",
            input=input_(4),
            a=fc(3, 4),
            n1=fires(3),
            b=fc(3, 3),
            lif=neuron("CubaLIF", 3),
            w=fc(3, 3, 1),
            c=fc(2, 3),
            output=output(2),
        ),
        {},
        set(),
    ),
    "counts": (
        graph(
            "input>c1 c1>t t>n1 n1>c2 c2>n2 n2>output n1>n2 n1>output2",
            input=input_(*IMAGE),
            c1=conv(3, 2),
            t=threshold(1.0),
            n1=ones("IF", 3, 4, 4, r=np.full((3, 4, 4), 252.5)),
            c2=conv(3, 3),
            n2=ones("IF", 3, 4, 4, v_threshold=np.full((3, 4, 4), 50.0)),
            output=output(3, 4, 4),
            output2=output(3, 4, 4),
        ),
        COUNTS,
        {"n1"},
    ),
}


@needs_bytes
@pytest.mark.parametrize("name", BYTES)
def test_spikes_in_bytes_give_the_same_bits(name: str) -> None:
    raw, options, in_bytes = BYTES[name]
    found, d = graph_of(raw), Discretization(**options)
    force = {name: hows[-1] for name, hows in ways(Executor(found, d)).items()}
    shape = tuple(raw["nodes"]["input"]["shape"])
    for chunk, batch, threads in ((1, 2, 1), (3, 1, 2), (32, 3, 1)):
        net = Executor(found, d, force=force, chunk=chunk)
        assert net.schedule.bytes == in_bytes
        assert len(net.schedule.integer_layers) > 0
        x = {"input": numbers(name, chunk).integers(0, 9, (8, batch, *shape)).astype("f4")}
        expected = oracle.run(raw, x, options)
        assert all(expected.node_outputs[population].any() for population in in_bytes)
        with settings(threads):
            assert_equal(recorded(net, x), told(expected), order_of(net), str(net))
            assert_again(net, x)
            assert_types(net, x)
            with torch.no_grad(), neurocuda.use_backend("reference"):
                assert same(net(tensors(x))[0], net_outputs(net, x))


@needs_bytes
def test_tiles_of_a_chunk_change_no_bit() -> None:
    """Signals too large for a cache run piece by piece."""
    size = (32, 24, 24)
    edges = "input>c1 c1>n1 n1>c2 c2>n2 n2>c3 c3>n3 n1>n3 n3>p p>c4 c4>output n3>output2 n1>output2"
    nodes = {"c1": conv(32, 3, key=1), "c2": conv(32, 32, key=2), "c3": conv(32, 32, key=3), "c4": conv(8, 32, key=4)}
    nodes |= {"n1": fires(*size), "n2": fires(*size, key=2), "n3": fires(*size, key=3), "p": pool("SumPool2d")}
    ends = {"input": input_(3, 24, 24), "output": output(8, 12, 12), "output2": output(*size)}
    found, d = graph_of(graph(edges, **nodes, **ends)), Discretization(**BY_R)
    x = {"input": numbers("pieces").integers(0, 3, (32, 2, 3, 24, 24)).astype("f4")}
    nets = [Executor(found, d, force=dict.fromkeys(("c1", "c2", "c3", "c4"), how)) for how in ("integer", "library")]
    assert nets[0].schedule.bytes == {"n1", "n2"}
    assert_equal(recorded(nets[0], x), recorded(nets[1], x), order_of(nets[0]), str(nets[0]))
    assert any(output_.any() for output_ in net_outputs(nets[0], x).values())
    assert_again(nets[0], x)


def net_outputs(net: Executor, x: dict[str, np.ndarray]) -> Any:
    with torch.no_grad():
        return net(tensors(x))[0]


def assert_types(net: Executor, x: dict[str, np.ndarray]) -> None:
    """Nothing that a user sees is in bytes."""
    with torch.no_grad():
        record = dict.fromkeys(net.schedule.bytes, ("spikes", "output", "input"))
        result = net.run(tensors(x), record=record)
    seen = list(result.output.values()) if isinstance(result.output, dict) else [result.output]
    seen += [*result.state.tensors.values(), *(t for of_node in result.recordings.values() for t in of_node.values())]
    assert {t.dtype for t in seen} == {torch.float32}


@needs_bytes
@pytest.mark.parametrize(("gain", "fits"), [(253.0, True), (254.0, False)])
def test_spike_counts_above_255_are_float32(gain: float, fits: bool) -> None:
    nodes = {"t": threshold(0.5), "n": ones("IF", 4, r=np.full(4, gain)), "fc": fc(2, 4)}
    raw = graph("input>t t>n n>fc fc>output", input=input_(4), output=output(2), **nodes)
    found, d = graph_of(raw), Discretization(**COUNTS)
    assert ("integer" in ways(Executor(found, d))["fc"]) is fits
    net = Executor(found, d, force={"fc": "integer" if fits else "library"})
    assert net.schedule.bytes == ({"n"} if fits else set())
    x = {"input": np.ones((6, 2, 4), np.float32)}
    assert_equal(recorded(net, x), told(oracle.run(raw, x, COUNTS)), order_of(net), str(net))
