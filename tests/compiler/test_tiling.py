"""Pieces of a chunk: which stages share them, and that they change no bit."""

from __future__ import annotations

import nir
import numpy as np
import oracle
import pytest
import torch
from comparison import assert_equal, graph_of, order_of, recorded, told
from hypothesis import given
from hypothesis import strategies as st
from integer_networks import conv
from make_nir import graph, input_, neuron, output, scale, signal, threshold
from raw_nodes import chain, node
from resnet import DT, nir_graph, weights
from stateful import network
from strategies import Case, cases

import neurocuda
from neurocuda import Discretization, Executor
from neurocuda.compiler import tiling
from neurocuda.ops import backends, native


@given(cases(), st.sampled_from([1, 3, 40, 2**10]))
def test_pieces_of_any_length_equal_the_oracle(case: Case, piece: int) -> None:
    net = Executor(graph_of(case.raw), Discretization(**case.discretization))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "PIECE", piece)
        found = recorded(net, case.x)
    assert_equal(found, told(case.expected), order_of(net), f"piece {piece}\n{net}\n{net.graph}")


@given(cases(), st.integers(1, 2**12), st.integers(1, 4), st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_spans_cover_every_stage_once_and_in_order(
    case: Case, piece: int, batch: int, steps: int, threads: int, alone: bool
) -> None:
    lowered = Executor(graph_of(case.raw), Discretization(**case.discretization)).schedule
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "PIECE", piece)
        found = tiling.spans(lowered, batch, steps, threads, alone=alone)
    assert [number for span in found for number in span.stages] == list(range(len(lowered.stages)))
    for span in found:
        assert 1 <= span.steps <= steps
        assert 1 <= span.samples <= batch
        assert span.samples == batch or alone, "a state that is left is cut by steps"


@given(st.integers(1, 2000), st.integers(1, 64), st.integers(1, 10_000), st.sampled_from([None, 1, 7, 40]))
def test_chunks_are_even_and_as_long_as_a_device_likes(steps: int, batch: int, wide: int, asked: int | None) -> None:
    lowered = network(chain({"a": node("IF"), "b": node("IF")}, (wide,))).schedule
    on = {place: tiling.steps_of_chunk(lowered, asked, steps, batch, torch.device(place)) for place in ("cpu", "cuda")}
    for length, at_once in zip(on.values(), (tiling.AT_ONCE, tiling.ON_GPU), strict=True):
        if asked is not None or steps <= tiling.CHUNK:
            assert length == (asked or tiling.CHUNK)
            continue
        assert 2 * length >= tiling.CHUNK
        assert length * wide * batch <= max(at_once, tiling.CHUNK * wide * batch)
        chunks = -(-steps // length)
        assert chunks * length - steps < chunks, "all nearly of one length"


def test_a_resnet_runs_wide_layers_in_pieces_and_heavy_ones_whole() -> None:
    lowered = neurocuda.load(nir_graph(weights()), Discretization(dt=DT)).schedule

    def by_node(threads: int) -> dict[str, int]:
        found = tiling.spans(lowered, 4, 8, threads)
        return {e.node.name: span.steps for span in found for n in span.stages for e in lowered.stages[n].nodes}

    one, two = by_node(1), by_node(2)
    assert one["layer1.0.conv1"] == one["layer1.1.if2"] == tiling.PIECE // (4 * 64 * 32 * 32)
    assert one["layer4.0.conv1"] == one["layer4.1.if2"] == 8
    for threads, piece in ((1, 2), (2, 4)):
        found = [span.steps for span in tiling.spans(lowered, 4, 8, threads)]
        assert found == [8, piece, 8], "what two pieces would hold is not cut again"
        alone = [(span.steps, span.samples) for span in tiling.spans(lowered, 4, 8, threads, alone=True)]
        assert alone == [(8, 4), (8, threads), (8, 4)], "without a state that is left, a sample for each thread"
    assert two["layer1.0.conv1"] == 2 * one["layer1.0.conv1"], "each thread has its part of a piece in its cache"
    big = tiling.spans(lowered, 512, 8)
    assert {span.steps for span in big} == {1}, "with many samples, a step has frames enough for every layer"
    few = {span.samples for span in tiling.spans(lowered, 512, 8, alone=True)}
    assert max(few) < 128, "and so have some of them over all steps"


def test_channels_last_leave_a_library_convolution_what_it_is() -> None:
    draw = np.random.default_rng(3)
    for size, into, out, last in ((16, 3, 17, True), (16, 3, 16, False), (17, 3, 16, True), (7, 3, 17, False)):
        weight = draw.integers(-4, 5, (out, into, 3, 3)).astype(np.float32)
        node = nir.Conv2d((size, size), weight, (1, 1), (1, 1), (1, 1), 1, np.arange(out, dtype=np.float32))
        ends = {"input": nir.Input(np.array([into, size, size])), "output": nir.Output(np.array([out, size, size]))}
        graph = nir.NIRGraph({**ends, "conv": node}, [("input", "conv"), ("conv", "output")])
        net = Executor(neurocuda.from_nir(graph), force={"conv": "library"})
        lowered = next(stage.nodes[0] for stage in net.schedule.stages if stage.nodes[0].node.name == "conv")
        assert lowered.channels_last == last
        x = torch.from_numpy(draw.integers(0, 2, (2, 3, into, size, size)).astype(np.float32))
        expected = torch.nn.functional.conv2d(x.flatten(0, 1).double(), torch.from_numpy(weight).double(), padding=1)
        expected = expected.unflatten(0, (2, 3)) + torch.arange(out).double()[:, None, None]
        with torch.no_grad():
            found = net(x)[0]
        assert torch.equal(found.double(), expected), f"{into} to {out} channels of {size} x {size}"
        assert found.is_contiguous()


@pytest.mark.parametrize("options", [{}, {"output_delay": 1}])
def test_a_soft_reset_that_hears_of_the_step_before_runs_whole(options: dict[str, int]) -> None:
    raw = graph(
        "input>n n>i i>z z>s s>i n>p p>output",
        input=input_(1, 2, 3),
        n=neuron("IF", 1, 2, 3),
        i=neuron("I", 1, 2, 3),
        z=threshold(1.0),
        s=scale(-1.0),
        p=scale(0.5),
        output=output(1, 2, 3),
    )
    x = {"input": signal(9, 2, 1, 2, 3) * 2}
    net = Executor(graph_of(raw), Discretization(dt=1e-4, **options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "PIECE", 20)
        found = recorded(net, x)
    expected = oracle.run(raw, x, {"dt": 1e-4, **options})
    assert_equal(found, told(expected), order_of(net), f"{net}\n{net.graph}")


@pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="no compiled operators, which pack")
@pytest.mark.parametrize("frozen", [False, True])
def test_weights_are_prepacked_once_for_all_calls(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = graph(
        "input>a a>n n>output", input=input_(2, 9, 9), a=conv(4, 2), n=neuron("IF", 4, 9, 9), output=output(4, 9, 9)
    )
    packed, pack = [], native.prepack
    monkeypatch.setattr(native, "prepack", lambda weight, groups: (packed.append(1), pack(weight, groups))[1])
    net = Executor(graph_of(raw), frozen=frozen)
    monkeypatch.setattr(tiling, "PIECE", 700)
    x = torch.from_numpy(signal(6, 2, 2, 9, 9))
    with torch.no_grad():
        found = [net(x)[0] for _ in range(4)]
    assert len(packed) == 1, "when it was loaded"
    assert all(torch.equal(y, found[0]) for y in found)
