"""What a function does with tensors of a GPU, captured once in a CUDA graph and replayed without Python in between.

For functions whose operations depend on the kind of their inputs (shape, strides, type, device) and never on their
values. Everything is inside the graph, what is computed from parameters too: it reads them where they lie, so that
edits in place are seen, and it is dropped when one of them lies elsewhere.

Without a GPU the tests replace `Cuda`, which alone talks to the device, by one that does the same on the CPU. Should a
capture fail there, calls run operator by operator; torch's allocator keeps a trace of it from then on.
"""

from __future__ import annotations

import importlib
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from neurocuda.errors import NeuroCUDAWarning
from neurocuda.ops.vendor import tf32
from neurocuda.runtime.capture.tape import Function, on_their_own
from neurocuda.runtime.guards import recordable

_MOST = 8
"""Graphs that are kept, each with memory for its inputs, its results and all in between; then the one that was not
used for longest goes."""

_SEEN = 256
"""Kinds of inputs that are remembered from a first call; then all are forgotten."""


_NO_POOLS = "PYTORCH_NO_CUDA_MEMORY_CACHING"
"""The environment variable under which torch has no memory of its own for a graph, as it is set for compute-sanitizer.
"""


class Capture(Protocol):
    """What a device does with graphs."""

    def capture(self, function: Callable[[], list[Tensor]], memory: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        """A graph of what `function` does, and its results, which hold nothing before the first replay.

        The function was called before, so that all that is done once is done. `memory` are the tensors that it reads
        and that are copied to before each replay; it has at least one. Raises RuntimeError where there can be none.
        """
        ...

    def replay(self, graph: Any, before: Callable[[], object], after: Callable[[], object]) -> None:
        """Queue what `before` does, the graph, and what `after` does on the current stream, and return.

        Nothing of it starts before the last replay of the same graph has ended, on whatever stream.
        """
        ...

    def launch(self, graph: Any) -> Launch:
        """What `replay` does between `before` and `after`, and then, on the stream of the last replay."""
        ...


@dataclass(frozen=True)
class Launch:
    """Functions written in C that replay a graph, without code of Python: their cold code is what takes the time.

    current: the current stream of the device, a number; `stream`: that of the last replay. done: marks the end there.
    """

    current: Callable[[], int]
    stream: int
    replay: Callable[[], object]
    done: Callable[[], object]


@dataclass
class _CudaGraph:
    graph: Any
    memory: Sequence[Tensor]
    stream: int  # of the last replay
    done: Any  # recorded after it


class Cuda:
    """CUDA graphs of the device that the memory lies on."""

    def capture(self, function: Callable[[], list[Tensor]], memory: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        device = memory[0].device
        with torch.cuda.device(device):
            before = torch.cuda.current_stream()
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # of this device, which torch's own stream for captures may not be
            aside.wait_stream(before)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.stream(aside):
                    function()  # once where it will be captured: libraries have memory for each stream
                with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                    results = function()
            finally:
                torch.cuda.set_stream(before)  # a capture that fails leaves the other
            before.wait_stream(aside)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            return _CudaGraph(graph, memory, before.cuda_stream, done), results

    def replay(self, graph: _CudaGraph, before: Callable[[], object], after: Callable[[], object]) -> None:
        with torch.cuda.device(graph.memory[0].device):
            stream = torch.cuda.current_stream()
            if stream.cuda_stream != graph.stream:
                graph.done.wait(stream)
                graph.stream = stream.cuda_stream
                for t in graph.memory:
                    t.record_stream(stream)
            before()
            graph.graph.replay()
            after()
            graph.done.record(stream)

    def launch(self, graph: _CudaGraph) -> Launch:
        device = graph.memory[0].device
        return Launch(
            partial(torch._C._cuda_getCurrentRawStream, device.index),
            graph.stream,
            partial(torch._C._CUDAGraph.replay, graph.graph),
            partial(torch._C._CudaEventBase.record, graph.done, torch.cuda.current_stream(device)),
        )


@dataclass(frozen=True)
class _Captured:
    graph: Any
    inputs: list[Tensor]  # where the graph reads them
    results: list[Tensor]  # where it leaves them


class CudaGraphs:
    """Runs a function, and from the second time that it is called with inputs of one kind, its graph."""

    def __init__(self, device: Capture | None = None) -> None:
        self._device: Capture = Cuda() if device is None else device
        self._graphs: OrderedDict[Hashable, _Captured | None] = OrderedDict()  # None: there can be none
        self._seen: set[Hashable] = set()
        self._sources: list[Hashable] = []
        self._one_at_a_time = threading.Lock()

    def __reduce__(self) -> tuple[type[CudaGraphs], tuple[()]]:
        return CudaGraphs, ()  # a copy captures anew

    def run(
        self,
        key: Hashable,
        function: Function,
        inputs: list[Tensor],
        sources: Collection[Tensor],
        out: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """`function(inputs)`, whose results share no memory with anything; the first of them in `out`, where given.

        `key` says what else the function depends on, `sources` are the tensors that it closes over.
        """
        with self._one_at_a_time:
            self._forget_unless_there(sources)
            key = (key, settings(), *(_kind(t) for t in inputs))
            if key in self._graphs:
                self._graphs.move_to_end(key)
            elif key in self._seen:
                self._graphs[key] = self._capture(function, inputs)
                while len(self._graphs) > _MOST:
                    self._graphs.popitem(last=False)
            captured = self._graphs.get(key)
            if captured is not None:
                return self._replay(captured, inputs, out)
            if len(self._seen) >= _SEEN:
                self._seen.clear()
            self._seen.add(key)
        results = on_their_own(function(inputs), [*inputs, *sources])
        return into(results, out)

    def captured(self, key: Hashable, inputs: list[Tensor]) -> Any:
        """What `run` did with such inputs just now, a `neurocuda._C.Captured`; None where that was no replay.

        It looks at the current stream, and not at what the inputs are: for as long as they, what the function closes
        over and `settings` stay the same.
        """
        captured = self._graphs.get((key, settings(), *(_kind(t) for t in inputs)))
        if captured is None:
            return None
        launch = self._device.launch(captured.graph)
        functions = (launch.current, launch.stream, launch.replay, launch.done, self._one_at_a_time)
        return importlib.import_module("neurocuda._C").Captured(captured.inputs, captured.results, *functions)

    def _forget_unless_there(self, sources: Collection[Tensor]) -> None:
        """Drop all graphs unless the sources lie where they lay."""
        places = [(t.data_ptr(), _kind(t)) for t in sources]
        if places != self._sources:
            self._graphs.clear()
            self._seen.clear()
            self._sources = list(places)

    def _capture(self, function: Function, inputs: list[Tensor]) -> _Captured | None:
        with torch.inference_mode(False), torch.no_grad():
            fixed = [_same_kind(t) for t in inputs]
            memory = [_written(t) for t in fixed]
            _copy(memory, [_written(t) for t in inputs])
            try:
                graph, results = self._device.capture(lambda: function(fixed), memory)
            except RuntimeError as error:
                warnings.warn(f"no CUDA graph, calls run operator by operator: {error}", NeuroCUDAWarning, stacklevel=2)
                return None
        return _Captured(graph, memory, results)

    def _replay(self, captured: _Captured, inputs: list[Tensor], out: Sequence[Tensor]) -> list[Tensor]:
        new = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in captured.results[len(out) :]]
        results = [*out, *new]
        self._device.replay(
            captured.graph,
            lambda: _copy(captured.inputs, [_written(t) for t in inputs]),
            lambda: _copy(results, captured.results),
        )
        return results


def capturable(inputs: Collection[Tensor]) -> bool:
    """Whether a graph may stand for what happens to these tensors: on a GPU, and nothing else watches."""
    first = next(iter(inputs))
    return (
        first.is_cuda
        and recordable(inputs)
        and not torch.cuda.is_current_stream_capturing()
        and _NO_POOLS not in os.environ
    )


def into(results: list[Tensor], out: Sequence[Tensor]) -> list[Tensor]:
    """The results, the first of them copied to `out`."""
    for to, result in zip(out, results, strict=False):
        to.copy_(result)
    return [*out, *results[len(out) :]]


def _kind(t: Tensor) -> Hashable:
    return t.shape, t.stride(), t.dtype, t.device


def settings() -> Hashable:
    """What libraries are asked for, which a graph keeps as it was."""
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        cudnn.enabled,
        cudnn.benchmark,
        cudnn.deterministic,
        tf32(),
    )


def _written(t: Tensor) -> Tensor:
    """The part of a tensor that takes memory: axes of stride 0 once."""
    for axis, (size, stride) in enumerate(zip(t.shape, t.stride(), strict=True)):
        if stride == 0 and size > 1:
            t = t.narrow(axis, 0, 1)
    return t


def _same_kind(t: Tensor) -> Tensor:
    """Memory for a tensor of that kind; what lies apart in a larger one lies side by side in it."""
    return torch.empty_like(_written(t).detach()).expand(t.shape)


def _copy(to: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    if to:
        with torch.no_grad():
            torch._foreach_copy_(list(to), list(values))
