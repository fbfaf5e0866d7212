"""The devices of tests: the CPU, and a GPU for tests marked `cuda`.

Tests marked `on_each_device` call operators with CPU tensors: these are copied to the GPU and the results back, and
compared with the reference operators on the CPU. Tests marked `networks_on_each_device`, or with the fixture `device`,
have the networks and signals of `stateful` and `comparison` on that device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.cuda))
on_each_device = pytest.mark.usefixtures("operators_on")
networks_on_each_device = pytest.mark.usefixtures("device")
_current = [torch.device("cpu")]


def here() -> torch.device:
    """The device of the networks and signals of tests."""
    return _current[-1]


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    _current.append(device)
    try:
        yield
    finally:
        _current.pop()


class OperatorsOn(TorchDispatchMode):
    """Runs the operators of NeuroCUDA on a device: copies tensors to it, with the same layout, and results back.

    It works below autograd, so gradients run on the device too.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "neurocuda":
            return func(*args, **kwargs)
        memory: dict[int, Tensor] = {}  # copies of storages: tensors that share one still do
        copies = {id(t): copied(t, self.device, memory) for t in _tensors((args, kwargs))}
        moved = tree_map_only(Tensor, lambda t: copies[id(t)], (args, kwargs))
        results = func(*moved[0], **moved[1])
        for argument, value in _named(func, args, kwargs):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for t in _tensors(value):
                    t.copy_(copies[id(t)])
        return tree_map_only(Tensor, lambda t: copied(t, torch.device("cpu"), {}), results)


def copied(t: Tensor, device: torch.device, memory: dict[int, Tensor]) -> Tensor:
    """A copy on a device with the same values, strides and alignment. `memory`: copies of storages by address."""
    if t.device.type == "meta":
        return t
    storage = t.untyped_storage()
    if storage.data_ptr() not in memory:
        elements = torch.empty(0, dtype=torch.uint8, device=t.device).set_(storage)
        memory[storage.data_ptr()] = elements.to(device, copy=True)
    copy = torch.empty(0, dtype=t.dtype, device=device)
    return copy.set_(memory[storage.data_ptr()].untyped_storage(), t.storage_offset(), t.shape, t.stride())


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, value)
    return found


def _named(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """The schema of each argument, with its value."""
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args):
            yield argument, args[position]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]
