"""CUDA graphs: what a function does with tensors of a GPU, captured once and replayed without Python in between.

For functions whose operations depend on shapes, strides, dtypes and devices of their inputs and never on values. The
graph holds everything, also what is computed from parameters: it reads them where they are stored, so that edits in
place are seen. Whoever keeps a graph drops it when a parameter is stored elsewhere.

Without a GPU the tests replace `Cuda`, which alone talks to the device, by one that does the same on the CPU. If a
capture fails there, torch's allocator keeps a trace of it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from neurocuda.ops.backends import unobserved
from neurocuda.ops.vendor import tf32
from neurocuda.runtime.capture.tape import Function

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
    """CUDA graphs on the device of the memory."""

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


class CapturedGraph:
    """A CUDA graph of a function, with the memory that it reads its inputs from and leaves its results in."""

    def __init__(self, device: Capture, function: Function, inputs: list[Tensor]) -> None:
        """Captures `function(inputs)`. Raises RuntimeError where there can be no graph."""
        self._device = device
        with torch.inference_mode(False), torch.no_grad():
            fixed = [torch.empty_like(_stored(t).detach()).expand(t.shape) for t in inputs]
            self._inputs = [_stored(t) for t in fixed]
            _copy(self._inputs, [_stored(t) for t in inputs])
            self._graph, self._results = device.capture(lambda: function(fixed), self._inputs)

    def run(self, inputs: list[Tensor], out: Sequence[Tensor]) -> list[Tensor]:
        """The results in memory of their own, the first of them in `out`."""
        new = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in self._results[len(out) :]]
        results = [*out, *new]
        self._device.replay(
            self._graph,
            lambda: _copy(self._inputs, [_stored(t) for t in inputs]),
            lambda: _copy(results, self._results),
        )
        return results

    def without_python(self, lock: object) -> Any:
        """A `neurocuda._C.CudaGraph` that replays this graph on the current stream. It checks the stream, and nothing
        else about its inputs. lock: held during a replay.
        """
        launch = self._device.launch(self._graph)
        functions = (launch.current, launch.stream, launch.replay, launch.done, lock)
        return importlib.import_module("neurocuda._C").CudaGraph(self._inputs, self._results, *functions)


def capturable(inputs: Collection[Tensor]) -> bool:
    """Whether a graph may replace the operators on these tensors: on a GPU, and nothing observes them."""
    return next(iter(inputs)).is_cuda and unobserved(inputs) and _NO_POOLS not in os.environ


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


def _stored(t: Tensor) -> Tensor:
    """The part of a tensor that takes memory: axes of stride 0 once."""
    for axis, (size, stride) in enumerate(zip(t.shape, t.stride(), strict=True)):
        if stride == 0 and size > 1:
            t = t.narrow(axis, 0, 1)
    return t


def _copy(to: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    if to:
        with torch.no_grad():
            torch._foreach_copy_(list(to), list(values))
