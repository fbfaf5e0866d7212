"""Cached calls of a network: the first call with a key runs operator by operator, the second is captured, later ones
replay.

A captured call is a program on a CPU (`tape`) and a CUDA graph on a GPU (`cuda_graphs`). `neurocuda._C.GuardedCall`
replays it in one call from Python while its guards hold.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from neurocuda.errors import NeuroCUDAWarning
from neurocuda.ops.backends import requested_backend, unobserved
from neurocuda.runtime.capture.cuda_graphs import CapturedGraph, Cuda, capturable, settings
from neurocuda.runtime.capture.tape import Function, Watched, record
from neurocuda.runtime.guards import Guards, merged

PROGRAMS, GRAPHS = 16, 8
"""How many captured calls are cached; the least recently used goes first. A graph keeps memory for all its tensors."""

_SEEN = 256
"""How many keys of first calls are remembered, until all are forgotten."""


class CallCache:
    """Captured calls by key. constant: the functions read no tensor that changes, besides their inputs."""

    def __init__(self, constant: bool = False, device: Cuda | None = None) -> None:
        self._constant = constant
        self.simulated = device is not None  # by tests, on a CPU
        self._device = Cuda() if device is None else device
        self._captured: OrderedDict[Hashable, Any] = OrderedDict()  # None: it cannot be captured
        self._seen: set[Hashable] = set()
        self._sources: list[Tensor] = []
        self._places: list[Hashable] = []
        self._live: Watched = {}  # read where they are stored
        self._folded: Watched = {}  # read once: programs have constants computed from them
        self._guarded: dict[bool, tuple[Any, str, Hashable]] = {}  # the call, its device, settings() or None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[CallCache], tuple[bool]]:
        return CallCache, (self._constant,)  # a copy captures anew

    def replay(self, ends: bool, x: Tensor, state: Mapping[str, Tensor] | None, network: nn.Module) -> Any:
        """Replays the last guarded call for `ends`: (output, state by name), None if a guard fails.

        state: None for rest.
        """
        found = self._guarded.get(ends)
        if found is None or torch.compiler.is_compiling():
            return None
        call, device, libraries = found
        if requested_backend() not in (None, device) or (libraries is not None and libraries != settings()):
            return None
        if device == "cuda" and torch.cuda.is_current_stream_capturing():
            return None
        return call(x, state, network._parameters, network._buffers)

    def forget_guarded(self) -> None:
        """Forgets the calls for `replay`, which keep the parameters alive that are about to be replaced."""
        self._guarded.clear()

    def refresh(self, sources: Sequence[Tensor]) -> None:
        """Forgets all captured calls if a guard of the programs fails. sources: the tensors that functions read."""
        same = len(sources) == len(self._sources) and all(map(is_, sources, self._sources))
        same = same and all(now.data_ptr() == before.data_ptr() for now, before in self._live.values())
        watched = [*self._live.values(), *self._folded.values()]
        if same and watched:
            same = importlib.import_module("neurocuda._C").same_bits(*zip(*watched, strict=True))
        if not same:
            self._forget()
            self._sources = list(sources)

    def _forget(self) -> None:
        for known in (self._captured, self._seen, self._guarded, self._live, self._folded):
            known.clear()

    def run_program(
        self,
        key: Hashable,
        function: Function,
        inputs: list[Tensor],
        finite: int = 0,
        state: int = 0,
        constants: Collection[Tensor] = (),
        guard: Callable[[Any], None] | None = None,
    ) -> list[Tensor] | None:
        """`function(inputs)`, captured as a program; None if one of the first `finite` inputs is not finite.

        The results share no memory with other tensors; the last `state` of them keep their order of axes.

        Args:
            key: All that the results depend on besides the inputs.
            constants: Tensors that the function reads, whose values only change in place.
            guard: Called with the program after it was captured, and after each run.
        """
        key = call_key(key, inputs)
        program = self._captured.get(key)
        if program is not None:
            results: list[Tensor] | None = program.run(inputs)
            if guard is not None and results is not None:
                guard(program)
            return results
        for t in inputs[:finite]:
            if t.is_floating_point() and not importlib.import_module("neurocuda._C").all_finite(t):
                return None
        if key in self._captured or self._is_first(key):
            return own_memory(function(inputs), inputs, state)
        program, made, tape = record(
            lambda given: own_memory(function(given), given, state),
            inputs,
            finite,
            None if self._constant else constants,
        )
        self._keep(key, program, PROGRAMS)
        if program is not None:
            self._live.update(tape.live)
            self._folded.update(tape.folded)
            if guard is not None:
                guard(program)
        # Free the pooled blocks: their sizes fit calls that do not write in place, a program does.
        made = [t.clone() for t in made]
        del tape
        importlib.import_module("neurocuda._C").release_memory()
        return made

    def run_graph(
        self,
        key: Hashable,
        function: Function,
        inputs: list[Tensor],
        sources: Collection[Tensor],
        out: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """`function(inputs)`, captured as a CUDA graph; the first results in `out`. key, sources: as above."""
        with self._lock:
            places = [(t.data_ptr(), *metadata(t)) for t in sources]
            if places != self._places:
                self._forget()
                self._places = [*places]
            key = call_key((key, settings()), inputs)
            graph = self._captured.get(key)
            if key not in self._captured and not self._is_first(key):
                graph = self._capture(function, inputs)
                self._keep(key, graph, GRAPHS)
            if graph is not None:
                self._captured.move_to_end(key)
                results: list[Tensor] = graph.run(inputs, out)
                return results
        return copied_to(out, own_memory(function(inputs), [*inputs, *sources]))

    def can_capture(self, inputs: Sequence[Tensor]) -> bool:
        """Whether a CUDA graph may run a call with these inputs."""
        return unobserved(inputs) if self.simulated else capturable(inputs)

    def _is_first(self, key: Hashable) -> bool:
        if key in self._seen:
            return False
        if len(self._seen) >= _SEEN:
            self._seen.clear()
        self._seen.add(key)
        return True

    def _keep(self, key: Hashable, captured: Any, most: int) -> None:
        self._captured[key] = captured
        while len(self._captured) > most:
            self._captured.popitem(last=False)

    def _capture(self, function: Function, inputs: list[Tensor]) -> CapturedGraph | None:
        try:
            return CapturedGraph(self._device, function, inputs)
        except RuntimeError as error:
            warnings.warn(f"no CUDA graph, calls run operator by operator: {error}", NeuroCUDAWarning, stacklevel=2)
            return None

    def guard(
        self,
        ends: bool,
        run: Any,
        inputs: Sequence[Tensor],
        names: Sequence[str],
        sources: Sequence[Tensor],
        guards: Sequence[Guards],
        libraries: bool = False,
    ) -> None:
        """Makes a call the one that `replay` runs.

        Args:
            run: What `captured` returned, or the function itself.
            inputs: The signal, then the state by `names` unless the call starts from rest.
            libraries: Whether vendor libraries compute layers, so that their settings must be the same.
        """
        self._guarded.pop(ends, None)
        module = importlib.import_module("neurocuda._C")
        program = isinstance(run, module.Program)
        # A graph reads all parameters where they are stored, a program those that it was recorded with.
        watched = [*self._live.values(), *self._folded.values()] if program else [(t, t.detach()) for t in sources]
        own = Guards([now for now, _ in watched], [before for _, before in watched])
        fields = merged([own, *guards])
        finite = not program or inputs[0].is_cuda or self.simulated
        guarded = module.GuardedCall(run, list(inputs), list(names), list(sources), fields, finite)
        self._guarded[ends] = guarded, inputs[0].device.type, settings() if libraries else None

    def captured(self, key: Hashable, inputs: list[Tensor]) -> Any:
        """The captured call for such inputs, to `guard`; None if there is none."""
        program = self._captured.get(call_key(key, inputs))
        if program is not None or not (inputs[0].is_cuda or self.simulated):
            return program
        graph = self._captured.get(call_key((key, settings()), inputs))
        return None if graph is None else graph.without_python(self._lock)

    def profile(self, key: Hashable, inputs: list[Tensor]) -> list[tuple[str, float]]:
        """Runs a program. Returns its operators, without views, and the nanoseconds of each; [] if there is none."""
        program = self._captured.get(call_key(key, inputs))
        times: list[tuple[str, float]] = program.profile(inputs) if program is not None else []
        return [(name, time) for name, time in times if name != "aten::view"]


def call_key(key: Hashable, inputs: Sequence[Tensor]) -> Hashable:
    """A call key: `key` and the metadata of the inputs."""
    return (key, *map(metadata, inputs))


def metadata(t: Tensor) -> tuple[Hashable, ...]:
    return t.shape, t.stride(), t.dtype, t.device


def own_memory(results: Sequence[Tensor], inputs: Sequence[Tensor], state: int = 0) -> list[Tensor]:
    """The results, cloned where they share memory with an input or another result, are part of a larger tensor, or are
    not contiguous. The last `state` of them may have channels_last strides.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return [t.clone() for t in results]  # there is no memory to compare
    taken = {t.untyped_storage().data_ptr() for t in inputs}
    owned = []
    for place, t in enumerate(results):
        memory = t.untyped_storage()
        dense = t.is_contiguous()
        if place >= len(results) - state and t.dim() == 4:
            dense = dense or t.is_contiguous(memory_format=torch.channels_last)
        shared = memory.data_ptr() in taken or memory.nbytes() != t.nbytes or not dense
        taken.add(memory.data_ptr())
        owned.append(t.clone(memory_format=torch.contiguous_format) if shared else t)
    return owned


def copied_to(out: Sequence[Tensor], results: list[Tensor]) -> list[Tensor]:
    """The results, the first of them copied to `out`."""
    for to, result in zip(out, results, strict=False):
        to.copy_(result)
    return [*out, *results[len(out) :]]
