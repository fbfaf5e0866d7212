"""A CUDA graph returns what its function returns, after any change of its inputs: simulated on the CPU."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from captured import OnCPU
from torch import Tensor

from neurocuda import NeuroCUDAWarning
from neurocuda.runtime.capture import call_cache, cuda_graphs
from neurocuda.runtime.capture.call_cache import CallCache
from neurocuda.runtime.capture.cuda_graphs import Cuda

WEIGHT = torch.arange(12.0).reshape(3, 4)


def matrix(given: list[Tensor]) -> list[Tensor]:
    """The weight is computed from a parameter, as coefficients are."""
    x, state = given
    y = x @ (WEIGHT * 2 + 1).t() + state
    return [y, y[-1:].expand_as(state)]


def draw(seed: int, rows: int = 2, layout: str = "contiguous") -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, state = torch.randn(rows, 4, generator=g), torch.randn(rows, 3, generator=g)
    if layout == "transposed":
        x = x.t().contiguous().t()
    if layout == "held":
        x = x[:1].expand(rows, 4)
    if layout == "apart":
        x = torch.cat([x, x], 1)[:, ::2]
    return [x, state]


def call(graphs: CallCache, given: list[Tensor], function: Callable[..., list[Tensor]] = matrix) -> list[Tensor]:
    with torch.no_grad():
        return graphs.run_graph((), function, given, [WEIGHT])


def assert_same(found: list[Tensor], given: list[Tensor], function: Callable[..., list[Tensor]] = matrix) -> None:
    for a, b in zip(found, function(given), strict=True):
        assert torch.equal(a, b), f"expected {b}, found {a}"


@pytest.fixture(autouse=True)
def _weight_as_before() -> object:
    kept = WEIGHT.clone()
    yield
    WEIGHT.data = kept


def test_the_second_call_is_captured_and_later_ones_are_replayed() -> None:
    device, calls = OnCPU(), []

    def counted(given: list[Tensor]) -> list[Tensor]:
        calls.append(len(given))
        return matrix(given)

    graphs = CallCache(device=device)
    for seed in range(5):
        given = draw(seed)
        assert_same(call(graphs, given, counted), given)
        assert (device.captures, device.replays) == (min(seed, 1), seed)
    assert len(calls) == 3  # the first call, one before the capture, the capture


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "held", "apart"])
def test_inputs_of_other_metadata_have_a_graph_of_their_own(layout: str) -> None:
    device = OnCPU()
    graphs = CallCache(device=device)
    for seed in range(4):
        for rows in (1, 2, 5):
            for inputs in (draw(seed, rows, layout), draw(seed, rows)):
                assert_same(call(graphs, inputs), inputs)
    kinds = {call_cache.metadata(draw(0, rows, which)[0]) for rows in (1, 2, 5) for which in (layout, "contiguous")}
    assert device.captures == len(kinds)


def test_types_and_settings_have_graphs_of_their_own() -> None:
    device = OnCPU()
    graphs = CallCache(device=device)

    def widened(given: list[Tensor]) -> list[Tensor]:
        return [given[0].float() * 2]

    for turn in range(3):
        for dtype in (torch.float32, torch.float16, torch.uint8):
            given = [torch.full((3,), turn, dtype=dtype)]
            assert_same(call(graphs, given, widened), given, widened)
    assert device.captures == 3
    torch.use_deterministic_algorithms(True)
    try:
        call(graphs, [torch.ones(3)], widened)
    finally:
        torch.use_deterministic_algorithms(False)
    assert device.replays == 6  # none for the last


def test_the_least_recently_used_graph_is_dropped() -> None:
    device = OnCPU()
    graphs = CallCache(device=device)
    many = call_cache.GRAPHS + 1
    for rows in (*range(1, many + 1), *range(1, many + 1)):
        for _ in range(2):
            given = draw(rows, rows)
            assert_same(call(graphs, given), given)
    assert device.captures == 2 * many
    call(graphs, draw(0, many))
    assert device.captures == 2 * many
    for seen in range(call_cache._SEEN + 1):
        call(graphs, draw(0, many + 1 + seen))
    assert len(graphs._seen) <= call_cache._SEEN


EDITS: dict[str, Callable[[], object]] = {
    "in place": lambda: WEIGHT.add_(1),
    "through data": lambda: WEIGHT.data.mul_(-1),
    "through memory": lambda: WEIGHT.numpy().__setitem__((1, 2), 50),
    "new memory": lambda: setattr(WEIGHT, "data", WEIGHT * 3),
    "other strides": lambda: setattr(WEIGHT, "data", (WEIGHT * 3).t().contiguous().t()),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_seen(edit: str) -> None:
    device = OnCPU()
    graphs = CallCache(device=device)
    for seed in range(3):
        call(graphs, draw(seed))
    EDITS[edit]()
    for seed in range(3):
        given = draw(seed)
        assert_same(call(graphs, given), given)
    moved = edit in ("new memory", "other strides")
    assert device.captures == 1 + moved


def test_results_have_memory_of_their_own() -> None:
    graphs = CallCache(device=OnCPU())

    def shared(given: list[Tensor]) -> list[Tensor]:
        y = given[0] * 2
        return [given[0], y, y[:1], y.t(), WEIGHT, torch.zeros(()).expand(2, 3)]

    for seed in range(4):
        given = draw(seed)
        before = [t.clone() for t in given]
        results = call(graphs, given, shared)
        assert_same(results, given, shared)
        for result in results:
            result.zero_()
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
        assert WEIGHT.sum() == 66


def test_out_takes_the_first_results() -> None:
    graphs = CallCache(device=OnCPU())
    out = torch.empty(3, 2).t()
    for seed in range(4):
        given = draw(seed)
        with torch.no_grad():
            results = graphs.run_graph((), matrix, given, [WEIGHT], [out])
        assert results[0] is out
        assert_same(results, given)


def test_inference_mode_may_begin_and_end() -> None:
    graphs = CallCache(device=OnCPU())
    for seed, inference in enumerate((True, True, False, True, False)):
        with torch.inference_mode(inference):
            given = draw(seed)
            assert_same(call(graphs, given), given)


def test_functions_that_cannot_be_captured_run_operator_by_operator() -> None:
    device = OnCPU()
    graphs = CallCache(device=device)

    def asks(given: list[Tensor]) -> list[Tensor]:
        return [given[0] * given[1].max().item()]

    for seed in range(4):
        given = draw(seed)
        if seed == 1:
            with pytest.warns(NeuroCUDAWarning, match="no CUDA graph.*not permitted"):
                found = call(graphs, given, asks)
        else:
            found = call(graphs, given, asks)
        assert_same(found, given, asks)
    assert device.captures == 0


def test_an_error_leaves_it_usable() -> None:
    graphs = CallCache(device=OnCPU())

    def fails(given: list[Tensor]) -> list[Tensor]:
        raise ValueError("asked for")

    for _ in range(3):
        with pytest.raises(ValueError, match="asked for"):
            call(graphs, draw(0), fails)
    for seed in range(3):
        given = draw(seed, 7)
        assert_same(call(graphs, given), given)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda graphs: pickle.loads(pickle.dumps(graphs))])
def test_a_copy_captures_anew(copied: Callable[[CallCache], CallCache]) -> None:
    graphs = CallCache(device=OnCPU())
    for seed in range(3):
        call(graphs, draw(seed))
    assert not copied(graphs)._captured


def test_threads_take_turns() -> None:
    graphs, wrong = CallCache(device=OnCPU()), []

    def work(seed: int) -> None:
        for turn in range(100):
            given = draw(seed * 1000 + turn)
            found = call(graphs, given)
            wrong.extend(place for place, t in enumerate(matrix(given)) if not torch.equal(found[place], t))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_only_tensors_of_a_gpu_are_captured() -> None:
    with torch.no_grad():
        assert not cuda_graphs.capturable(draw(0))


class Stub:
    """The part of torch.cuda that `Cuda` uses: streams are numbers, and calls are logged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.now = 0
        for name in ("device", "current_stream", "Stream", "CUDAGraph", "Event", "stream", "set_stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(Tensor, "record_stream", lambda t, s: self.say(f"memory on {s.cuda_stream}"))

    def say(self, line: str) -> None:
        self.said.append(line)

    def device(self, device: torch.device) -> nullcontext[None]:
        return nullcontext()

    def handle(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(
            cuda_stream=number, wait_stream=lambda other: self.say(f"{number} waits for {other.cuda_stream}")
        )

    def current_stream(self) -> SimpleNamespace:
        return self.handle(self.now)

    def Stream(self) -> SimpleNamespace:
        return self.handle(7)

    def set_stream(self, stream: SimpleNamespace) -> None:
        self.now = stream.cuda_stream

    @contextmanager
    def stream(self, stream: SimpleNamespace) -> Iterator[None]:
        before, self.now = self.now, stream.cuda_stream
        yield
        self.now = before  # the state of torch after an error

    @contextmanager
    def graph(self, graph: object, stream: SimpleNamespace, capture_error_mode: str) -> Iterator[None]:
        with self.stream(stream):
            self.say(f"capture on {self.now}")
            yield

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=lambda: self.say(f"replay on {self.now}"))

    def Event(self) -> SimpleNamespace:
        return SimpleNamespace(
            record=lambda stream: self.say(f"done on {stream.cuda_stream}"),
            wait=lambda stream: self.say(f"{stream.cuda_stream} waits until done"),
        )


def test_a_replay_follows_the_last_one_on_whatever_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_cuda = Stub(monkeypatch)
    memory = [torch.ones(2)]
    device = Cuda()

    def function() -> list[Tensor]:
        torch_cuda.say(f"function on {torch_cuda.now}")
        return [torch.ones(1)]

    graph, _ = device.capture(function, memory)
    assert torch_cuda.said == ["7 waits for 0", "function on 7", "capture on 7", "function on 7", "0 waits for 7"]
    for stream, waits in ((0, []), (0, []), (3, ["3 waits until done", "memory on 3"]), (3, [])):
        torch_cuda.said.clear()
        torch_cuda.now = stream
        device.replay(graph, lambda: torch_cuda.say("before"), lambda: torch_cuda.say("after"))
        assert torch_cuda.said == [*waits, "before", f"replay on {stream}", "after", f"done on {stream}"]


def test_a_capture_that_fails_leaves_the_stream_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_cuda = Stub(monkeypatch)
    calls = []

    def fails_when_captured() -> list[Tensor]:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("not permitted")
        return []

    with pytest.raises(RuntimeError, match="not permitted"):
        Cuda().capture(fails_when_captured, [torch.ones(2)])
    assert torch_cuda.now == 0
