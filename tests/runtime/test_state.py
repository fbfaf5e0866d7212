"""The state of a network: resumed, sliced, concatenated, saved. No later call changes a returned tensor."""

from __future__ import annotations

import copy
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from devices import here
from places import ROOT
from raw_nodes import VECTOR, Raw, chain, everything, graph, node, terminal
from stateful import busy, drive, network
from torch import Tensor

from neurocuda import Executor, RunResult, State

ENTRIES = {"a.v": (4,), "a.i": (4,), "a.previous": (4,), "delay.history": (3, 4), "li.v": (4,), "li.previous": (4,)}
ENTRIES |= {"held.v": (4,), "back.history": (2, 4)}


@pytest.fixture
def net() -> Executor:
    return network(busy(), chunk=7)


def assert_equal_states(found: State, expected: State) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    for name, value in expected.tensors.items():
        assert torch.equal(found.tensors[name], value), name


def everything_of(net: Executor) -> dict[str, list[str]]:
    return {name: ["input", "output"] for name in net.graph.nodes} | {"a": ["input", "output", "spikes", "v", "i"]}


def test_the_network_of_these_tests_is_busy(net: Executor) -> None:
    """Without activity, the other tests would check little."""
    result = net.run(drive(), record={"a": "spikes"})
    assert 0.1 < result.recordings["a"]["spikes"].mean() < 0.9
    assert all(tensor.any() for tensor in result.state.tensors.values())


def test_entries_are_named_and_have_the_batch_first(net: Executor) -> None:
    _, state = net(drive())
    assert {name: tuple(value.shape) for name, value in state.tensors.items()} == {
        name: (5, *shape) for name, shape in ENTRIES.items()
    }
    assert {value.dtype for value in state.tensors.values()} == {torch.float32}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("stop", [0, 1, 2, 6, 7, 8, 29, 30])
def test_resumption_changes_no_bit(net: Executor, stop: int, gradients: bool) -> None:
    x = drive()
    with torch.set_grad_enabled(gradients):
        whole, final = net(x)
        first, state = net(x[:stop])
        second, state = net(x[stop:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert_equal_states(state, final)


def test_resumption_at_every_step_changes_no_recording(net: Executor) -> None:
    x, state = drive(), None
    whole = net.run(x, record=everything_of(net))
    pieces = []
    for step in range(x.shape[0]):
        pieces.append(net.run(x[step : step + 1], state, everything_of(net)))
        state = pieces[-1].state
    for name, quantities in whole.recordings.items():
        for quantity, values in quantities.items():
            joined = torch.cat([piece.recordings[name][quantity] for piece in pieces])
            assert torch.equal(joined, values), (name, quantity)


@pytest.mark.parametrize(
    "part", [slice(0, 2), slice(2, 5), slice(None), slice(-1, None), slice(None, None, 2), slice(2, 2)]
)
def test_part_of_a_batch_resumes_by_itself(net: Executor, part: slice) -> None:
    x = drive()
    _, state = net(x[:10])
    whole, final = net(x[10:], state)
    found, found_state = net(x[10:, part], state[part])
    assert torch.equal(found, whole[:, part])
    assert_equal_states(found_state, final[part])


def test_parts_are_joined_in_order(net: Executor) -> None:
    x = drive()
    _, whole = net(x)
    parts = [net(x[:, a:b])[1] for a, b in ((0, 1), (1, 4), (4, 5))]
    assert_equal_states(State.cat(parts), whole)
    shuffled = State.cat([whole[3:5], whole[0:1]])
    expected = net(x[:, [3, 4, 0]])[1]
    assert_equal_states(shuffled, expected)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s)), lambda s: s.to("cpu"), lambda s: s.detach()],
)
def test_copies_resume_alike(net: Executor, duplicate: Callable[[State], State]) -> None:
    x = drive()
    with torch.no_grad():
        _, state = net(x[:10])
        expected, final = net(x[10:], state)
        found, found_final = net(x[10:], duplicate(state))
    assert torch.equal(found, expected)
    assert_equal_states(found_final, final)


def test_a_saved_state_resumes_alike(net: Executor, tmp_path: Path) -> None:
    x = drive()
    _, state = net(x[:10])
    expected, final = net(x[10:], state)
    for saved in (state, state.detach(), state[0:5]):
        torch.save(saved, tmp_path / "state.pt")
        loaded = torch.load(tmp_path / "state.pt", weights_only=True)
        assert isinstance(loaded, State)
        found, found_final = net(x[10:], loaded)
        assert torch.equal(found, expected)
        assert_equal_states(found_final, final)


def test_a_saved_state_is_read_by_another_process(net: Executor, tmp_path: Path) -> None:
    with torch.no_grad():
        _, state = net(drive())
    torch.save({"state": state, "step": 30}, tmp_path / "state.pt")
    code = (
        "import sys, torch, neurocuda\n"
        "saved = torch.load(sys.argv[1], weights_only=True)\n"
        "print(saved['step'], type(saved['state']).__name__, *sorted(saved['state'].tensors))\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "state.pt")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["30", "State", *sorted(ENTRIES)]


def test_gradients_pass_from_call_to_call(net: Executor) -> None:
    """Gradients of two calls are those of one call; `detach` stops them."""
    whole = drive().requires_grad_()
    net(whole)[0].sum().backward()
    parts = drive().requires_grad_()
    first, state = net(parts[:11])
    second, _ = net(parts[11:], state)
    (first.sum() + second.sum()).backward()
    assert whole.grad is not None
    assert parts.grad is not None
    assert whole.grad[5].any()
    torch.testing.assert_close(parts.grad, whole.grad)

    cut = drive().requires_grad_()
    _, state = net(cut[:11])
    net(cut[11:], state.detach())[0].sum().backward()
    assert cut.grad is not None
    assert not cut.grad[:11].any()
    assert cut.grad[11].any()


def tensors_of(result: RunResult) -> dict[str, Tensor]:
    """All tensors that a call returned."""
    outputs = result.output if isinstance(result.output, dict) else {"output": result.output}
    recordings = {f"{n} {q}": value for n, quantities in result.recordings.items() for q, value in quantities.items()}
    return {**outputs, **recordings, **{f"state {n}": value for n, value in result.state.tensors.items()}}


def bare() -> Raw:
    return graph({"in": terminal("Input", VECTOR), "out": terminal("Output", VECTOR), "y": terminal("Output", VECTOR)},
                 [("in", "out"), ("in", "y")])  # fmt: skip


def lone() -> Raw:
    """An Output without a source, a layer whose only input is its bias, a Delay without a source."""
    raw = chain({"delay": node("Delay", delay=0.0), "flat": node("Flatten"), "one": node("Scale", scale=1.0)})
    raw["nodes"] |= {"b": node("Affine"), "y": terminal("Output", (4,)), "z": terminal("Output", VECTOR)}
    return {**raw, "edges": [*raw["edges"], ("b", "y")]}


GRAPHS: dict[str, Callable[[], Raw]] = {"busy": busy, "everything": everything, "bare": bare, "lone": lone}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 4, 9])
@pytest.mark.parametrize("name", GRAPHS)
def test_results_and_arguments_never_change(name: str, steps: int, gradients: bool) -> None:
    net = network(GRAPHS[name](), chunk=4)
    shape = net.graph.nodes["in"].output_shape
    record = {n: ["input", "output"] for n in net.graph.nodes}
    with torch.set_grad_enabled(gradients):
        state = net(drive(3, 2, shape))[1]
        x = drive(steps, 2, shape)
        given = {"x": x, **{f"given {n}": value for n, value in state.tensors.items()}}
        result = net.run(x, state, record)
        kept = {n: value.detach().clone() for n, value in {**tensors_of(result), **given}.items()}
        later = result.state
        for seed in range(20):
            later = net.run(drive(max(steps, 1), 2, shape, seed + 1) * 3, later if seed % 3 else None, record).state
    for n, value in {**tensors_of(result), **given}.items():
        assert torch.equal(value, kept[n]), n


def storages(tensors: dict[str, Tensor]) -> dict[int, str]:
    """The tensors by address, without empty ones."""
    places: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            place = tensor.untyped_storage().data_ptr()
            assert place not in places, f"{name} and {places[place]} share memory"
            places[place] = name
    return places


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 4, 9])
@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_returned_shares_memory(name: str, steps: int, gradients: bool) -> None:
    """Not with each other, x, the input state, the parameters or the results of the next call."""
    net = network(GRAPHS[name](), chunk=4)
    shape = net.graph.nodes["in"].output_shape
    record = {n: ["input", "output"] for n in net.graph.nodes}
    with torch.set_grad_enabled(gradients):
        state, x = net(drive(3, 2, shape))[1], drive(steps, 2, shape)
        own = {"x": x, **{f"given {n}": value for n, value in state.tensors.items()}, **net.state_dict()}
        results = [net.run(x, state, record) for _ in range(2)]
    returned = {
        f"{n} of call {k}": value for k, result in enumerate(results) for n, value in tensors_of(result).items()
    }
    storages({**own, **returned})
    for value in returned.values():
        assert value.numel() == 0 or not any(
            stride == 0 < size - 1 for stride, size in zip(value.stride(), value.shape, strict=True)
        )


def test_edits_of_results_change_no_later_call() -> None:
    net, again = network(busy()), network(busy())
    with torch.no_grad():
        x = drive()
        y, state = net(x[:10])
        expected, _ = again(x[10:], copy.deepcopy(state))
        y.fill_(7)
        x[:10] = 9
        found, _ = net(x[10:], state)
        assert torch.equal(found, expected)
        for value in state.tensors.values():
            value.fill_(5)
        assert torch.equal(net(drive())[0], again(drive())[0])


def test_a_state_fits_every_network_of_its_graph() -> None:
    x = drive()
    one, other = network(busy(), chunk=3), network(busy(), chunk=32)
    expected, _ = one(x)
    _, state = one(x[:10])
    assert torch.equal(other(x[10:], state)[0], expected[10:])


@pytest.mark.parametrize("weights_only", [True, False])
def test_what_version_0_1_saved_is_read_and_goes_on(weights_only: bool) -> None:
    """A State and a state_dict that version 0.1 saved, with its results after them."""
    saved = torch.load(ROOT / "tests/support/data/saved_by_0.1.pt", map_location=here(), weights_only=weights_only)
    net = network(busy(), learn="tau")
    net.load_state_dict(saved["state_dict"])
    with torch.no_grad():
        _, state = net(drive(7, 2))
        after, _ = net(drive(12, 2), saved["state"])
    assert isinstance(saved["state"], State)
    assert_equal_states(state, saved["state"])
    assert torch.equal(after, saved["after"])


def test_a_state_is_saved_under_the_name_of_version_0_1(net: Executor, tmp_path: Path) -> None:
    """Both versions read files of the other."""
    _, state = net(drive(3, 2))
    torch.save(state, tmp_path / "state.pt")
    with zipfile.ZipFile(tmp_path / "state.pt") as file:
        pickled = file.read("state/data.pkl")
    named = [value for _, value, _ in pickletools.genops(pickled) if isinstance(value, str) and "neurocuda" in value]
    assert named == ["neurocuda.state State"]
