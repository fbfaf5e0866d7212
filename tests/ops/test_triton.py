"""The Triton operators under Triton's interpreter, in a separate process: the bits of the reference."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import test_neuron
import test_ordered
import test_pool2d
import test_recurrent_neuron as recurrent_tests
import torch
from comparison import assert_equal as assert_same_recordings
from comparison import network, order_of, recorded
from conftest import FULL
from drawn import assert_equal, assert_same_gradients, counts, inputs, leaves, normal
from hypothesis import given, settings
from make_nir import numbers
from places import ROOT
from strategies import Case as GraphCase
from strategies import cases as graph_cases
from test_neuron import SILENT, Case, Kind, expected_output, forward_kinds, general_kinds, kinds, some, wanted_type

import neurocuda
from neurocuda.ops import NeuronState, Surrogate, backends, reference

KINDS = [*kinds(), *general_kinds()]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DIGITS = ROOT / "examples" / "digits" / "digits.nir"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in a process with TRITON_INTERPRET=1")

if INTERPRETED:
    from neurocuda.ops import triton as ops


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.first
def test_in_a_process_that_interprets() -> None:
    """All others of this file; its cases are counted with ours."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        command,
        env=environment | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    cases = re.search(r"= cases =+\n(.*)\n", done.stdout)
    assert cases is not None, done.stdout
    for name, number in re.findall(r"([a-z_0-9 ]+): ([\d,]+)", cases.group(1)):
        counts[f"triton {name.strip()}" if name.strip() != "tensors compared" else name.strip()] += int(
            number.replace(",", "")
        )


def sampled(kind: Kind) -> list[Case]:
    every = test_neuron.cases(kind)
    draw = numbers("triton", kind)
    chosen = draw.permutation(len(every))[: len(every) if FULL else 6]
    return [every[number] for number in sorted(chosen)]


def assert_case(case: Case) -> float:
    """Run one case both ways; the share of neuron steps that fired."""
    draw = numbers(case)
    branches = test_neuron.branches_of(case, draw)
    c, state = test_neuron.coefficients_of(case, draw), test_neuron.state_of(case, draw)
    spikes, after, traces = reference.neuron([b.float() for b in branches], c, state, SILENT, case.record)
    before = [None if s is None else s.clone() for s in state]
    packed = case.output == "packed"
    output, found, recorded = ops.neuron(
        branches, c, state, SILENT, case.record, dtype=wanted_type(case), packed=packed
    )
    assert_equal(output, expected_output(spikes, case), case)
    for ours, theirs, untouched, given_state in zip(found, after, before, state, strict=True):
        if theirs is not None:
            assert_equal(ours, theirs, case)
            assert torch.equal(given_state, untouched), case
    assert recorded.keys() == traces.keys()
    for name, trace in traces.items():
        assert_equal(recorded[name], trace, case)
    counts["neuron"] += 1
    return (spikes > 0).float().mean().item()


@interpreted
@pytest.mark.parametrize("kind", [*forward_kinds(), *general_kinds()], ids="-".join)
def test_matrix(kind: Kind) -> None:
    fired = [assert_case(case) for case in sampled(kind)]
    if kind.fires:
        assert 0.05 < np.mean(fired) < 0.95, "a case that never fires, or always, shows nothing"


@pytest.mark.skipif(FULL, reason="all cases run")
def test_the_sample_holds_every_value_of_every_axis() -> None:
    found = [case for kind in forward_kinds() for case in sampled(kind)]
    for name in ("dtype", "output", "mode", "layout", "branches", "shape", "steps", "batch"):
        every = getattr(test_neuron, {"batch": "BATCHES", "steps": "STEPS", "branches": "BRANCHES"}.get(
            name, f"{name.upper()}S"))  # fmt: skip
        assert {getattr(case, name) for case in found} == set(every), name


@interpreted
@pytest.mark.parametrize("number", range(0, len(test_neuron.LARGE), 1 if FULL else 2))
def test_many_blocks(number: int) -> None:
    case = test_neuron.LARGE[number]
    assert_case(case if math.prod(case.shape) <= 10_000 else case._replace(shape=(10_011,)))


@interpreted
@pytest.mark.parametrize("output", test_neuron.OUTPUTS)
def test_values_that_are_not_numbers(output: str) -> None:
    for kind in KINDS:
        if not kind.fires or (output == "packed" and kind.many == "many"):
            continue
        case = Case(kind, torch.float32, output, "mixed", "plain", 1, (5, 7), 6, 2, 1, ())
        draw = numbers(case)
        c, state = test_neuron.coefficients_of(case, draw), test_neuron.state_of(case, draw)
        special = np.float32([0, -0.0, 1, -1, np.nan, np.inf, -np.inf, 3e38, 1e-40, -1e-45])
        x = torch.from_numpy(draw.choice(special, (6, 2, 5, 7)))
        spikes, after, _ = reference.neuron([x], c, state, SILENT)
        spikes = spikes.nan_to_num(0, posinf=255) if output == "uint8" else spikes
        found, state, _ = ops.neuron([x], c, state, SILENT, dtype=wanted_type(case), packed=output == "packed")
        assert_equal(found, expected_output(spikes, case), kind)
        assert_equal(state.v, after.v, kind)
        counts["neuron"] += 1


@interpreted
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_is_read_and_written_as_torch_does(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    assert_equal(ops.branch_sum([every.unsqueeze(0)])[0], every.float())
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    c = neurocuda.ops.NeuronCoefficients(zero, one, zero)  # emits what it is given
    wide = every[every.isfinite()].float()
    near = torch.cat([wide, wide * (1 + 2**-8), wide * (1 + 2**-11), wide * (1 + 3 * 2**-11)])
    near = torch.cat([near, torch.tensor([65519.996, 65520.0, -65520.0, 1e-8, 3e-8, 2.9802322e-08, math.nan, 1e38])])
    output, _, _ = ops.neuron([near.unsqueeze(0)], c, NeuronState(torch.zeros_like(near)), SILENT, dtype=dtype)
    assert_equal(output[0], (near + 0.0).to(dtype))


@interpreted
def test_counts_of_spikes_of_any_size() -> None:
    """Around every power of two and every small integer, with both signs; subnormals; thresholds of any size."""
    draw = numbers("counts")
    powers = torch.from_numpy(np.exp2(np.arange(-149, 128)).astype(np.float32))
    ratios = torch.cat([powers, torch.arange(1, 300) / 2.0, normal(draw, 500, scale=1000)])
    ratios = torch.cat([ratios, ratios.nextafter(ratios * 2), ratios.nextafter(ratios / 2), torch.zeros(1)])
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    for level in (1.0, 0.3, 3.0, 1e-39, 1e30):
        c = neurocuda.ops.NeuronCoefficients(
            zero, one, zero, threshold=torch.tensor(level), v_reset=zero,
            spike_when="reaching", reset="subtract", spikes_per_step="many",
        )  # fmt: skip
        x = torch.cat([ratios, -ratios]).mul(level).unsqueeze(0)
        state = NeuronState(torch.zeros_like(x[0]))
        for ours, theirs in zip(
            ops.neuron([x], c, state, SILENT)[:2], reference.neuron([x], c, state, SILENT)[:2], strict=True
        ):
            assert_equal(getattr(ours, "v", ours), getattr(theirs, "v", theirs), level)
        counts["neuron"] += 1


def assert_gradients(case: Case, surrogate: Surrogate, parts: str = "output v i traces") -> None:
    expected = test_neuron.gradients_of(case, reference, surrogate, parts)
    found = test_neuron.gradients_of(case, ops, surrogate, parts)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        ours = found[name]
        if not name.startswith(("branch", "state")):
            ours, gradient = ours + 0.0, gradient + 0.0  # sums may start at either zero
        assert_equal(ours, gradient, name, case)
    counts["neuron_backward"] += 1


@interpreted
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_gradients(kind: Kind) -> None:
    surrogates = [Surrogate(), Surrogate("arctan", 2.0), Surrogate("triangle", 0.7)]
    every = [
        *((some(kind), surrogate, "output v i traces") for surrogate in surrogates),
        *((some(kind, mode="neuron"), SILENT, parts) for parts in ("output", "v", "traces")),
        (some(kind, shape=(3, 2, 5), layout="channels last", mode="channel"), SILENT, "output v i traces"),
        (some(kind, dtype=torch.float16, layout="mixed"), SILENT, "output v i traces"),
    ]
    for case, surrogate, parts in every if FULL else every[KINDS.index(kind) % 3 :: 3]:
        assert_gradients(case, surrogate, parts)


@interpreted
@pytest.mark.parametrize("dtype", test_neuron.DTYPES, ids=str)
def test_branch_sum(dtype: torch.dtype) -> None:
    for layout, count, shape in itertools.product(test_neuron.LAYOUTS, (1, 2, 8), ((), (129,), (3, 5, 7))):
        case = some(Kind("LI"), dtype=dtype, layout=layout, branches=count, shape=shape)
        branches = test_neuron.branches_of(case, numbers(case))
        assert_equal(ops.branch_sum(branches), reference.branch_sum([b.float() for b in branches]), case)
        counts["branch_sum"] += 1


@interpreted
@pytest.mark.parametrize("dtype", test_neuron.DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 7, 8, 129, 1100])
def test_spikes_as_bits_and_back(size: int, dtype: torch.dtype) -> None:
    draw = numbers("bits", size)
    spikes = test_neuron.lay_out(torch.from_numpy(draw.random((3, 2, size)) < 0.4).to(dtype), "batch first")
    bits = ops.pack_spikes(spikes)
    rows = spikes.flatten(1).bool().numpy()
    assert_equal(bits, torch.from_numpy(np.packbits(rows, axis=1, bitorder="little")))
    wide = torch.zeros(bits.shape[0], bits.shape[1] + 3, dtype=torch.uint8)
    wide[:, 1:-2] = bits
    assert_equal(ops.unpack_spikes(wide[:, 1:-2], (2, size), dtype), spikes)
    counts["pack_spikes"] += 1


def turns(first: int) -> list[tuple[int, torch.dtype]]:
    """All types with their numbers; two of them, in turn, where time is short."""
    every = list(enumerate(test_neuron.DTYPES))
    return every if FULL else [every[(first + k) % 5] for k in (0, 2)]


@interpreted
@pytest.mark.parametrize("layer", test_ordered.LINEAR, ids=str)
def test_ordered_linear(layer: test_ordered.Linear) -> None:
    layer = layer if FULL else layer._replace(rows=min(layer.rows, 20))
    draw = numbers("linear", layer)
    biases = [None, (), (1,), (layer.out,), (*layer.batch, layer.out)]
    for number, dtype in turns(layer.into):
        bias_shape, density = biases[number], test_ordered.DENSITIES[2 + number]
        weight = normal(draw, *layer.batch, layer.out, layer.into)
        bias = None if bias_shape is None else normal(draw, *bias_shape)
        x = inputs(draw, density, dtype, layer.rows, *layer.batch, layer.into)
        assert_equal(ops.ordered_linear(x, weight, bias), reference.ordered_linear(x.float(), weight, bias), layer)
        counts["ordered_linear"] += 1
    ours, theirs = leaves(x.float(), weight, bias), leaves(x.float(), weight, bias)
    toward = normal(draw, layer.rows, *layer.batch, layer.out)
    (ops.ordered_linear(*ours) * toward).sum().backward()
    (reference.ordered_linear(*theirs) * toward).sum().backward()
    assert_same_gradients(ours, theirs)


@interpreted
@pytest.mark.parametrize("case", test_ordered.CONV, ids=str)
def test_ordered_conv(case: test_ordered.Conv) -> None:
    draw = numbers("conv", case)
    case = case if FULL else case._replace(frames=1 + case.out % 2)
    for number, dtype in turns(len(case.space) + case.into + case.out):
        bias_shape = [None, (1,), (case.out,)][number % 3]
        weight = case.weight(draw)
        bias = None if bias_shape is None else normal(draw, *bias_shape)
        x = inputs(draw, test_ordered.DENSITIES[2 + number], dtype, case.frames, case.into, *case.space)
        how = (case.stride, case.pads, case.dilation, case.groups)
        expected = test_ordered.expected_conv(x.float(), weight, bias, case)
        assert_equal(ops.ordered_conv(x, weight, bias, *how), expected, case, dtype)
        counts["ordered_conv"] += 1
    ours, theirs = leaves(x.float(), weight, bias), leaves(x.float(), weight, bias)
    toward = normal(draw, *expected.shape)
    (ops.ordered_conv(*ours, *how) * toward).sum().backward()
    (test_ordered.expected_conv(*theirs, case) * toward).sum().backward()
    assert_same_gradients(ours, theirs)


@interpreted
@pytest.mark.parametrize("fires", recurrent_tests.FIRES)
@pytest.mark.parametrize("synapse", [None, "updated", "previous"])
def test_recurrent_neuron(synapse: str | None, fires: str) -> None:
    every = [p for p in recurrent_tests.POPULATIONS if (p.synapse, p.fires) == (synapse, fires)]
    for case in every if FULL else every[::13]:
        draw = numbers("triton recurrent", case)
        batch, steps = (1, 2, 3)[draw.integers(3)], (1, 2, 5)[draw.integers(3)]
        c = case.coefficients(draw, batch)
        shape = (batch, *case.shape)
        branches = [recurrent_tests.branch(draw, (steps, *shape)) for _ in range(draw.integers(1, 9))]
        place = int(draw.integers(len(branches) + 1))
        weight = normal(draw, *case.shape, case.shape[-1], scale=0.5 / case.shape[-1] ** 0.5)
        bias_shape = (None, (), (1,), case.shape[-1:], case.shape)[draw.integers(5)]
        bias = None if bias_shape is None else normal(draw, *bias_shape, scale=0.1).reshape(bias_shape)
        state = NeuronState(normal(draw, *shape, scale=0.1), normal(draw, *shape, scale=0.1) if synapse else None)
        spikes = (torch.zeros(shape), inputs(draw, 0.3, torch.float32, *shape), normal(draw, *shape))[draw.integers(3)]
        record = ["v", "recurrent", *(["i"] if synapse else [])]
        arguments: Any = (place, weight, bias, c, state, spikes, SILENT, record)
        expected = reference.recurrent_neuron([x.float() for x in branches], *arguments)
        found = ops.recurrent_neuron(branches, *arguments)
        for at in (0, 2):
            assert_equal(found[at], expected[at], case, at)
        for ours, theirs in zip(found[1], expected[1], strict=True):
            if theirs is not None:
                assert_equal(ours, theirs, case)
        for name in record:
            assert_equal(found[3][name], expected[3][name], name, case)
        counts["recurrent_neuron"] += 1


@interpreted
def test_gradients_of_recurrent_neuron() -> None:
    draw = numbers("triton recurrent gradient")
    usual = itertools.product((None, "updated", "previous"), ("never", "above"), ("to-value",))
    for choices in [
        *usual,
        (None, "above", "subtract", "late", "unbounded"),
        ("updated", "above", "to-value", "late", "bounded"),
    ]:
        synapse, fires, reset, *general = choices
        case = recurrent_tests.Population((2, 3), synapse, fires, reset, "scalar", *general)
        c = case.coefficients(draw, 2)
        values = [
            normal(draw, 6, 2, 2, 3, scale=0.5),
            normal(draw, 2, 3, 3, scale=0.5),
            normal(draw, 2, 3, scale=0.1),
            normal(draw, 2, 2, 3, scale=0.1),
            normal(draw, 2, 2, 3, scale=0.1) if synapse else None,
            inputs(draw, 0.3, torch.float32, 2, 2, 3),
        ]
        toward = normal(draw, 6, 2, 2, 3)
        results = []
        for module in (ops, reference):
            x, weight, bias, v, i, spikes = own = leaves(*values)
            given_state: Any = NeuronState(v, i)
            output, after, _, traces = module.recurrent_neuron(
                [x], 1, weight, bias, c, given_state, spikes, Surrogate(), ["recurrent"]
            )
            (output * toward + traces["recurrent"]).sum().add(after.v.sum()).backward()
            results.append(own)
        assert_same_gradients(*results)


@interpreted
@pytest.mark.parametrize("name", test_pool2d.NAMES)
def test_pools_equal(name: str) -> None:
    for case, layout in itertools.product(test_pool2d.CASES[:-1], test_pool2d.LAYOUTS[: 4 if FULL else 2]):
        draw = numbers("triton", case, layout)
        dtype = test_neuron.DTYPES[draw.integers(5)]
        x = test_pool2d.lay_out(inputs(draw, "real", dtype, *case.x), layout)
        expected = getattr(reference, name)(x.float(), *case.how)
        assert_equal(getattr(ops, name)(x, *case.how), expected, case, layout)
        counts["pools"] += 1
    x = torch.rand(2, 3, 6, 7)
    ours, theirs = leaves(x), leaves(x)
    for module, own in ((ops, ours), (reference, theirs)):
        getattr(module, name)(own[0], (2, 3), (2, 1), (1, 0)).square().sum().backward()
    assert_same_gradients(ours, theirs)


@interpreted
def test_no_steps_and_no_neurons() -> None:
    c = neurocuda.ops.NeuronCoefficients(*[torch.ones(())] * 3)
    for shape in ((0, 2, 3), (4, 0, 3), (4, 2, 0)):
        x, v = torch.zeros(shape, requires_grad=True), torch.rand(shape[1:], requires_grad=True)
        output, state, _ = ops.neuron([x], c, NeuronState(v), SILENT)
        assert output.shape == shape
        assert torch.equal(state.v, v)
        to_x, to_v = torch.autograd.grad(output.sum() + state.v.sum(), [x, v])
        assert to_x.shape == shape
        assert torch.equal(to_v, torch.ones_like(v))
        assert ops.branch_sum([x, x]).shape == shape


@interpreted
def test_what_torch_asks_of_an_operator() -> None:
    case = some(Kind("CubaLIF"))
    branches, c, state = test_neuron.leaves_of(case)
    tensors = [state.v, state.i, c.decay_v, c.gain_v, c.bias_v, c.decay_i, c.gain_i, c.threshold, c.v_reset, c.v_min]
    flags = [False, False, False, False, False, None, False, True, True, "fast-sigmoid", 10.0]
    library = torch.ops.neurocuda_triton
    torch.library.opcheck(library.neuron.default, (branches, *tensors, *flags))
    torch.library.opcheck(library.branch_sum.default, (branches,))
    x, weight = torch.rand(3, 5, requires_grad=True), torch.rand(4, 5, requires_grad=True)
    torch.library.opcheck(library.ordered_linear.default, (x, weight, None))
    torch.library.opcheck(library.pool2d.default, (torch.rand(2, 3, 6, 7), [2, 3], [2, 1], [1, 0], True))


@interpreted
def test_the_digits_network() -> None:
    x = torch.rand(3, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 16
    net = neurocuda.load(DIGITS)
    record: Any = dict.fromkeys(("lif1", "lif4"), ("spikes", "v"))
    with torch.no_grad():
        with backends.use_backend("reference"):
            expected = net.run(x, record=record)
        with backends.use_backend("triton"):
            assert backends.backend_for(x.device) == "triton"
            found = net.run(x, record=record)
            compiled, _ = torch.compile(net, fullgraph=True, backend="eager")(x)
    assert_equal(found.output, expected.output)
    assert_equal(compiled, expected.output)
    for name, values in expected.recordings.items():
        assert values["spikes"].any()
        for quantity, value in values.items():
            assert_equal(found.recordings[name][quantity], value, name, quantity)
    counts["networks"] += 1


@interpreted
@settings(max_examples=200 if FULL else 8)
@given(graph_cases())
def test_random_graphs(case: GraphCase) -> None:
    net = network(case)
    with backends.use_backend("reference"):
        expected = recorded(net, case.x)
    with backends.use_backend("triton"):
        found = recorded(net, case.x)
    assert_same_recordings(found, expected, order_of(net), f"{net}\n{net.graph}")
    counts["networks"] += 1
