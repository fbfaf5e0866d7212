"""Random graphs of every kind: the executor computes what the oracle computes, however it is run."""

from __future__ import annotations

import numpy as np
import torch
from comparison import assert_equal, by_output, network, order_of, recorded, tensors, told
from devices import networks_on_each_device
from hypothesis import given
from hypothesis import strategies as st
from strategies import DRAWN, Case, cases

from neurocuda import Executor, State
from neurocuda.graph import PRIMITIVES

STEPWISE = 12
"""Up to so many steps a run is stopped and resumed at every one of them."""


def outputs_of(
    net: Executor, x: dict[str, np.ndarray], state: State | None = None
) -> tuple[dict[str, torch.Tensor], State]:
    with torch.no_grad():
        output, state = net(tensors(x), state)
    return by_output(net, output), state


def test_every_primitive_is_drawn() -> None:
    inlined = {"Identity"}  # of nested graphs
    assert PRIMITIVES.keys() - inlined == DRAWN, "DRAWN of tests/support/strategies.py"


@networks_on_each_device
@given(cases())
def test_executor_equals_the_oracle(case: Case) -> None:
    net = network(case)
    assert_equal(recorded(net, case.x), told(case.expected), order_of(net), f"{net}\n{net.graph}")


@given(cases())
def test_library_layers_equal_the_oracle_where_sums_are_exact(case: Case) -> None:
    net = network(case, force=dict.fromkeys(case.exact_layers, "library"))
    assert_equal(recorded(net, case.x), told(case.expected), order_of(net), f"{net}\n{net.graph}")


@networks_on_each_device
@given(cases())
def test_chunk_batch_threads_and_resumption_change_no_bit(case: Case) -> None:
    whole = network(case)
    expected = recorded(whole, case.x)
    steps, batch = next(iter(case.x.values())).shape[:2]
    for chunk in (1, 7, 32, max(steps, 1)):
        assert_equal(recorded(network(case, chunk=chunk), case.x), expected, order_of(whole), f"chunk {chunk}\n{whole}")

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert_equal(recorded(whole, case.x), expected, order_of(whole), f"other threads\n{whole}")
    finally:
        torch.set_num_threads(threads)

    results = {key[0]: value for key, value in expected.items() if key[1] == "result"}
    final = outputs_of(whole, case.x)[1]
    singles = [outputs_of(whole, {n: s[:, b : b + 1] for n, s in case.x.items()}) for b in range(batch)]
    for name, value in results.items():
        joined = torch.cat([output[name] for output, _ in singles], dim=1).numpy()
        assert_equal({(name, "result"): joined}, {(name, "result"): value}, order_of(whole), f"batch split\n{whole}")
    assert_states(State.cat([state for _, state in singles]), final)

    for stop in range(min(steps, STEPWISE)):
        first, state = outputs_of(whole, {n: s[:stop] for n, s in case.x.items()})
        second, state = outputs_of(whole, {n: s[stop:] for n, s in case.x.items()}, state)
        for name, value in results.items():
            joined = torch.cat([first[name], second[name]]).numpy()
            assert_equal(
                {(name, "result"): joined}, {(name, "result"): value}, order_of(whole), f"stop {stop}\n{whole}"
            )
        assert_states(state, final)


def assert_states(found: State, expected: State) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert np.array_equal(found.tensors[name].numpy(), tensor.numpy(), equal_nan=True), name


@networks_on_each_device
@given(cases(), st.sets(st.integers(0, 3)), st.sampled_from([1, 2, 32]))
def test_an_input_held_for_all_steps_equals_the_same_written_out(case: Case, moving: set[int], chunk: int) -> None:
    net = network(case, chunk=chunk)
    held = {
        name: x if place in moving or len(x) == 0 else np.broadcast_to(x[:1], x.shape)
        for place, (name, x) in enumerate(case.x.items())
    }
    expected = recorded(net, {name: np.ascontiguousarray(x) for name, x in held.items()})
    assert_equal(recorded(net, held), expected, order_of(net), f"all but {moving} held\n{net}\n{net.graph}")
