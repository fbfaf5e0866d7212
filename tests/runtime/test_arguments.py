"""Bad arguments raise an error that names the argument, what was expected and what was found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from graph_checks import read
from nir_files import write_raw
from raw_nodes import IMAGE, VECTOR, Raw, chain, everything, graph, node, ramp, single, terminal

import neurocuda
from neurocuda import ArgumentError, Discretization, Executor, GraphError, NeuroCUDAWarning, State, Surrogate

NAN, INF = float("nan"), float("inf")


def network(raw: Raw, folder: Path, **how: Any) -> Executor:
    return Executor(read(raw, folder / "net.nir"), **how)


def two_inputs() -> Raw:
    ends = {"left": terminal("Input", VECTOR), "right": terminal("Input", (2,)), "out": terminal("Output", VECTOR)}
    nodes = {"lif": node("LIF", tau=2e-4, v_threshold=0.5), "w": node("Linear", weight=ramp(3, 2))}
    return graph({**ends, **nodes}, [("left", "lif"), ("right", "w"), ("w", "lif"), ("lif", "out")])


def recurrent(kind: str = "LIF") -> Raw:
    """in -> lif <-> w, lif -> delay -> out, and a cycle through another delay."""
    weight = node("Affine", weight=ramp(3, 3), bias=ramp(3))
    raw = chain({"lif": node(kind, v_threshold=0.25), "w": weight, "delay": node("Delay", delay=3e-4)})
    loop = [("lif", "w"), ("w", "lif"), ("lif", "delay"), ("delay", "out"), ("delay", "back"), ("back", "delay")]
    return {**raw, "nodes": {**raw["nodes"], "back": node("Scale")}, "edges": [("in", "lif"), *loop]}


def assert_refused(call: Callable[[], object], words: str) -> ArgumentError:
    with pytest.raises(ArgumentError) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    for word in ["expected", "found", *words.split("|")]:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    return caught.value


def spoiled(value: float) -> torch.Tensor:
    x = torch.zeros(4, 2, 3)
    x[3, 1, 2] = value
    return x


# x, words of the message
WRONG_X: dict[str, tuple[Any, str]] = {
    "no batch axis": (torch.zeros(4, 3), "[T, B, 3]|shape (4, 3)|x.unsqueeze(1)"),
    "an axis more": (torch.zeros(4, 2, 1, 3), "[T, B, 3]|shape (4, 2, 1, 3)"),
    "no time axis": (torch.zeros(3), "[T, B, 3]|shape (3,)"),
    "no axes": (torch.zeros(()), "[T, B, 3]|shape ()"),
    "another size": (torch.zeros(4, 2, 5), "[T, B, 3]|shape (4, 2, 5)"),
    "features first": (torch.zeros(3, 4, 2), "[T, B, 3]|shape (3, 4, 2)"),
    "float64": (torch.zeros(4, 2, 3, dtype=torch.float64), "[T, B, 3]|torch.float64|x.float()"),
    "int64": (torch.zeros(4, 2, 3, dtype=torch.int64), "[T, B, 3]|torch.int64"),
    "int32": (torch.zeros(4, 2, 3, dtype=torch.int32), "[T, B, 3]|torch.int32"),
    "complex": (torch.zeros(4, 2, 3, dtype=torch.complex64), "[T, B, 3]|torch.complex64"),
    "NaN": (spoiled(NAN), "finite|nan|index (3, 1, 2)"),
    "inf": (spoiled(INF), "finite|inf|index (3, 1, 2)"),
    "-inf, float16": (spoiled(-INF).half(), "finite|-inf|index (3, 1, 2)"),
    "numpy": (np.zeros((4, 2, 3), np.float32), "[T, B, 3]|ndarray"),
    "list": ([[[0.0, 0.0, 0.0]]], "[T, B, 3]|list"),
    "nothing": (None, "[T, B, 3]|NoneType"),
    "another device": (torch.zeros(4, 2, 3, device="meta"), "[T, B, 3]|cpu|meta"),
}


@pytest.mark.parametrize("name", WRONG_X)
def test_a_wrong_signal_is_refused(name: str, tmp_path: Path) -> None:
    x, words = WRONG_X[name]
    net = network(single("LIF"), tmp_path)
    assert_refused(lambda: net(x), f"input 'in'|{words}")
    assert_refused(lambda: net({"in": x}), f"input 'in'|{words}")


def test_the_message_names_the_shape_of_an_image(tmp_path: Path) -> None:
    net = network(single("Conv2d"), tmp_path)
    assert_refused(lambda: net(torch.zeros(4, 2, 2, 6, 4)), "input 'in'|[T, B, 2, 6, 5]|(4, 2, 2, 6, 4)")
    assert_refused(lambda: net(torch.zeros(4, *IMAGE)), "input 'in'|[T, B, 2, 6, 5]|x.unsqueeze(1)")


def signals(left: tuple[int, int] = (4, 2), right: tuple[int, int] = (4, 2)) -> dict[str, torch.Tensor]:
    return {"left": torch.ones(*left, 3), "right": torch.ones(*right, 2)}


WRONG_SIGNALS: dict[str, tuple[Any, str]] = {
    "one tensor": (torch.zeros(4, 2, 3), "x:|'left', 'right'|Tensor"),
    "a list": (list(signals().values()), "x:|'left', 'right'|list"),
    "nothing": (None, "x:|'left', 'right'|NoneType"),
    "none of them": ({}, "x:|none for ['left', 'right']"),
    "one missing": ({"left": torch.zeros(4, 2, 3)}, "x:|none for ['right']"),
    "one misspelled": ({**signals(), "rihgt": torch.zeros(4, 2, 2)}, "x:|'rihgt'|nearest name is 'right'"),
    "one of another node": ({**signals(), "lif": torch.zeros(4, 2, 3)}, "x:|'left', 'right'|'lif'"),
    "a number for a name": ({**signals(), 0: torch.zeros(4, 2, 3)}, "x:|'left', 'right'|0"),
    "another T": (signals(right=(5, 2)), "input 'right'|(4, 2)|input 'left'|(5, 2)"),
    "another B": (signals(left=(4, 1)), "input 'right'|(4, 1)|input 'left'|(4, 2)"),
    "wrong second": ({**signals(), "right": torch.zeros(4, 2, 3)}, "input 'right'|[T, B, 2]|(4, 2, 3)"),
    "NaN in the second": ({**signals(), "right": spoiled(NAN)[..., 1:]}, "input 'right'|finite|(3, 1, 1)"),
}


@pytest.mark.parametrize("kind", ["neuron alone", "strided", "float16", "layers", "chunks"])
def test_numbers_that_are_not_finite_are_refused_by_what_was_recorded_too(kind: str, tmp_path: Path) -> None:
    """The error has the index in all of the signal. The next call is not affected."""
    layers = {"w": node("Linear", weight=ramp(3, 3))} if kind in ("layers", "chunks") else {}
    net = network(chain({**layers, "lif": node("LIF", tau=2e-4, v_threshold=0.5)}), tmp_path, chunk=3)
    x = torch.rand(2 if kind == "layers" else 8, 2, 3, generator=torch.Generator().manual_seed(1))
    x = x.half() if kind == "float16" else x
    x = x.transpose(0, 2).contiguous().transpose(0, 2) if kind == "strided" else x
    with torch.no_grad():
        expected = net(x)[0]
        for number in (NAN, INF, -INF):
            for _ in range(3):
                assert torch.equal(net(x)[0], expected)
            bad = x.clone()
            at = (x.shape[0] - 1, 1, 2)
            bad[at] = number
            with pytest.raises(
                ArgumentError, match=rf"input 'in': expected finite.*{number} at index \({at[0]}, 1, 2\)"
            ):
                net(bad)


@pytest.mark.parametrize("name", WRONG_SIGNALS)
def test_wrong_signals_are_refused(name: str, tmp_path: Path) -> None:
    x, words = WRONG_SIGNALS[name]
    net = network(two_inputs(), tmp_path)
    assert_refused(lambda: net(x), words)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.bool])
def test_narrow_signals_are_taken_as_float32(kind: torch.dtype, tmp_path: Path) -> None:
    net = network(recurrent(), tmp_path)
    x = (torch.arange(60).reshape(10, 2, 3) % 3 > 0).float()
    found, state = net(x.to(kind))
    expected, expected_state = net(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert all(torch.equal(state.tensors[name], value) for name, value in expected_state.tensors.items())


@pytest.mark.parametrize("steps_batch", [(0, 2), (5, 0), (0, 0)])
@pytest.mark.parametrize("make", [everything, two_inputs, recurrent, lambda: recurrent("CubaLIF")])
@pytest.mark.parametrize("gradients", [True, False])
def test_no_steps_and_no_samples_are_a_run(
    make: Callable[[], Raw], steps_batch: tuple[int, int], gradients: bool, tmp_path: Path
) -> None:
    net = network(make(), tmp_path)
    steps, batch = steps_batch
    nodes = net.graph.nodes
    x = {name: torch.ones(steps, batch, *nodes[name].output_shape) for name in net.graph.inputs}
    warm = {name: torch.ones(3, batch, *nodes[name].output_shape) for name in net.graph.inputs}
    record = {name: ["input", "output"] for name in nodes}
    with torch.set_grad_enabled(gradients):
        before = net(warm)[1]
        result = net.run(x, before, record)
    assert isinstance(result.output, torch.Tensor)
    assert result.output.shape == (steps, batch, *nodes["out"].output_shape)
    for name, quantities in result.recordings.items():
        assert quantities["input"].shape == (steps, batch, *nodes[name].input_shape)
        assert quantities["output"].shape == (steps, batch, *nodes[name].output_shape)
    for name, value in before.tensors.items():
        assert result.state.tensors[name].shape == value.shape
        if steps == 0:
            assert torch.equal(result.state.tensors[name], value)


def state_of(raw: Raw, batch: int, folder: Path) -> State:
    net = network(raw, folder)
    return net(torch.ones(2, batch, *net.graph.nodes["in"].output_shape))[1]


WRONG_STATES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another batch": (lambda folder: state_of(single("CubaLIF"), 3, folder), "'after.v'|(2, 3)|(3, 3)"),
    "another graph": (lambda folder: state_of(single("LIF"), 2, folder), "'n.i'|a difference"),
    "float64": (lambda folder: State({n: torch.zeros(2, 3).double() for n in ("n.v", "n.i", "after.v")}), "float64"),
    "half": (lambda folder: State({n: torch.zeros(2, 3).half() for n in ("n.v", "n.i", "after.v")}), "torch.float16"),
    "an entry missing": (lambda folder: State({"n.v": torch.zeros(2, 3)}), "'after.v'|'n.i'"),
    "an entry more": (lambda folder: state_of(recurrent("CubaLIF"), 2, folder), "'delay.history'"),
    "numpy": (
        lambda folder: State({n: np.zeros((2, 3), "f4") for n in ("n.v", "n.i", "after.v")}),
        "'after.v'|float32",
    ),
    "another device": (
        lambda folder: State({n: torch.zeros(2, 3, device="meta") for n in ("n.v", "n.i", "after.v")}),
        "cpu|meta",
    ),
    "a dict": (lambda folder: {"n.v": torch.zeros(2, 3)}, "State|dict"),
    "a tensor": (lambda folder: torch.zeros(2, 3), "State|Tensor"),
    "a result": (lambda folder: network(single("CubaLIF"), folder)(torch.zeros(1, 2, 3)), "State|tuple"),
}


@pytest.mark.parametrize("name", WRONG_STATES)
def test_a_wrong_state_is_refused(name: str, tmp_path: Path) -> None:
    make, words = WRONG_STATES[name]
    state = make(tmp_path)
    net = network(single("CubaLIF"), tmp_path)
    assert_refused(lambda: net(torch.zeros(4, 2, 3), state), f"state|{words}")


STATE = State({"n.v": torch.zeros(2, 3)})
WRONG_PARTS: dict[str, tuple[Callable[[], Any], str]] = {
    "an index": (lambda: STATE[0], "slice|0"),
    "a name": (lambda: STATE["n.v"], "slice|'n.v'"),
    "no parts": (lambda: State.cat([]), "at least one"),
    "parts of two networks": (lambda: State.cat([STATE, State({"m.v": torch.zeros(2, 3)})]), "'m.v'"),
    "a part with more": (lambda: State.cat([STATE, State({**STATE.tensors, "n.i": torch.zeros(2, 3)})]), "'n.i'"),
    "other shapes": (lambda: State.cat([STATE, State({"n.v": torch.zeros(2, 4)})]), "'n.v'|(2, 4)"),
    "no states": (lambda: State.cat([STATE, torch.zeros(2, 3)]), "State|Tensor"),
}


@pytest.mark.parametrize("name", WRONG_PARTS)
def test_wrong_parts_of_states_are_refused(name: str) -> None:
    call, words = WRONG_PARTS[name]
    assert_refused(call, f"state|{words}")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"liff": "v"}, "'liff'|nearest name is 'lif'"),
        ({3: "v"}, "names of nodes|3"),
        ({"lif": "u"}, "'lif'|LIF|'input', 'output', 'spikes', 'v'|'u'"),
        ({"lif": ("v", "i")}, "'lif'|'i'"),
        ({"in": "v"}, "'in'|Input|'v'"),
        ({"w": "spikes"}, "'w'|Affine|'spikes'"),
        ({"delay": ["output", "history"]}, "'delay'|Delay|'history'"),
        ({"lif": 5}, "'lif'|5"),
        ({"lif": None}, "'lif'|None"),
        ({"lif": [["v"]]}, "'lif'|['v']"),
        ("lif", "record|'lif'"),
        (["lif"], "record|['lif']"),
    ],
)
def test_a_wrong_record_is_refused(record: Any, words: str, tmp_path: Path) -> None:
    net = network(recurrent(), tmp_path)
    assert_refused(lambda: net.run(torch.zeros(4, 2, 3), record=record), f"record|{words}")


FIELDS = (
    *("integrator", "spike_when", "reset", "synapse", "spikes_per_step", "feedback", "output_delay"),
    "reset_to",
)


@pytest.mark.parametrize("dt", [0, 0.0, -1e-3, NAN, INF, -INF, "1e-3", None, True, [1e-3], 1j])
def test_a_wrong_dt_is_refused(dt: Any) -> None:
    assert_refused(lambda: Discretization(dt=dt), f"discretization|'dt'|seconds > 0|{dt!r}")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ["nonsense", "", None, 2, ["euler"], {}, "Euler", NAN])
def test_a_wrong_field_is_refused(field: str, value: Any) -> None:
    choice = repr(getattr(Discretization(), field))
    assert_refused(lambda: Discretization(**{field: value}), f"discretization|'{field}'|{choice}|{value!r}")
    assert_refused(lambda: Discretization.norse(**{field: value}), f"discretization|'{field}'|{choice}|{value!r}")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gain": "x"}, "'gain'|'r*g'|for IF|'x'"),
        ({"gain": ""}, "'gain'|'r*g'|for IF|''"),
        ({"gain": "w_in"}, "'gain'|for IF|'w_in'"),
        ({"gain": "synapse:r"}, "'gain'|for synapse|'decay'|'r'"),
        ({"gain": "LIF:g,"}, "'gain'|classes|'CubaLIF'|''"),
        ({"gain": {"LI": "g"}}, "'gain'|classes|'LIF'|'LI'"),
        ({"gain": {"LIF": None}}, "'gain'|for LIF|None"),
        ({"gain": True}, "'gain'|for IF|True"),
        ({"if_gain": "w_in"}, "'if_gain'|'r*g'|'w_in'"),
    ],
)
def test_a_wrong_gain_is_refused(fields: dict[str, Any], words: str) -> None:
    assert_refused(lambda: Discretization(**fields), f"discretization|{words}")


def test_the_same_gains_are_equal_in_any_spelling() -> None:
    spellings: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"gain": "IF:r"}, {"if_gain": "r"}),
        ({"gain": {"LIF": "g", "IF": "r"}}, {"gain": "IF:r,LIF:g"}),
        ({"gain": "r"}, {"gain": {"IF": "r", "LIF": "r", "CubaLIF": "r"}}),
        ({"gain": "g", "if_gain": "r*dt"}, {"gain": "LIF:g, CubaLIF:g"}),
        ({"gain": "IF:r", "if_gain": "r*dt"}, {}),
    ]
    for one, other in spellings:
        assert Discretization(**one) == Discretization(**other), (one, other)
        assert hash(Discretization(**one)) == hash(Discretization(**other))
    assert replace(Discretization.sinabs(), dt=2.0).gain == Discretization.sinabs().gain


@pytest.mark.parametrize("rest", [{}, {"spike_when": "reaching"}, {"reset": "subtract"}])
def test_many_spikes_per_step_need_reaching_and_subtract(rest: dict[str, Any]) -> None:
    assert_refused(
        lambda: Discretization(spikes_per_step="many", **rest), "'spikes_per_step'|'reaching'|'subtract'|'many'"
    )
    assert Discretization(spikes_per_step="many", spike_when="reaching", reset="subtract").dt == 1e-4


def test_many_spikes_per_step_are_not_reset_late() -> None:
    many: dict[str, Any] = {"spikes_per_step": "many", "spike_when": "reaching", "reset": "subtract"}
    assert_refused(lambda: Discretization(reset_delay=1, **many), "'reset_delay'|'one'|'updated'|'many'")
    assert Discretization(clamp="-threshold", **many).clamp == "-threshold"


def test_unknown_presets_are_refused() -> None:
    assert_refused(lambda: Discretization.preset("norsk"), "preset|norse|'norsk'")
    assert_refused(lambda: Discretization.lava(delta=1), "preset|fields of Discretization|delta")


LIF = single("LIF")
WRONG_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    **{f"chunk {chunk!r}": ({"chunk": chunk}, f"chunk|>= 1|{chunk!r}") for chunk in (0, -1, 1.5, "8", NAN)},
    "discretization by name": ({"discretization": "norse"}, "discretization|Discretization|'norse'"),
    "discretization a dict": ({"discretization": {"dt": 1e-3}}, "discretization|Discretization|dict"),
    "surrogate by name": ({"surrogate": "arctan"}, "surrogate|Surrogate|'arctan'"),
    "learn": ({"learn": ("tua",)}, "learn|'tau'|'tua'"),
    "learn a weight": ({"learn": ("tau", "weight")}, "learn|neuron parameters|'weight'"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_wrong_options_are_refused(name: str, tmp_path: Path) -> None:
    options, words = WRONG_OPTIONS[name]
    write_raw(LIF, tmp_path / "net.nir")
    assert_refused(lambda: neurocuda.load(tmp_path / "net.nir", **options), words)


@pytest.mark.parametrize("force", [{"nope": "ordered"}, {"n": "ordered"}, {"w": "fast"}])
def test_wrong_force_is_refused(force: dict[str, Any], tmp_path: Path) -> None:
    raw = chain({"n": node("LIF"), "w": node("Linear")})
    assert_refused(lambda: network(raw, tmp_path, force=force), "force|'ordered'|'library'")


@pytest.mark.parametrize("kind", ["sigmoid", "", None, 3])
def test_unknown_surrogates_are_refused(kind: Any) -> None:
    assert_refused(lambda: Surrogate(kind), f"surrogate, kind|fast-sigmoid|{kind!r}")


@pytest.mark.parametrize("slope", [0, -1.0, NAN, INF, "2", None])
def test_wrong_slopes_are_refused(slope: Any) -> None:
    assert_refused(lambda: Surrogate(slope=slope), f"surrogate, slope|> 0|{slope!r}")


MANY = Discretization(spikes_per_step="many", spike_when="reaching", reset="subtract")
HUGE = 1e39
# valid files with values that a discretization cannot use
UNFIT: dict[str, tuple[Raw, Discretization, str]] = {
    "threshold 0, many, IF": (single("IF", v_threshold=0.0), MANY, "'n'|'v_threshold'|> 0|'many'|0"),
    "threshold < 0, many, LIF": (single("LIF", v_threshold=np.array([1, -2, 1])), MANY, "'n'|'v_threshold'|> 0|-2"),
    "threshold 0, many, CubaLIF": (single("CubaLIF", v_threshold=-0.0), MANY, "'n'|'v_threshold'|> 0|'many'"),
    "threshold 1e-46, many": (single("IF", v_threshold=1e-46), MANY, "'n'|'v_threshold'|> 0|'many'"),
    "delay": (single("Delay", delay=1e9), Discretization(), "'n'|'delay'|268435456 values|1e+13"),
    "weight": (single("Linear", weight=np.full((4, 3), HUGE)), Discretization(), "'n'|'weight'|float32"),
    "kernel": (single("Conv1d", weight=np.full((4, 2, 3), -HUGE)), Discretization(), "'n'|'weight'|float32"),
    "bias": (single("Affine", bias=np.full(4, HUGE)), Discretization(), "'n'|'bias'|float32"),
    "scale": (single("Scale", scale=HUGE), Discretization(), "'n'|'scale'|float32"),
    "threshold": (single("Threshold", threshold=HUGE), Discretization(), "'n'|'threshold'|float32"),
    "v_threshold": (single("LIF", v_threshold=HUGE), Discretization(), "'n'|threshold'|float32"),
    "v_reset": (single("IF", v_reset=-HUGE), Discretization(), "'n'|'v_reset'|float32"),
    "r": (single("I", r=1e300), Discretization(), "'n'|'gain_v'|float32"),
    "tau": (single("LI", tau=1e-50), Discretization(), "'n'|'decay_v'|float32"),
    "tau_syn": (single("CubaLI", tau_syn=5e-324), Discretization(), "'n'|'decay_i'|float32"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_values_out_of_range_of_float32_or_the_step_are_refused(name: str, tmp_path: Path) -> None:
    raw, discretization, words = UNFIT[name]
    path = tmp_path / "unfit.nir"
    write_raw(raw, path)
    with pytest.raises(GraphError) as caught:
        neurocuda.load(path, discretization)
    for word in [str(path), "expected", "found", *words.split("|")]:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    assert caught.value.problems
    assert all(problem.where.startswith("node 'n'") for problem in caught.value.problems)


def test_thresholds_of_zero_are_accepted_unless_neurons_count(tmp_path: Path) -> None:
    net = network(chain({"n": node("IF", v_threshold=0.0), "t": node("Threshold", threshold=0.0)}), tmp_path)
    assert net(torch.ones(2, 1, 3))[0].eq(1).all()
    with_threshold = network(single("Threshold", threshold=-1.0), tmp_path, discretization=MANY)
    assert torch.equal(
        with_threshold.run(torch.ones(1, 1, 3), record={"n": "output"}).recordings["n"]["output"], torch.ones(1, 1, 3)
    )


@pytest.mark.parametrize("dt", ["fast", np.array([1e-4, 2e-4]), NAN, {"value": 1e-4}, 1j, -1.0])
def test_unusual_metadata_is_ignored(dt: Any, tmp_path: Path) -> None:
    write_raw({**single("LIF"), "metadata": {"dt": dt}}, tmp_path / "net.nir")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuroCUDAWarning)
        assert neurocuda.load(tmp_path / "net.nir")(torch.zeros(2, 1, 3))[0].shape == (2, 1, 3)


@pytest.mark.parametrize(("dt", "warned"), [(1e-4, 0), (np.float32(1e-4), 0), (1e-3, 1), (np.float32(2e-4), 1)])
def test_a_dt_that_differs_from_the_file_warns_once(dt: Any, warned: int, tmp_path: Path) -> None:
    write_raw({**single("LIF"), "metadata": {"dt": dt}}, tmp_path / "net.nir")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        neurocuda.load(tmp_path / "net.nir", Discretization(dt=1e-4))
    assert len(told) == warned, [str(warning.message) for warning in told]
    assert all(f"{dt:g}" in str(w.message) for w in told)


@pytest.mark.parametrize("source", [42, None, b"net.nir", nir.Threshold(np.ones(3))])
def test_other_sources_are_refused(source: Any) -> None:
    assert_refused(lambda: neurocuda.load(source), f"source|path|Graph|{type(source).__name__}")


def test_a_delay_too_long_for_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"node 'n', field 'delay': expected at most 268435456 values"):
        network(single("Delay", delay=1e5), tmp_path)
