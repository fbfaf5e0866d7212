"""Calls that are made again: what is kept of them, by the kind of their inputs, on a CPU and on a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurocuda.ops import native
from neurocuda.ops.backends import operators
from neurocuda.runtime.capture.cuda_graphs import settings
from neurocuda.runtime.capture.tape import Function, Watched, on_their_own, record
from neurocuda.runtime.guards import Looks, recordable, together

_MOST = 16
"""Kinds of inputs that are remembered; then all are forgotten."""


class Recorder:
    """Runs a function, and from the second time that it is called with inputs of one kind, its recording.

    constant: whether no tensor that the function closes over ever changes.
    """

    def __init__(self, constant: bool = False) -> None:
        self._constant = constant
        self._programs: dict[Hashable, Any] = {}  # None: seen once; False: cannot be recorded
        self._sources: list[Tensor] = []
        self._live: Watched = {}  # used as they are, whatever they hold: they may not move
        self._kept: Watched = {}  # computed from: they may not change
        self._replays: dict[Hashable, Any] = {}

    def __reduce__(self) -> tuple[type[Recorder], tuple[bool]]:
        return Recorder, (self._constant,)  # a copy records anew

    def refresh(self, sources: Collection[Tensor]) -> None:
        """Forget what was recorded unless it still holds. `sources` are the tensors that the function closes over."""
        same = len(sources) == len(self._sources) and all(a is b for a, b in zip(sources, self._sources, strict=True))
        watched = [*self._live.values(), *self._kept.values()]
        if same and watched:
            now, then = zip(*watched, strict=True)
            same = importlib.import_module("neurocuda._C").same_bits(now, then)
        if not same:
            self._programs.clear()
            self._replays.clear()
            self._live.clear()
            self._kept.clear()
            self._sources = list(sources)

    def run(
        self, key: Hashable, function: Function, inputs: list[Tensor], finite: int = 0, *, state: int = 0
    ) -> list[Tensor] | None:
        """`function(inputs)`, or None if one of the first `finite` inputs is not that.

        The results share no memory with anything; the last `state` of them lie in the order of axes that comes. `key`
        says what else they depend on.
        """
        key = _kind(key, inputs)
        program = self._programs.get(key)
        if program:
            made: list[Tensor] | None = program.run(inputs)
            return made
        if not all(native.all_finite(t) for t in inputs[:finite] if t.is_floating_point()):
            return None
        if len(self._programs) >= _MOST:
            self._programs.clear()
        if program is not None or key not in self._programs:
            self._programs.setdefault(key, None)
            return on_their_own(function(inputs), inputs, state)
        program, results, mode = record(function, inputs, finite, state, self._constant)
        self._programs[key] = program or False
        if program:
            self._live.update(mode.live)
            self._kept.update(mode.kept)
        # Blocks that fit the calls so far, which did not write in place, would not fit those from now on.
        results = [t.clone() for t in results]
        del mode
        importlib.import_module("neurocuda._C").release_memory()
        return results

    def prepare(self, call: Hashable, key: Hashable, inputs: list[Tensor], names: Sequence[str], looks: Looks) -> None:
        """Make what was recorded for these inputs ready for `replay` of that call; all inputs but the first have names.

        `looks`: at what else it rests on.
        """
        self._replays.pop(call, None)
        program = self._programs.get(_kind(key, inputs))
        if program and recordable(inputs):
            watched = [*self._live.values(), *self._kept.values()]
            own = Looks([now for now, _ in watched], [then for _, then in watched])
            make = importlib.import_module("neurocuda._C").Replay
            self._replays[call] = make(program, inputs, list(names), self._sources, together([own, looks]))

    def replay(self, call: Hashable, x: Tensor, named: dict[str, Tensor] | None, *sources: Mapping[str, Any]) -> Any:
        """The first result and the others by name, if there are any, in one call into C++; None where `run` has to look
        again.

        Without `named`, zeros.

        That is where the inputs are of another kind than those prepared for, or not finite, where something watches,
        or where `sources`, the dictionaries of the tensors that the function closes over, have changed in any bit.
        """
        ready = self._replays.get(call)
        return None if ready is None else ready(x, named, *sources)

    def profile(self, key: Hashable, inputs: list[Tensor]) -> list[tuple[str, float]]:
        """The operators recorded for these inputs, by name, and the nanoseconds of each in a run; [] if there are none.

        Views are left out.
        """
        program = self._programs.get(_kind(key, inputs))
        times: list[tuple[str, float]] = program.profile(inputs) if program else []
        return [(name, time) for name, time in times if name != "aten::view"]


@dataclass(frozen=True)
class Repeated:
    """The kind of a call, `kinds` of what it was given and closes over, and how it is made again, if it can be.

    settings: what libraries were asked for, None where no layer is a library's.
    """

    kind: bytes
    settings: Hashable
    again: Any  # neurocuda._C.Repeated, or None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a copy has none


def kinds(given: Sequence[Tensor], sources: Sequence[Tensor]) -> bytes:
    """What tensors are that a call is given, and what those are, and where, that it closes over."""
    found: bytes = importlib.import_module("neurocuda._C").kinds(list(given), list(sources))
    return found


def repeated(
    kind: bytes, library: bool, names: Sequence[str], looks: Sequence[Looks], run: Function | Any | None
) -> Repeated:
    """library: whether layers are a library's. run: a function, or a program of one, from the signal and the state by
    these names; None: not this time.
    """
    again = None
    if run is not None:
        again = importlib.import_module("neurocuda._C").Repeated(kind, list(names), together(looks), run)
    return Repeated(kind, settings() if library else None, again)


def repeat(call: Repeated, x: Tensor, state: Mapping[str, Tensor] | None, *sources: Mapping[str, Any]) -> Any:
    """(output, state by name), None where this is another call, or something that it supposes is not so.

    `sources` are the dictionaries of the tensors that the call closes over.
    """
    if call.again is None or torch.compiler.is_compiling() or operators(x.device) is not native:
        return None
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    if call.settings is not None and call.settings != settings():
        return None
    return call.again(x, state, *sources)


def _kind(key: Hashable, inputs: list[Tensor]) -> Hashable:
    return (key, *((t.shape, t.stride(), t.dtype) for t in inputs))
