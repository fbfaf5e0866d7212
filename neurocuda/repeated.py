"""A call on a GPU made again with other values: what its arguments are was looked at once."""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurocuda.ops import compiled
from neurocuda.ops.backends import operators
from neurocuda.ops.cuda_graphs import settings
from neurocuda.ops.looks import Looks, together
from neurocuda.ops.recording import Function


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
    if call.again is None or torch.compiler.is_compiling() or operators(x.device) is not compiled:
        return None
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    if call.settings is not None and call.settings != settings():
        return None
    return call.again(x, state, *sources)
