"""The CPU memory pool of results: it reuses freed blocks and never writes to a block in use."""

from __future__ import annotations

import gc
import io
import itertools
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from make_nir import numbers
from torch import Tensor

from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, backends, native, reference

pytestmark = [
    pytest.mark.sanitized,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]

CPU = torch.device("cpu")
MIB = 1 << 18
"""float32 values of one MiB."""
SURROGATE = Surrogate("fast-sigmoid", 25.0)


@pytest.fixture(autouse=True)
def _empty_pool() -> None:
    from neurocuda import _C

    gc.collect()  # of what failed tests hold
    _C.release_memory()


def memory() -> dict[str, int]:
    from neurocuda import _C

    found: dict[str, int] = _C.memory()
    return found


def values(count: int) -> Tensor:
    return native.empty_float32([count], CPU).copy_(torch.arange(count) % 97)


def coefficients() -> NeuronCoefficients:
    half, one = torch.tensor(0.5), torch.tensor(1.0)
    return NeuronCoefficients(half, one, torch.tensor(0.0), threshold=one, v_reset=torch.tensor(0.0))


def spikes(x: Tensor) -> Tensor:
    output, _, _ = native.neuron([x], coefficients(), NeuronState(torch.zeros(x.shape[1:])), SURROGATE)
    return output


def some_input(steps: int = 4, size: int = 60_000) -> Tensor:
    return torch.from_numpy(numbers("memory", steps, size).normal(0.5, 1, (steps, 1, size)).astype(np.float32))


def further_calls() -> None:
    """Results of many sizes come and go."""
    x = some_input()
    for call in range(100):
        native.branch_sum([x, x])
        spikes(x[: 1 + call % 4])
        native.empty_float32([60_000 * (1 + call % 5)], CPU).fill_(-1)


def test_results_come_from_the_pool() -> None:
    x = some_input()
    weight, conv = torch.rand(20_000, 3), torch.rand(8, 4, 3, 3)
    frames = torch.rand(40, 4, 12, 12)
    for name, result in {
        "empty": lambda: native.empty_float32([4, 60_000], CPU),
        "branch_sum": lambda: native.branch_sum([x, x]),
        "neuron": lambda: spikes(x),
        "ordered_linear": lambda: native.ordered_linear(torch.rand(4, 3), weight, None),
        "ordered_conv": lambda: native.ordered_conv(frames, conv, None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
        "unpack_spikes": lambda: native.unpack_spikes(torch.zeros(4, 7500, dtype=torch.uint8), [1, 60_000]),
    }.items():
        before = memory()["in_use"]
        tensor = result()
        assert memory()["in_use"] >= before + tensor.nbytes, name
        assert tensor.data_ptr() % 64 == 0, name
        del tensor
        assert memory()["in_use"] == before, name


def test_a_result_that_is_held_is_never_written() -> None:
    x = some_input()
    whole, viewed = spikes(x), spikes(x)
    view = viewed[2:, :, 5:500:3]
    del viewed
    held = {"result": whole, "view": view, "numpy": native.branch_sum([x, x]).numpy()}
    before = {name: torch.as_tensor(value).clone() for name, value in held.items()}
    leaf = x.clone().requires_grad_()
    loss = (native.branch_sum([leaf, leaf]) ** 2).sum()  # what is squared is held by autograd alone
    further_calls()
    for name, value in held.items():
        assert torch.equal(torch.as_tensor(value), before[name]), name
    loss.backward()
    assert torch.equal(leaf.grad, 8 * x)


def test_a_freed_block_is_used_again() -> None:
    first = values(MIB)
    place, taken = first.data_ptr(), memory()["taken"]
    del first
    assert memory()["free"] == 4 * MIB
    again = values(MIB - 1000)
    assert again.data_ptr() == place
    other = values(MIB)
    assert other.data_ptr() != place
    assert memory()["taken"] == taken + 1
    del again, other
    from neurocuda import _C

    _C.release_memory()
    assert memory()["free"] == 0


def training_step() -> None:
    x = some_input().requires_grad_()
    (spikes(spikes(x) + x) * x).sum().backward()


def shrinking_layers() -> None:
    x = some_input(4, 100_000)
    while x.shape[2] > 10_000:
        x = native.branch_sum([spikes(x), x])[:, :, ::2]


def one_at_a_time() -> None:
    for size in (100, 70, 51, 49, 30, 10, 1):
        native.empty_float32([MIB * size // 10], CPU)


def recurrent() -> None:
    x, weight = some_input(20, 1000), torch.rand(1000, 1000)
    state, last = NeuronState(torch.zeros(1, 1000)), torch.zeros(1, 1000)
    native.recurrent_neuron([x], 1, weight, None, coefficients(), state, last, SURROGATE)


WORK = [lambda: spikes(some_input()), training_step, shrinking_layers, one_at_a_time, recurrent]


@pytest.mark.parametrize("work", WORK, ids=["neuron", "training", "shrinking", "one at a time", "recurrent"])
def test_repeated_work_takes_nothing_more_from_the_system(work: Callable[[], Any]) -> None:
    for _ in range(3):
        work()
    before = memory()
    for _ in range(100 if work is not recurrent else 10):
        work()
    assert memory() == before


def layers(sizes: list[int], scale: int) -> None:
    """What stands between the layers of a network, of sizes that come with the batch."""
    before = native.empty_float32([scale * sizes[0] * 5_000], CPU)
    for size in sizes[1:]:
        before = native.empty_float32([scale * size * 5_000], CPU)
    del before


SIZES = {
    "whole": [([34, 21, 8, 55], 4)],
    "after half": [([3, 13, 8, 55], 4), ([3, 13, 8, 55], 2)],
    "in turns": [([34, 3, 55], 4), ([8, 8, 21], 4)],
}
"""Of which the first alone, all in turns, or after the others."""


@pytest.mark.parametrize("kind", SIZES)
def test_work_of_several_sizes_takes_nothing_more_from_the_system(kind: str) -> None:
    first, *others = [lambda sizes=sizes, scale=scale: layers(sizes, scale) for sizes, scale in SIZES[kind]]
    turns = [first, *others] if kind == "in turns" else [first]
    for work in (first, *others, *others, *(turns * 30)):
        work()
    taken = memory()["taken"]
    for work in turns * 20:
        work()
    assert memory()["taken"] == taken


def test_small_results_that_are_kept_do_not_hold_large_blocks() -> None:
    kept, large = [], 40 * MIB
    for _ in range(30):
        native.empty_float32([large], CPU)
        kept.append(values(MIB // 4))
    assert memory()["in_use"] + memory()["free"] <= 1.6 * 4 * large


def test_two_threads_share_the_pool() -> None:
    x = some_input()
    expected = spikes(x)
    ready, wrong = threading.Barrier(3), [0]

    def work() -> None:
        for round_ in range(2):
            held = [spikes(x) for _ in range(3)]  # at once in all threads, so that the pool has enough
            ready.wait(60)
            del held
            for _ in range(100 * round_):
                wrong[0] += not torch.equal(spikes(x), expected)
            ready.wait(60)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        ready.wait(60)
    before = memory()["taken"]
    ready.wait(60)
    for thread in threads:
        thread.join()
    assert wrong == [0]
    assert memory()["taken"] == before


def test_the_bound_holds_for_requests_of_any_sizes() -> None:
    draw = numbers("requests")
    held: list[Tensor] = []
    peak = 0
    for _ in range(2000):
        for _ in range(draw.integers(0, len(held) + 1) if draw.random() < 0.1 else draw.integers(0, 2)):
            if held:
                held.pop(draw.integers(len(held)))
        held.append(native.empty_float32([int(2 ** draw.uniform(14, 23))], CPU))
        peak = max(peak, sum(tensor.nbytes for tensor in held))
        found = memory()
        assert found["in_use"] >= sum(tensor.nbytes for tensor in held)
        assert found["in_use"] + found["free"] <= 2 * peak * 17 / 16
    spans = sorted((tensor.data_ptr(), tensor.nbytes) for tensor in held)
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(spans))
    held.clear()
    assert memory()["in_use"] == 0


def test_what_torch_does_with_memory_works() -> None:
    tensor, expected = values(MIB), torch.arange(MIB) % 97 + 0.0
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    assert torch.equal(torch.load(file), expected)
    assert torch.equal(pickle.loads(pickle.dumps(tensor)), expected)
    in_use = memory()["in_use"]
    tensor.resize_(2 * MIB)
    assert torch.equal(tensor[:MIB], expected)
    assert memory()["in_use"] == 2 * in_use
    tensor.resize_(10)
    assert torch.equal(tensor, expected[:10])
    assert torch.equal(values(MIB).share_memory_(), expected)
    array = np.from_dlpack(values(MIB))
    further_calls()
    assert np.array_equal(array, expected.numpy())
    with torch.inference_mode():
        assert torch.equal(values(MIB), expected)
    with torch.profiler.profile(profile_memory=True) as profile:
        values(MIB)
    assert any(event.cpu_memory_usage >= 4 * MIB for event in profile.events())


def test_empty_is_an_operator() -> None:
    torch.library.opcheck(torch.ops.neurocuda.empty.default, ([3, 4],), test_utils=("test_schema", "test_faketensor"))
    for module in (native, reference):
        found = module.empty_float32((3, 4), CPU)
        assert (found.shape, found.dtype, found.device) == ((3, 4), torch.float32, CPU)
        assert module.empty_float32((3, 4), torch.device("meta")).is_meta
        assert module.empty_float32((0, 4), CPU).shape == (0, 4)
    filled = torch.compile(lambda n: native.empty_float32([n, 5], CPU).fill_(2), backend="aot_eager", fullgraph=True)
    assert torch.equal(filled(3), torch.full((3, 5), 2.0))


FORK = """
import os, threading, torch
torch.set_num_threads(1)  # after a fork, GNU's OpenMP hangs where it had threads
from neurocuda.ops import native
stop = threading.Event()
def work():
    while not stop.is_set():
        native.empty_float32([100_000], torch.device("cpu"))
native.empty_float32([100_000], torch.device("cpu")).fill_(1)  # torch itself hangs after a fork within its first call
thread = threading.Thread(target=work)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        native.empty_float32([100_000], torch.device("cpu")).fill_(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
kept = native.empty_float32([100_000], torch.device("cpu"))  # outlives the interpreter
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_children_and_the_end_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
