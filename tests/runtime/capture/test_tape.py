"""A program returns what its function returns, after any change of its inputs."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, backends, native
from neurocuda.ops.backends import unobserved
from neurocuda.runtime.capture import tape
from neurocuda.runtime.capture.call_cache import CallCache

pytestmark = [
    pytest.mark.sanitized,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]

WEIGHT = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
SCALE = torch.tensor([0.5])


def matrix(given: list[Tensor]) -> list[Tensor]:
    x, state = given
    y = torch.nn.functional.linear(x * (SCALE * 2 + 1), WEIGHT) + state
    return [y, y[-1:].expand_as(state)]


def view_of_a_constant(given: list[Tensor]) -> list[Tensor]:
    return [given[0] @ WEIGHT.t(), given[1] + WEIGHT.flatten()[5]]


def computed_from_constants(given: list[Tensor]) -> list[Tensor]:
    total = torch.zeros(3)
    total += WEIGHT.sum(1) / SCALE
    return [given[1] + total, given[0] * 4.0]


def results_that_share(given: list[Tensor]) -> list[Tensor]:
    y = given[0] * 2
    return [given[0], y, y, y[:1], y.t(), torch.zeros(()), torch.zeros(()).expand(2, 3)]


def in_place(given: list[Tensor]) -> list[Tensor]:
    y = given[0].clone()
    y += given[0]
    y[0] = 7
    y[1].mul_(SCALE)
    return [y, torch.cat([y, given[0]]), torch.stack(given[0].unbind(0), dim=1)]


def several_results(given: list[Tensor]) -> list[Tensor]:
    return [*given[0].aminmax(dim=0), *given[0].split(1), given[0].to(torch.bool), given[0].double() * 1e-3]


def reads_a_constant(given: list[Tensor]) -> list[Tensor]:
    return [given[0] * SCALE.item(), given[1] * float(SCALE)]


def populations(given: list[Tensor]) -> list[Tensor]:
    """Neurons may overwrite tensors that are not read again; here some are read again, returned, or views."""
    fires = NeuronCoefficients(*[torch.tensor(c) for c in (0.5, 1.0, 0.125)], threshold=SCALE, v_reset=SCALE * 0)
    membrane = NeuronCoefficients(*[torch.tensor(c) for c in (0.5, 1.0, 0.0)])

    def run(branches: list[Tensor], c: NeuronCoefficients, v: Tensor) -> tuple[Tensor, Tensor]:
        output, state, _ = native.neuron(branches, c, NeuronState(v), Surrogate())
        return output, state.v

    x = given[0].reshape(2, 1, 4)
    spent, again, returned, viewed = x * 2.0, x * 3.0, x * 4.0, x * 5.0
    view = viewed.reshape(2, 4)
    a, v = run([spent], fires, given[1][:1, :1] + torch.zeros(1, 4))
    b, v = run([again, a], fires, v)
    c, v = run([again, again], membrane, v)
    d, kept = run([returned, c], membrane, v)
    e, w = run([viewed], membrane, kept)
    f, w = run([e * SCALE], membrane, w)
    return [a, b, d, f, returned, view + 1.0, again, kept, w]


def depends_on_values(given: list[Tensor]) -> list[Tensor]:
    return [given[0] if given[0].sum().item() > 0 else -given[0]]


def writes_a_constant(given: list[Tensor]) -> list[Tensor]:
    total = torch.zeros(3)
    total += given[1].sum(0)
    return [total + given[1]]


FUNCTIONS = [
    matrix,
    populations,
    view_of_a_constant,
    computed_from_constants,
    results_that_share,
    in_place,
    several_results,
    reads_a_constant,
    depends_on_values,
    writes_a_constant,
]


def draw(seed: int, layout: str = "contiguous") -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, state = torch.randn(2, 4, generator=g), torch.randn(2, 3, generator=g)
    return [x.t().contiguous().t() if layout == "transposed" else x, state]


def call(calls: CallCache, function: Callable[[list[Tensor]], list[Tensor]], given: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        calls.refresh([WEIGHT, SCALE])
        return calls.run_program((), function, given)


def assert_same(found: list[Tensor], function: Callable[[list[Tensor]], list[Tensor]], given: list[Tensor]) -> None:
    with torch.no_grad():
        expected = function(given)
    assert len(found) == len(expected)
    for place, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == b.dtype, f"result {place}"
        assert torch.equal(a, b), f"result {place}: found {a}, expected {b}"


@pytest.fixture(autouse=True)
def _constants_as_before() -> object:
    kept = WEIGHT.detach().clone(), SCALE.clone()
    yield
    WEIGHT.data = kept[0]
    SCALE.copy_(kept[1])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_programs_equal_their_functions(function: Callable[[list[Tensor]], list[Tensor]]) -> None:
    calls = CallCache()
    for seed in range(5):
        for layout in ("contiguous", "transposed"):
            given = draw(seed, layout)
            assert_same(call(calls, function, given), function, given)


@pytest.mark.parametrize("function", FUNCTIONS[:8])
def test_most_functions_are_recorded(function: Callable[[list[Tensor]], list[Tensor]]) -> None:
    cache, calls = CallCache(), []

    def counted(given: list[Tensor]) -> list[Tensor]:
        calls.append(1)
        return function(given)

    for seed in range(6):
        call(cache, counted, draw(seed))
    assert len(calls) == 2  # the first call, and the recording


EDITS: dict[str, Callable[[], object]] = {
    "in place": lambda: WEIGHT.data.add_(1),
    "new data": lambda: setattr(WEIGHT, "data", WEIGHT.detach() * 3),
    "numpy": lambda: WEIGHT.detach().numpy().__setitem__((1, 2), 50),
    "another": lambda: SCALE.detach().numpy().__setitem__(0, -3),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_edit_is_seen(function: Callable[[list[Tensor]], list[Tensor]], edit: str) -> None:
    calls = CallCache()
    for seed in range(3):
        call(calls, function, draw(seed))
    EDITS[edit]()
    for seed in range(3):
        given = draw(seed)
        assert_same(call(calls, function, given), function, given)


def test_one_program_may_fold_a_tensor_that_another_reads() -> None:
    calls = CallCache()

    def check(key: str, function: Callable[[list[Tensor]], list[Tensor]]) -> None:
        with torch.no_grad():
            calls.refresh([WEIGHT])
            found = calls.run_program(key, function, [torch.ones(3, 4)])
        assert_same(found, function, [torch.ones(3, 4)])

    for _ in range(2):
        check("kept", lambda given: [given[0] * (WEIGHT * 2)])
    for _ in range(2):
        check("as it is", lambda given: [given[0] * WEIGHT])
    WEIGHT.data.add_(1)
    check("kept", lambda given: [given[0] * (WEIGHT * 2)])


def test_another_source_is_seen() -> None:
    weights = [torch.ones(3), torch.full((3,), 2.0)]
    calls = CallCache()
    for weight in (*weights, *weights):
        for seed in range(4):
            calls.refresh([weight])
            given = draw(seed)
            with torch.no_grad():
                (found,) = calls.run_program((), lambda g, w=weight: [g[1] * w], given)
            assert torch.equal(found, given[1] * weight)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_results_have_memory_of_their_own(function: Callable[[list[Tensor]], list[Tensor]]) -> None:
    calls = CallCache()
    for seed in range(5):
        given = draw(seed)
        before = [t.clone() for t in given]
        for result in call(calls, function, given):
            result.zero_()
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
        assert WEIGHT.detach().sum() == 66
        fresh = draw(seed)
        assert_same(call(calls, function, fresh), function, fresh)


def test_one_tensor_may_stand_for_two_inputs() -> None:
    calls = CallCache()
    same = torch.ones(2)
    for _ in range(3):
        calls.run_program((), lambda g: [g[0] - g[1]], [same, same])
    (found,) = calls.run_program((), lambda g: [g[0] - g[1]], [torch.full((2,), 5.0), torch.full((2,), 3.0)])
    assert torch.equal(found, torch.full((2,), 2.0))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_a_copy_records_anew(copied: Callable[[CallCache], CallCache]) -> None:
    calls = CallCache()
    for seed in range(3):
        call(calls, matrix, draw(seed))
    again = copied(calls)
    for seed in range(3):
        assert_same(call(again, matrix, draw(seed)), matrix, draw(seed))


def test_an_error_leaves_it_usable() -> None:
    calls = CallCache()

    def fails(given: list[Tensor]) -> list[Tensor]:
        raise RuntimeError("asked for")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="asked for"):
            calls.run_program((), fails, draw(0))
    for seed in range(3):
        assert_same(calls.run_program((), in_place, draw(seed)), in_place, draw(seed))


def test_threads_share_a_cache() -> None:
    calls, wrong = CallCache(), []

    def work(seed: int) -> None:
        for turn in range(200):
            given = draw(seed * 1000 + turn)
            with torch.no_grad():
                found = calls.run_program((), matrix, given)
                expected = matrix(given)
            wrong.extend(place for place in range(2) if not torch.equal(found[place], expected[place]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_observed_calls_are_not_recorded() -> None:
    x = torch.ones(2)
    with torch.no_grad():
        assert unobserved([x])
        with torch.autocast("cpu"):
            assert not unobserved([x])
        with torch._subclasses.FakeTensorMode():
            assert not unobserved([x])
        assert not torch.vmap(lambda t: t * 0 + unobserved([t]))(x).any()
    assert not unobserved([x])


def test_a_recording_imports_nothing() -> None:
    """torch would import its compiler for such a dispatch mode: seconds, and the memory of many networks."""
    program = (
        "import sys, nir, numpy, torch, neurocuda\n"
        "one = numpy.ones(3)\n"
        "nodes = {'input': nir.Input(numpy.array([3])), 'output': nir.Output(numpy.array([3])),\n"
        "         'lif': nir.LIF(tau=one, r=one, v_leak=one, v_threshold=one)}\n"
        "net = neurocuda.load(nir.NIRGraph(nodes, [('input', 'lif'), ('lif', 'output')]))\n"
        "before = set(sys.modules)\n"
        "with torch.no_grad():\n"
        "    for _ in range(3): net(torch.ones(2, 1, 3))\n"
        "assert any(net._calls._captured.values())\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_recording_keeps_no_tensor_for_longer_than_the_function() -> None:
    alive: list[int] = []

    def chain(given: list[Tensor]) -> list[Tensor]:
        x, references = given[0], []
        for factor in range(2, 22):
            x = x * float(factor) + WEIGHT.sum() * float(factor)
            references.append(weakref.ref(x))
        alive.append(sum(reference() is not None for reference in references))
        return [x]

    calls = CallCache()
    with torch.no_grad():
        for seed in range(4):
            given = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
            found = calls.run_program("chain", chain, [given])
            assert found is not None
            assert torch.equal(found[0], chain([given])[0])
    assert alive[0] == 1
    assert alive[2] == 1, "that which is recorded"


def test_a_recording_leaves_nothing_to_the_collector_of_cycles() -> None:
    """Garbage collection may run late, and during a measurement."""
    gc.collect()
    gc.disable()
    try:
        calls = CallCache()
        with torch.no_grad():
            for _ in range(4):
                calls.run_program("matrix", matrix, [torch.randn(3, 4), torch.randn(3, 3)])
        assert not [held for held in gc.get_objects() if type(held) is tape.Tape]
    finally:
        gc.enable()
