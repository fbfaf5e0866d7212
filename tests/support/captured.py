"""CUDA graphs simulated on the CPU: what a capture may do, and what a replay reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from neurocuda import Executor
from neurocuda.runtime import nir_executor
from neurocuda.runtime.capture.call_cache import CallCache
from neurocuda.runtime.capture.cuda_graphs import Launch

ASKS_THE_DEVICE = ("aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::equal")
FORGOTTEN = float("nan")
"""The value of results of a capture before the first replay."""


class Recording(TorchDispatchMode):
    """Notes every operator with the very tensors that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ASKS_THE_DEVICE:
            raise RuntimeError(f"{func} is not permitted while a stream is captured")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, [t for t in tree_flatten(result)[0] if isinstance(t, Tensor)]))
        return result


class OnCPU:
    """Captures and replays as `Cuda` does. `captures` and `replays` count, `stream` is the current one."""

    def __init__(self) -> None:
        self.captures = self.replays = 0
        self.stream = 1

    def capture(self, function: Callable[[], list[Tensor]], memory: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        assert memory, "a graph has an input"
        function()
        mode = Recording()
        with mode:
            results = function()
        self.captures += 1
        for func, args, kwargs, outputs in mode.calls:
            given = {t.data_ptr() for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)}
            for t in outputs:
                if not func.is_view and t.data_ptr() not in given and t.is_floating_point():
                    t.fill_(FORGOTTEN)
        return mode.calls, results

    def replay(self, graph: Any, before: Callable[[], object], after: Callable[[], object]) -> None:
        before()
        self._run(graph)
        after()
        self._done()

    def launch(self, graph: Any) -> Launch:
        return Launch(lambda: self.stream, self.stream, lambda: self._run(graph), self._done)

    def _done(self) -> None:
        self.replays += 1

    def _run(self, graph: Any) -> None:
        for func, args, kwargs, outputs in graph:
            if func.is_view:
                continue
            again = [t for t in tree_flatten(func(*args, **kwargs))[0] if isinstance(t, Tensor)]
            for place, t in zip(outputs, again, strict=True):
                if place.data_ptr() != t.data_ptr():
                    place.copy_(t)


def captured(net: Executor, monkeypatch: Any, *, cached: bool = False) -> OnCPU:
    """Lets a network capture its calls on the simulated GPU that is returned.

    cached: operands are cached between calls, as with the native operators; otherwise a graph computes them.
    """
    device = OnCPU()
    net._calls = CallCache(constant=net._store.frozen, device=device)
    if not cached:
        monkeypatch.setattr(nir_executor, "unobserved", lambda given: False)
    return device


class NothingFromTheHost(TorchDispatchMode):
    """Refuses operators that take or make a tensor of the CPU: a capture cannot copy it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = tree_flatten((args, kwargs, result))[0]
        assert all(t.device.type == "meta" for t in leaves if isinstance(t, Tensor)), func
        return result


def on_meta(net: Executor, steps: int, batch: int) -> list[Tensor]:
    """Moves the network to tensors without values, as those of a GPU are to the host; its inputs and state."""
    for tensors in (net._parameters, net._buffers):
        for key, t in tensors.items():
            moved = torch.empty_like(t, device="meta")
            tensors[key] = torch.nn.Parameter(moved) if isinstance(t, torch.nn.Parameter) else moved
    shapes = [net.graph.nodes[name].output_shape for name in net.graph.inputs]
    inputs = [torch.empty(steps, batch, *shape, device="meta") for shape in shapes]
    return net._plan.with_state(inputs)
