"""The NIR paper's published graphs and traces."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from comparison import assert_equal, order_of, recorded, told
from conftest import FULL
from devices import networks_on_each_device
from make_nir import signal
from paper import FOLDER, needs_paper

import neurocuda
from neurocuda import Discretization, GraphError, NeuroCUDAWarning

pytestmark = needs_paper


def trace(simulator: str) -> np.ndarray:
    """Columns input, membrane potential, spike of 1,000 steps of 1e-4 s."""
    return np.loadtxt(FOLDER / "lif" / f"lif_{simulator}.csv", delimiter=",")


def steps_of(spikes: torch.Tensor) -> list[int]:
    return spikes.flatten().nonzero().flatten().tolist()


def test_lif_meets_the_published_trace() -> None:
    published = trace("norse")
    net = neurocuda.load(FOLDER / "lif/lif_norse.nir", Discretization(dt=1e-4))
    with torch.no_grad():
        result = net.run(torch.from_numpy(published[:, :1, None]).float(), record={"1": ("spikes", "v")})
    assert steps_of(result.recordings["1"]["spikes"]) == [460, 510, 710, 760]
    # the trace was computed in float32 by another order of operations: a few units in the last place of 0.1
    assert np.abs(result.recordings["1"]["v"].numpy().ravel() - published[:, 1]).max() < 1e-6


@pytest.mark.parametrize(
    ("simulator", "column", "discretization", "units"),
    [
        ("norse", "norse", Discretization.norse(dt=1e-4), 1.0),
        ("snntorch", "snntorch", Discretization.snntorch(), 25.0),  # in units of dt / tau
        ("nengo", "nengo", Discretization.nengo(dt=1e-4), 10.0),  # in units of the threshold
        ("spikingjelly", "norse", Discretization.spikingjelly(), 1.0),  # published no trace; the same fields here
        ("lava", "lava_cpu_float", Discretization.lava(), None),  # its membrane is recorded one step late
        ("spyx", "spyx", Discretization.spyx(dt=1e-4, gain="r*g"), None),  # the input was multiplied by r dt / tau then
    ],
)
def test_presets_meet_their_simulators_traces(
    simulator: str, column: str, discretization: Discretization, units: float | None
) -> None:
    published = trace(column)
    net = neurocuda.load(FOLDER / "lif/lif_norse.nir", discretization)
    x = torch.from_numpy((published[:, :1, None] > 0).astype(np.float32))
    with torch.no_grad():
        result = net.run(x, record={"1": "v"})
    assert steps_of(result.output) == np.flatnonzero(published[:, 2]).tolist(), simulator
    if units is not None:
        v = result.recordings["1"]["v"].numpy().ravel() * units
        assert np.abs(v - published[:, 1]).max() < 1e-6 * units, simulator  # float32, another order of operations


@networks_on_each_device
@pytest.mark.parametrize(
    ("file", "steps", "batch", "options"),
    [
        ("cnn/cnn_sinabs.nir", 100, 2, {"dt": 1.0}),
        ("rnn/braille_noDelay_bias_zero.nir", 256, 4, {}),
        ("rnn/braille_noDelay_bias_zero_nested.nir", 256, 4, {}),
        ("rnn/braille_noDelay_bias_zero.nir", 64, 4, {"feedback": "weight-output"}),
        ("lif/lif_norse.nir", 1000, 1, {}),
        ("lif/lif_rockpool.nir", 1000, 1, {"integrator": "exponential"}),
    ],
)
def test_published_graphs_equal_the_oracle(file: str, steps: int, batch: int, options: dict[str, Any]) -> None:
    net = neurocuda.load(FOLDER / file, Discretization(**options))
    shape = net.graph.nodes[net.graph.inputs[0]].output_shape
    x = {net.graph.inputs[0]: signal(steps, batch, *shape, density=0.05 if len(shape) == 3 else 0.3)}
    expected = told(oracle.run(oracle.read_raw(FOLDER / file), x, options))
    found = recorded(net, x)
    assert_equal(found, expected, order_of(net), f"{net}\n{net.graph}")
    assert found[net.graph.outputs[0], "result"].sum() > 0, "a network that never fires shows nothing"


def test_the_nested_twin_of_the_braille_network_gives_the_same_spikes() -> None:
    flat = neurocuda.load(FOLDER / "rnn/braille_noDelay_bias_zero.nir")
    nested = neurocuda.load(FOLDER / "rnn/braille_noDelay_bias_zero_nested.nir")
    x = torch.from_numpy(signal(256, 4, 12))
    assert torch.equal(flat(x)[0], nested(x)[0])


def test_feedback_convention_changes_the_braille_network() -> None:
    x = torch.from_numpy(signal(256, 16, 12))
    outputs = [
        neurocuda.load(FOLDER / "rnn/braille_noDelay_bias_zero.nir", Discretization(feedback=feedback))(x)[0]
        for feedback in ("neuron-output", "weight-output")
    ]
    assert 0 < (outputs[0] != outputs[1]).float().mean() < 0.1


def test_declared_shapes_are_not_trusted() -> None:
    with pytest.warns(NeuroCUDAWarning, match="'output' states the shape 1x1x1, but 1 reaches it"):
        net = neurocuda.load(FOLDER / "lif/lif_rockpool.nir")
    assert net.graph.nodes["output"].output_shape == (1,)


def test_dangling_edge_is_refused_by_name() -> None:
    with pytest.raises(GraphError) as caught:
        neurocuda.read(FOLDER / "rnn/broken_dangling_edge.nir")
    first = caught.value.problems[0]
    assert first.where == "edge 'input' -> 'lif' in graph 'lif1'"
    assert first.expected == "target 'lif' to be a node (the nearest name is 'lif1')"
    assert len(caught.value.problems) == 4


def test_a_graph_that_cannot_fire_is_run_with_one_warning_that_names_the_likely_rule() -> None:
    with pytest.warns(NeuroCUDAWarning, match=r"IF '1'.*if_gain='r' \(Discretization.sinabs\(\)\)") as warned:
        neurocuda.load(FOLDER / "cnn/cnn_sinabs.nir")
    assert len(warned) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_with_time() -> None:
    """Peak memory above the loaded network, its input and its output: some time, and ten times as long."""
    steps = 300 if FULL else 100
    short, long = _peak(steps), _peak(10 * steps)
    print(f"peak above network, input and output: {short} bytes at T = {steps}, {long} at T = {10 * steps}")
    assert 0 < long < 1.05 * short


def _peak(steps: int) -> int:
    program = f"""
import resource, torch, neurocuda
torch.set_num_threads(1)
net = neurocuda.load({str(FOLDER / "cnn/cnn_sinabs.nir")!r}, neurocuda.Discretization(dt=1.0))
loaded = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
x = torch.empty({steps}, 4, 2, 34, 34).bernoulli_(0.02)
with torch.no_grad():
    y, _ = net(x)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(peak - loaded - (x.numel() + y.numel()) * 4)
"""
    # tensors go back to the system at once, so that the peak counts what is alive and not what is kept for reuse
    tidy = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **tidy}
    )
    return int(done.stdout)


def test_the_limit_of_ordered_sums_covers_the_published_layers() -> None:
    net = neurocuda.load(FOLDER / "cnn/cnn_sinabs.nir", Discretization(dt=1.0))
    assert {entry.how for stage in net.schedule.stages for entry in stage.nodes} == {"direct", "ordered", "neuron"}
