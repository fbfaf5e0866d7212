"""Cycles of all types, under every feedback rule: a table of graphs against the oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from comparison import assert_as_oracle, graph_of
from devices import here, networks_on_each_device
from make_nir import affine, conv2d, delay, graph, input_, linear, neuron, output, scale, signal, threshold

import neurocuda
from neurocuda import AlgebraicLoopError, Discretization, Executor

pytestmark = pytest.mark.emulated

ENDS = {"input": input_(4), "output": output(4)}

CYCLES = {
    "neuron and weight": graph("input>n n>w w>n n>output", n=neuron("LIF", 4), w=affine(4, 4), **ENDS),
    "weight before the input in the sum": graph(
        "input>n n>a a>n n>output", n=neuron("CubaLIF", 4), a=affine(4, 4), **ENDS
    ),
    "weight between two branches": graph(
        "input>a input>z a>n z>n n>m m>n n>output",
        a=affine(4, 4, "a"), m=affine(4, 4, "m"), z=affine(4, 4, "z"), n=neuron("IF", 4), **ENDS,
    ),
    "weight after two branches and before one": graph(
        "input>a input>b input>z a>n b>n z>n n>m m>n n>output",
        a=affine(4, 4, "a"), b=affine(4, 4, "b"), m=affine(4, 4, "m"), z=affine(4, 4, "z"), n=neuron("LIF", 4), **ENDS,
    ),
    "weight without a bias": graph("input>n n>w w>n n>output", n=neuron("LIF", 4), w=linear(4, 4), **ENDS),
    "weight that others read too": graph(
        "input>n n>w w>n n>output w>output", n=neuron("LIF", 4), w=affine(4, 4), **ENDS
    ),
    "weight that others feed too": graph(
        "input>n input>w n>w w>n n>output", n=neuron("LIF", 4), w=affine(4, 4), **ENDS
    ),
    "neuron that also feeds itself": graph(
        "input>n n>n n>w w>n n>output", n=neuron("LIF", 4), w=affine(4, 4), **ENDS
    ),
    "double edge to the weight": graph(
        "input>n n>w n>w w>n n>output", n=neuron("LIF", 4), w=affine(4, 4), **ENDS
    ),
    "double edge from the weight": graph(
        "input>n n>w w>n w>n n>output", n=neuron("LIF", 4), w=affine(4, 4), **ENDS
    ),
    "nothing else reaches the cycle": graph("n>w w>n n>output", n=neuron("LIF", 4), w=affine(4, 4), **ENDS),
    "neuron onto itself": graph("input>n n>n n>output", n=neuron("IF", 4), **ENDS),
    "two neurons": graph(
        "input>a a>v v>u u>b b>w w>a b>output",
        a=neuron("LIF", 4), v=affine(3, 4), u=affine(4, 3), b=neuron("CubaLIF", 4), w=affine(4, 4), **ENDS,
    ),
    "two cycles through one neuron": graph(
        "input>n n>w w>n n>v v>n n>output", n=neuron("LIF", 4), w=affine(4, 4), v=affine(4, 4, "v"), **ENDS
    ),
    "leaky integrators alone": graph(
        "input>a a>w w>b b>a b>output", a=neuron("LI", 4), b=neuron("CubaLI", 4), w=scale([0.1, 0.2, -0.1, 0.3]), **ENDS
    ),
    "integrator and spikes": graph(
        "input>i i>t t>s s>i t>output",
        i=neuron("I", 4, r=np.full(4, 1e4)), t=threshold(0.5), s=scale(-1.0), **ENDS,
    ),
    "soft reset of channels, two branches, read twice": graph(
        "input>i input>w w>i i>t t>z z>i t>f t>output f>output",
        input=input_(2, 3, 4), i={"type": "I", "r": np.array([9e3, 1.1e4])}, w=conv2d(2, 2, (3, 3), padding="same"),
        t=threshold([0.5, 0.7]), z=scale([-1.0, -0.8]), f=scale(0.5), output=output(2, 3, 4),
    ),
    "soft reset, spikes back before two branches": graph(
        "input>i input>w w>i i>t t>a a>i t>output",
        i=neuron("I", 4, r=np.full(4, 1e4)), w=affine(4, 4), t=threshold(0.5), a=scale(-1.0), **ENDS,
    ),
    "soft reset without input": graph(
        "i>t t>s s>i t>output", i=neuron("I", 4, r=np.full(4, 1e4)), t=threshold(-0.5), s=scale(-1.0), **ENDS
    ),
    "soft reset whose potential others read": graph(
        "input>i i>t t>s s>i i>output t>output",
        i=neuron("I", 4, r=np.full(4, 1e4)), t=threshold(0.5), s=scale(-1.0), **ENDS,
    ),
    "soft reset whose feedback others read": graph(
        "input>i i>t t>s s>i s>output", i=neuron("I", 4, r=np.full(4, 1e4)), t=threshold(0.5), s=scale(-1.0), **ENDS
    ),
    "soft reset, spikes back twice": graph(
        "input>i i>t t>s s>i s>i t>output", i=neuron("I", 4, r=np.full(4, 1e4)), t=threshold(0.5), s=scale(-1.0), **ENDS
    ),
    "spiking in one, membrane in another": graph(
        "input>l l>f f>w w>l l>s s>l f>output",
        l=neuron("LI", 4), f=neuron("IF", 4), w=affine(4, 4), s=scale(-0.25), **ENDS,
    ),
    "delay around a weight": graph("input>w d>w w>d w>output", w=linear(4, 4), d=delay(2, 2, 2, 2), **ENDS),
    "delays of each element": graph("input>w d>w w>d w>output", w=scale(0.5), d=delay(1, 2, 3, 5), **ENDS),
    "delay with a neuron": graph(
        "input>n n>d d>w w>n n>output", n=neuron("LIF", 4), d=delay(1, 3, 1, 2), w=affine(4, 4), **ENDS
    ),
    "delay of zero in one element, with a neuron": graph(
        "input>n n>d d>w w>n n>output", n=neuron("LIF", 4), d=delay(0, 3, 1, 2), w=affine(4, 4), **ENDS
    ),
    "delay of zero in one element, alone": graph(
        "input>w d>w w>d w>output", w=scale(0.5), d=delay(0, 1, 2, 0), **ENDS
    ),
    "two delays in one cycle": graph(
        "input>w d>e e>w w>d w>output", w=scale(0.5), d=delay(1, 1, 1, 1), e=delay(2, 2, 2, 2), **ENDS
    ),
    "delay fed twice and read twice": graph(
        "input>w input>d d>w w>d d>output w>output", w=scale(0.5), d=delay(1, 2, 2, 1), **ENDS
    ),
    "convolution": graph(
        "input>n n>w w>n n>output",
        input=input_(2, 3, 4), n=neuron("LIF", 2, 3, 4), w=conv2d(2, 2, (3, 3), padding="same"), output=output(2, 3, 4),
    ),
}  # fmt: skip

RULES = [
    {},
    {"feedback": "weight-output"},
    {"output_delay": 1},
    {"output_delay": 1, "feedback": "weight-output"},
    {"reset": "subtract", "synapse": "previous", "integrator": "exponential"},
    {"reset": "subtract", "spike_when": "reaching", "spikes_per_step": "many"},
]


@networks_on_each_device
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: ",".join(map(str, rule.values())) or "default")
@pytest.mark.parametrize("name", CYCLES)
def test_cycle_equals_the_oracle(name: str, rule: dict[str, object]) -> None:
    raw = CYCLES[name]
    x = {"input": signal(20, 3, *raw["nodes"]["input"]["shape"])}
    try:
        net = assert_as_oracle(raw, x, rule)
    except AlgebraicLoopError:
        with pytest.raises(oracle.AlgebraicLoop):
            oracle.run(raw, x, rule)
        return
    assert net.schedule.stages[-1].nodes[0].node.name == "output"
    assert_as_oracle(raw, x, rule, chunk=3)


def test_default_rules_run_every_cycle_of_the_table() -> None:
    for raw in CYCLES.values():
        Executor(graph_of(raw))


def test_fused_recurrence_is_chosen_by_the_shape_of_the_graph() -> None:
    fused = {name for name, raw in CYCLES.items() if any(s.recurrence for s in Executor(graph_of(raw)).schedule.stages)}
    assert fused == {
        "neuron and weight",
        "weight before the input in the sum",
        "weight between two branches",
        "weight after two branches and before one",
        "weight without a bias",
        "nothing else reaches the cycle",
    }


def test_fused_soft_reset_is_chosen_by_the_shape_of_the_graph() -> None:
    fused = {name for name, raw in CYCLES.items() if any(s.soft_reset for s in Executor(graph_of(raw)).schedule.stages)}
    assert fused == {
        "integrator and spikes",
        "soft reset of channels, two branches, read twice",
        "soft reset without input",
    }


@pytest.mark.parametrize(
    ("edges", "nodes", "named"),
    [
        ("input>w w>w w>output", {"w": scale(0.5)}, ["w"]),
        ("input>a a>b b>a b>output", {"a": affine(4, 4), "b": scale(1.0)}, ["a", "b"]),
        ("input>d d>d d>output", {"d": delay(0.4, 0.4, 0.4, 0.4)}, []),
        ("input>n n>n n>a a>b b>a a>output", {"n": neuron("LIF", 4), "a": scale(1.0), "b": scale(1.0)}, ["a", "b"]),
    ],
)
def test_cycle_without_state_is_refused_by_name(edges: str, nodes: dict[str, dict], named: list[str]) -> None:
    raw = graph(edges, **nodes, **ENDS)
    if not named:  # a Delay of no step has state of its own in the third pass
        assert_as_oracle(raw, {"input": signal(6, 2, 4)}, {})
        return
    with pytest.raises(AlgebraicLoopError) as caught:
        Executor(graph_of(raw))
    assert [problem.where for problem in caught.value.problems] == [
        "cycle of nodes " + ", ".join(f"{name!r} ({nodes[name]['type']})" for name in named)
    ]


def test_soft_reset_loop_equals_reset_by_subtraction() -> None:
    """I -> Threshold -> Scale(-1) -> I is an IF that subtracts, shifted by its initial potential."""
    loop = graph(
        "input>i i>t t>s s>i t>output",
        i={"type": "I", "r": np.array(1e4)}, t=threshold(1.0), s=scale(-1.0), **ENDS,
    )  # fmt: skip
    soft = graph(
        "input>n n>output",
        n={"type": "IF", "r": np.array(1e4), "v_threshold": np.array(1.0), "v_reset": np.array(0.0)}, **ENDS,
    )  # fmt: skip
    x = torch.from_numpy(signal(40, 3, 4)) * 0.375
    with torch.no_grad():
        looped = neurocuda.load(graph_of(loop))(x)[0]
        reset = neurocuda.load(graph_of(soft), Discretization(reset="subtract"))(x)[0]
    assert looped.sum() > 20
    assert torch.equal(looped, reset)


@networks_on_each_device
@pytest.mark.parametrize("name", ["a", "m", "z"])
@pytest.mark.parametrize("count", [7, 8, 9, 20])
def test_recurrent_current_among_many_branches(name: str, count: int) -> None:
    """More branches than one native operator takes, with the recurrent one first, between, or last."""
    others = [f"b{k:02}" if k % 2 else f"n{k:02}" for k in range(count)]
    edges = " ".join(f"input>{other} {other}>neuron" for other in others)
    nodes = {other: affine(4, 4, other) for other in others}
    raw = graph(f"{edges} neuron>{name} {name}>neuron neuron>output", neuron=neuron("LIF", 4), **ENDS, **nodes)
    raw["nodes"][name] = affine(4, 4, "recurrent")
    assert_as_oracle(raw, {"input": signal(12, 2, 4)}, {})


@networks_on_each_device
def test_a_soft_reset_has_a_gradient_if_one_is_required() -> None:
    raw = CYCLES["soft reset of channels, two branches, read twice"]
    net = Executor(graph_of(raw)).to(here())
    x = torch.from_numpy(signal(9, 2, 2, 3, 4)).to(here())
    with torch.no_grad():
        expected, _ = net(x)
    found, _ = net(x)
    assert torch.equal(found, expected)
    gradients = torch.autograd.grad(found.square().sum(), list(net.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)
    net.requires_grad_(False)
    assert torch.equal(net(x)[0], expected)
    (of_input,) = torch.autograd.grad(net(x.requires_grad_())[0].sum(), x)
    assert bool(of_input.any())
