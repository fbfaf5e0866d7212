"""A tape records the operators that a function runs; its program runs them again without Python in between.

For functions whose operations depend on shapes, strides and dtypes of their inputs, never on values. What does not
depend on the inputs is computed once, while the tape is recorded; it is valid while the tensors that it was computed
from have the same bits.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

Function = Callable[[list[Tensor]], list[Tensor]]
Watched = dict[int, tuple[Tensor, Tensor]]
"""By id: a tensor, and a view or copy of it from the recording."""


def record(
    function: Function, inputs: list[Tensor], finite: int = 0, constants: Collection[Tensor] | None = ()
) -> tuple[Any, list[Tensor], Tape]:
    """Runs a function and records its operators.

    Args:
        finite: The program refuses the first `finite` inputs if they are not finite.
        constants: Tensors that never change; None: all that are not inputs.

    Returns:
        The program (None if the function cannot be recorded), the results, and the tape with the tensors to guard.
    """
    inputs = [t.detach() for t in inputs]  # one tensor may be two inputs
    tape = Tape(inputs, constants)
    with tape:
        results = function(inputs)
    program, results = tape.finish(results, finite)
    return program, results, tape


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operator below autograd.

    live: tensors that the program reads where they are stored. folded: tensors that the program has computed constants
    from.
    """

    def __init__(self, inputs: list[Tensor], constants: Collection[Tensor] | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        module = importlib.import_module("neurocuda._C")
        self.program, self.slot_type = module.Program(len(inputs)), module.Slot
        self.all_constant = constants is None
        self.fixed = {id(t) for t in constants or ()}
        self.slots = {id(t): self.slot_type(n) for n, t in enumerate(inputs)}  # of tensors that depend on the inputs
        self.constants: dict[int, Any] = {}
        self.origins: dict[int, tuple[Tensor, ...]] = {}  # of tensors computed from constants: the base of a view
        self.live: Watched = {}
        self.folded: Watched = {}
        self.seen: dict[int, Any] = {}  # weak references, whose callbacks free an id
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
        """A new tensor may have the id of one that is gone."""
        for known in (self.slots, self.constants, self.origins, self.seen):
            known.pop(number, None)

    def finish(self, results: list[Tensor], finite: int) -> tuple[Any, list[Tensor]]:
        """The program, None if it cannot be recorded, and the results. A result that depends on no input is cloned."""
        slots = []
        for place, t in enumerate(results):
            slot = self._argument(t)
            if id(t) in self.constants:
                copy = self.program.new_slot()
                self.program.add("aten::clone", "", (slot,), {"memory_format": torch.contiguous_format}, [copy.number])
                slot, results[place] = copy, t.clone(memory_format=torch.contiguous_format)
            slots.append(slot.number)
        self.program.finish(slots, finite)
        self.seen.clear()  # its callbacks keep this object alive
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
        """The slot of a tensor. A constant is read where it is stored: its values may change, its memory may not."""
        if id(t) in self.slots:
            return self.slots[id(t)]
        if id(t) not in self.constants:
            self.constants[id(t)] = self.program.constant(t)
            for origin in self.origins.get(id(t), (t,)):
                if self._can_change(origin):
                    self.live[id(origin)] = (origin, origin.detach())
        return self.constants[id(t)]

    def _fold(self, func: Any, given: list[Tensor], results: list[Any]) -> None:
        """Notes a constant: a copy is valid while its sources have the same bits, a view always."""
        origins = [origin for t in given for origin in self.origins.get(id(t), (t,))]
        if not func.is_view:
            self.folded.update({id(t): (t, t.detach().clone()) for t in origins if self._can_change(t)})
            origins = []
        for t in results:
            if isinstance(t, Tensor):
                self.origins.setdefault(id(t), tuple(origins))

    def _can_change(self, t: Tensor) -> bool:
        """Whether values may change. Prepacked weights of the vendor library cannot be written."""
        return not self.all_constant and id(t) not in self.fixed and t.layout == torch.strided

    def _writes_a_constant(self, func: Any, args: tuple[Any, ...]) -> bool:
        return any(
            argument.alias_info is not None and argument.alias_info.is_write and id(value) not in self.slots
            for argument, value in zip(func._schema.arguments, args, strict=False)
        )
