"""Where tests run: on the CPU, and, marked `cuda`, on a GPU as well.

Those marked `on_each_device` call operators with CPU tensors, which go to the GPU and come back, to be compared with
the reference on the CPU. Those marked `networks_on_each_device`, or with the fixture `device`, have the networks and
signals of `stateful` and `comparison` there.
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
    """Takes the operators of NeuroCUDA to a device: the tensors go there and come back, in memory laid out alike.

    Below autograd, so that gradients take the same way.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "neurocuda":
            return func(*args, **kwargs)
        memory: dict[int, Tensor] = {}  # tensors that share some share it there too
        place = {id(t): there(t, self.device, memory) for t in _tensors((args, kwargs))}
        moved = tree_map_only(Tensor, lambda t: place[id(t)], (args, kwargs))
        results = func(*moved[0], **moved[1])
        for wanted, given in _named(func, args, kwargs):
            if wanted.alias_info is not None and wanted.alias_info.is_write:
                for t in _tensors(given):
                    t.copy_(place[id(t)])
        return tree_map_only(Tensor, lambda t: there(t, torch.device("cpu"), {}), results)


def there(t: Tensor, device: torch.device, memory: dict[int, Tensor]) -> Tensor:
    """A tensor of the same values, strides and alignment on a device. `memory` has the copies of what it lies in."""
    if t.device.type == "meta":
        return t
    whole = t.untyped_storage()
    if whole.data_ptr() not in memory:
        memory[whole.data_ptr()] = torch.empty(0, dtype=torch.uint8, device=t.device).set_(whole).to(device, copy=True)
    copy = torch.empty(0, dtype=t.dtype, device=device)
    return copy.set_(memory[whole.data_ptr()].untyped_storage(), t.storage_offset(), t.shape, t.stride())


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, value)
    return found


def _named(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """The arguments of a call, with what the schema says of each."""
    for place, wanted in enumerate(func._schema.arguments):
        if place < len(args):
            yield wanted, args[place]
        elif wanted.name in kwargs:
            yield wanted, kwargs[wanted.name]
