"""Which implementation of the operators runs: the plain PyTorch of `reference`, or the compiled ones of `neurocuda._C`.

All give the same bits. The best that is available is taken; `NEUROCUDA_BACKEND` in the environment and
`use_backend` in a program ask for another.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType

import torch

from neurocuda.errors import ArgumentError, NeuroCUDAWarning
from neurocuda.ops import compiled, reference

AVAILABLE = "available"

_ENVIRONMENT = os.environ.get("NEUROCUDA_BACKEND")
_asked: ContextVar[str | None] = ContextVar("neurocuda_backend", default=None)
_asked_last: str | None = (
    None  # by any thread: torch.compile cannot read a ContextVar, and compiles anew if this changes
)
_BUILT_FOR = re.compile(rb"neurocuda built for torch ([^\0]+)\0")


def _load() -> str:
    """Load `neurocuda._C`, which registers its operators; `AVAILABLE`, or the reason why it cannot serve."""
    spec = importlib.util.find_spec("neurocuda._C")
    beside = Path(__file__).parents[1]  # an editable installation would lend its own to a copy that has none
    if spec is None or spec.origin is None or not Path(spec.origin).parent.samefile(beside):
        return "not built (NEUROCUDA_BUILD=cpu pip install --no-build-isolation builds it, or says why it cannot)"
    # Read before it is loaded: a library built for another torch may fail to load in any way.
    found = _BUILT_FOR.search(Path(spec.origin).read_bytes())
    built_for = found.group(1).decode() if found else "an unknown version"
    if built_for != torch.__version__:
        reason = f"built for torch {built_for}, while torch {torch.__version__} runs; install it again"
    else:
        try:
            importlib.import_module("neurocuda._C")
        except ImportError as error:
            reason = f"cannot be loaded: {error}"
        else:
            return AVAILABLE
    if _ENVIRONMENT != "reference":
        warnings.warn(f"neurocuda._C: {reason}; the reference operators serve, slowly", NeuroCUDAWarning, stacklevel=2)
    return reason


_CPU = _load()


def backends() -> dict[str, str]:
    """The backends by name: "available", or the reason why not."""
    return {"reference": AVAILABLE, "cpu": _CPU}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run what is called within on the named backend. Raises `ArgumentError` if it is unknown or not available."""
    global _asked_last
    token, before = _asked.set(_checked(name, "use_backend")), _asked_last
    _asked_last = name
    try:
        yield
    finally:
        _asked.reset(token)
        _asked_last = before


def wanted() -> str:
    """The backend for CPU tensors: what `use_backend` asks for, else `NEUROCUDA_BACKEND`, else the best there is."""
    asked = _asked_last if torch.compiler.is_dynamo_compiling() else _asked.get()
    if asked is None and _ENVIRONMENT is not None:
        asked = _checked(_ENVIRONMENT, "NEUROCUDA_BACKEND")
    return asked or ("cpu" if _CPU == AVAILABLE else "reference")


def backend_for(device: torch.device) -> str:
    """The backend that runs on tensors of that device.

    What `use_backend` asks for, else what `NEUROCUDA_BACKEND` does, else "cpu" for CPU tensors where it is
    available; the reference for tensors of other devices, and within the transforms of `torch.func`.
    """
    asked = wanted()
    if asked == "reference" or device.type != "cpu" or _transformed():
        return "reference"
    return asked


def _transformed() -> bool:
    """Whether a transform of `torch.func` is at work, which does not see into compiled operators."""
    return not torch.compiler.is_dynamo_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def operators(device: torch.device) -> ModuleType:
    """The module whose functions run on tensors of that device; they have the signatures of `reference`."""
    return compiled if backend_for(device) == "cpu" else reference


def _checked(name: str, where: str) -> str:
    known = backends()
    if name not in known:
        raise ArgumentError(f"{where}: expected one of {', '.join(known)}, found {name!r}")
    if known[name] != AVAILABLE:
        raise ArgumentError(f"{where}: the backend {name!r} is not available: {known[name]}")
    return name
