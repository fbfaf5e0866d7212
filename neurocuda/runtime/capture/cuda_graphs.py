"""CUDA graphs: the kernels of a function, captured once and replayed without Python in between.

For functions whose operations depend on shapes, strides, dtypes and devices of their inputs, never on values. The graph
reads parameters where they are stored, so that edits in place are seen; it is invalid once a parameter is stored
elsewhere. Only `Cuda` calls the device; tests without a GPU replace it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurocuda.ops.backends import unobserved
from neurocuda.ops.vendor import tf32
from neurocuda.runtime.capture.tape import Function

_NO_POOLS = "PYTORCH_NO_CUDA_MEMORY_CACHING"
"""The environment variable that turns torch's memory pools off, as for compute-sanitizer. A graph needs a pool."""


class Launch(NamedTuple):
    """Functions written in C that replay a graph: Python code that was not run for a while is slow.

    current: returns the current stream of the device. stream: that of the last replay. done: marks the end of a replay
    on it.
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
    """Captures and replays CUDA graphs on the device of the memory."""

    def capture(self, function: Callable[[], list[Tensor]], memory: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        """A graph of `function`, and its results, which have no values before the first replay.

        Calls the function once before, for what is done once. memory: the tensors that it reads and that are copied to
        before each replay, at least one. Raises RuntimeError if nothing can be captured.
        """
        device = memory[0].device
        with torch.cuda.device(device):
            before = torch.cuda.current_stream()
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own stream for captures may be of another device
            aside.wait_stream(before)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.stream(aside):
                    function()  # on the stream of the capture: vendor libraries have memory for each stream
                with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                    results = function()
            finally:
                torch.cuda.set_stream(before)  # a failed capture leaves the other stream current
            before.wait_stream(aside)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            return _CudaGraph(graph, memory, before.cuda_stream, done), results

    def replay(self, graph: Any, before: Callable[[], object], after: Callable[[], object]) -> None:
        """Launches `before`, the graph and `after` on the current stream, once its last replay on any stream ended."""
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

    def launch(self, graph: Any) -> Launch:
        """What replays the graph on the stream of the last replay, without `before` and `after`."""
        device = graph.memory[0].device
        return Launch(
            partial(torch._C._cuda_getCurrentRawStream, device.index),
            graph.stream,
            partial(torch._C._CUDAGraph.replay, graph.graph),
            partial(torch._C._CudaEventBase.record, graph.done, torch.cuda.current_stream(device)),
        )


class CapturedGraph:
    """A CUDA graph of a function, with the memory of its inputs and its results."""

    def __init__(self, device: Cuda, function: Function, inputs: list[Tensor]) -> None:
        """Captures `function(inputs)`. Raises RuntimeError if it cannot be captured."""
        self._device = device
        with torch.inference_mode(False), torch.no_grad():
            fixed = [torch.empty_like(_stored(t).detach()).expand(t.shape) for t in inputs]
            self._inputs = [_stored(t) for t in fixed]
            _copy(self._inputs, [_stored(t) for t in inputs])
            self._graph, self._results = device.capture(lambda: function(fixed), self._inputs)

    def run(self, inputs: list[Tensor], out: Sequence[Tensor]) -> list[Tensor]:
        """Replays the graph. Returns the results in new memory, the first of them in `out`."""
        new = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in self._results[len(out) :]]
        results = [*out, *new]
        self._device.replay(
            self._graph,
            lambda: _copy(self._inputs, [_stored(t) for t in inputs]),
            lambda: _copy(results, self._results),
        )
        return results

    def without_python(self, lock: object) -> Any:
        """A `neurocuda._C.CudaGraph` that replays this graph on the stream of the last replay.

        It checks that this stream is current, and nothing of its inputs. lock: acquired for a replay.
        """
        launch = self._device.launch(self._graph)
        return importlib.import_module("neurocuda._C").CudaGraph(self._inputs, self._results, *launch, lock)


def capturable(inputs: Collection[Tensor]) -> bool:
    """Whether a graph may replace the operators on these tensors: on a GPU, and nothing observes them."""
    return next(iter(inputs)).is_cuda and unobserved(inputs) and _NO_POOLS not in os.environ


def settings() -> Hashable:
    """The settings of vendor libraries, which a graph keeps from its capture."""
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
