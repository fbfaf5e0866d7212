"""What a function does with tensors, recorded once and run again without Python between the operators.

For functions whose operations depend on the kind of their inputs (shape, type, strides) and never on their values.
What does not depend on the inputs is computed at recording and kept, for as long as the tensors it was computed from
have the same bits.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

Function = Callable[[list[Tensor]], list[Tensor]]
Watched = dict[int, tuple[Tensor, Tensor]]
"""By id: a tensor, and what it was."""


def recorded(function: Function, inputs: list[Tensor], state: int = 0, constant: bool = False) -> Any:
    """The program of a function, as `Recorder.run` makes it; None where it cannot be recorded, or computes from what it
    closes over, if that is not constant, what a program would keep.
    """
    program, _, mode = record(function, inputs, 0, state, constant)
    return None if mode.kept else program


def record(
    function: Function, inputs: list[Tensor], finite: int, state: int, constant: bool
) -> tuple[Any, list[Tensor], _Recording]:
    """The program of a function, its results, and what was seen of it."""
    inputs = [t.detach() for t in inputs]  # one tensor may stand for two inputs
    mode = _Recording(inputs, constant)
    with mode:
        results = function(inputs)
    program, results = mode.finish(results, finite, state)
    return program, results, mode


def on_their_own(results: Sequence[Tensor], inputs: Sequence[Tensor], state: int = 0) -> list[Tensor]:
    """Results of a function, copied where they share memory: with an input, another, or what they are a part of.

    And where they are not contiguous, but for the last `state`, which may have their axes in another order.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return [t.clone() for t in results]  # there is no memory to look at
    return [
        t.clone(memory_format=torch.contiguous_format) if shared else t
        for t, shared in zip(results, _shared(results, inputs, state), strict=True)
    ]


def _shared(results: Sequence[Tensor], inputs: Sequence[Tensor], state: int) -> list[bool]:
    seen = {t.untyped_storage().data_ptr() for t in inputs}
    shared = []
    for place, t in enumerate(results):
        memory = t.untyped_storage()
        lies_well = t.is_contiguous() or (place >= len(results) - state and _is_dense(t))
        shared.append(memory.data_ptr() in seen or memory.nbytes() != t.nbytes or not lies_well)
        seen.add(memory.data_ptr())
    return shared


def _is_dense(t: Tensor) -> bool:
    """Whether each place of its memory is one value, in whatever order of the axes."""
    return t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last)


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator below autograd, and what it takes from outside unless that is constant."""

    def __init__(self, inputs: list[Tensor], constant: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        module = importlib.import_module("neurocuda._C")
        self.program, self.slot_type = module.Program(len(inputs)), module.Slot
        self.inputs, self.constant = inputs, constant
        self.slots = {id(t): self.slot_type(n) for n, t in enumerate(inputs)}  # what depends on the inputs
        self.constants: dict[int, Any] = {}
        self.origins: dict[int, tuple[Tensor, ...]] = {}  # of what was computed from constants: what it is a view of
        self.live: Watched = {}
        self.kept: Watched = {}
        self.seen: dict[int, Any] = {}  # references that do not keep a tensor, but know when its id is free
        self.possible = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is recorded while torch.compile traces; otherwise torch imports all of it here

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        results = tree_flatten(result)[0]
        for t in (*given, *results):
            if isinstance(t, Tensor) and id(t) not in self.seen:
                self.seen[id(t)] = weakref.ref(t, partial(self._forget, id(t)))
        varies = any(id(t) in self.slots for t in given)
        if varies and (not all(isinstance(t, Tensor) for t in results) or self._writes_a_constant(func, args)):
            self.possible = False
        elif varies:
            self._add(func, args, kwargs, results)
        else:
            self._fold(func, given, results)
        return result

    def _forget(self, number: int, _: object) -> None:
        """Another tensor may be given the id of one that is gone."""
        for known in (self.slots, self.constants, self.origins, self.seen):
            known.pop(number, None)

    def finish(self, results: list[Tensor], finite: int, state: int) -> tuple[Any, list[Tensor]]:
        """The program, None if there can be none, and results that share no memory."""
        slots = []
        for place, shared in enumerate(_shared(results, self.inputs, state)):
            slot = self._argument(results[place])
            if shared or id(results[place]) in self.constants:
                copy = self.program.new_slot()
                self.program.add("aten::clone", "", (slot,), {"memory_format": torch.contiguous_format}, [copy.number])
                slot, results[place] = copy, results[place].clone(memory_format=torch.contiguous_format)
            slots.append(slot.number)
        self.program.finish(slots, finite)
        self.seen.clear()  # what it calls is of this object, which nothing should keep
        return self.program if self.possible else None, results

    def _add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], results: list[Tensor]) -> None:
        args, kwargs = tree_map_only(Tensor, self._argument, (args, kwargs))
        outputs = []
        for t in results:
            if id(t) not in self.slots:
                self.slots[id(t)] = self.program.new_slot()
            outputs.append(self.slots[id(t)].number)
        self.program.add(func._schema.name, func._schema.overload_name, args, kwargs, outputs)

    def _argument(self, t: Tensor) -> Any:
        """The slot of a tensor; a constant may change with what it is a view of, and so may that, but not move."""
        if id(t) in self.slots:
            return self.slots[id(t)]
        if id(t) not in self.constants:
            self.constants[id(t)] = self.program.constant(t)
            for origin in self.origins.get(id(t), (t,)):
                if self._can_change(origin):
                    self.live[id(origin)] = (origin, origin.detach())
        return self.constants[id(t)]

    def _fold(self, func: Any, given: list[Tensor], results: list[Any]) -> None:
        """What is computed from constants is one, and holds while they have the same bits; a view of one, always."""
        origins = [origin for t in given for origin in self.origins.get(id(t), (t,))]
        if not func.is_view:
            self.kept.update({id(t): (t, t.detach().clone()) for t in origins if self._can_change(t)})
            origins = []
        for t in results:
            if isinstance(t, Tensor):
                self.origins.setdefault(id(t), tuple(origins))

    def _can_change(self, t: Tensor) -> bool:
        """A library's own form of a weight cannot be written to, nor looked at."""
        return not self.constant and t.layout == torch.strided

    def _writes_a_constant(self, func: Any, args: tuple[Any, ...]) -> bool:
        return any(
            wanted.alias_info is not None and wanted.alias_info.is_write and id(given) not in self.slots
            for wanted, given in zip(func._schema.arguments, args, strict=False)
        )
