"""Which implementation of the operators runs.

`reference` is plain PyTorch, `cpu` and `cuda` are the kernels in `neurocuda._C`, `triton` those in Triton, for GPUs
without `cuda`. All give the same bits. The best that is available is taken; `NEUROCUDA_BACKEND` in the environment
and `use_backend` in a program ask for another.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from neurocuda.errors import ArgumentError, NeuroCUDAWarning
from neurocuda.ops import native, reference

AVAILABLE = "available"
EMULATED = "emulated CUDA kernels, for tests"
"""Serves too: built with NEUROCUDA_BUILD=emulated, `cpu` runs the source of the CUDA kernels on the CPU, slowly."""

_ENVIRONMENT = os.environ.get("NEUROCUDA_BACKEND")
_asked: ContextVar[str | None] = ContextVar("neurocuda_backend", default=None)
_asked_last: str | None = (
    None  # by any thread: torch.compile cannot read a ContextVar, and compiles anew if this changes
)
_BUILT_FOR = re.compile(rb"neurocuda built for torch ([^\0]+)\0")


def _load() -> str:
    """Load `neurocuda._C`, which registers its operators: what `cpu` is, or the reason why it cannot serve."""
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
            module = importlib.import_module("neurocuda._C")
        except ImportError as error:
            reason = f"cannot be loaded: {error}"
        else:
            return EMULATED if module.kernels == "emulated" else AVAILABLE
    if _ENVIRONMENT != "reference":
        warnings.warn(f"neurocuda._C: {reason}; the reference operators serve, slowly", NeuroCUDAWarning, stacklevel=2)
    return reason


_CPU = _load()
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton reads it when the kernels are imported: then they run on the CPU too, slowly, and nothing is compiled."""


def serves(state: str) -> bool:
    """Whether a backend of which `backends` says this can be used."""
    return state in (AVAILABLE, EMULATED)


_cuda_found: str | None = None
_unfit: frozenset[int] = frozenset()
"""GPUs by index that the CUDA kernels were not built for."""
_triton_found: str | None = None


def _cuda() -> str:
    """Whether there is a GPU that the kernels in `neurocuda._C` run on; `AVAILABLE`, or the reason why not."""
    global _cuda_found, _unfit
    if _cuda_found is None:
        _cuda_found, _unfit = _look_for_cuda()
    return _cuda_found


def _triton() -> str:
    """Whether Triton can launch kernels; `AVAILABLE`, or the reason why not. That it is installed tells nothing of it.

    Looked for when asked for, and not before: Triton takes long to import.
    """
    global _triton_found
    if _triton_found is None:
        _triton_found = _look_for_triton()
    return _triton_found


# As torch.compiler.assume_constant_result does, which imports much: torch.compile takes the answer, not the way to it.
for _found in (_cuda, _triton):
    vars(_found)["_dynamo_marked_constant"] = True


def _look_for_cuda() -> tuple[str, frozenset[int]]:
    if not serves(_CPU):
        return _CPU, frozenset()
    built: str = importlib.import_module("neurocuda._C").cuda_built
    if not built:
        return "not built (NEUROCUDA_BUILD=cuda builds it, or says why it cannot)", frozenset()
    if not torch.cuda.is_available():
        return f"no GPU can be used: {_without_cuda()}", frozenset()
    capabilities = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    unfit = frozenset(index for index, found in enumerate(capabilities) if not fits(built, found))
    if len(unfit) < len(capabilities):
        return AVAILABLE, unfit
    versions = ", ".join(sorted({f"{major}.{minor}" for major, minor in capabilities}))
    return f"built for compute capability {built}; the GPUs here have {versions}", unfit


def _without_cuda() -> str:
    """Torch's own words on why there is no GPU."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).split(". ")[0].split("\n")[0]
    return "torch.cuda is not available"


def fits(built: str, capability: tuple[int, int]) -> bool:
    """Whether kernels built for architectures such as "8.0;9.0+PTX" run on a GPU of that compute capability.

    A binary runs on the same major version from its minor version on, one with letters ("9.0a") on its own version
    alone, and PTX is compiled by the driver for every version from its own on.
    """
    architectures = re.findall(r"(\d+)\.(\d+)([a-z]?)(\+PTX)?", built.split(",")[0])
    for major, minor, letters, ptx in architectures:
        own = int(major), int(minor)
        if own == capability or (not letters and own[0] == capability[0] and own[1] <= capability[1]):
            return True
        if ptx and not letters and own <= capability:
            return True
    return not architectures  # names, such as "Hopper": torch has them


def _look_for_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "not installed (pip install triton)"
    if _INTERPRETED:
        return AVAILABLE
    try:
        targets: dict[str, Any] = importlib.import_module("triton.backends").backends
    except ImportError as error:
        return f"cannot be loaded: {error}"
    if not any(target.driver.is_active() for target in targets.values()):
        return "no driver of a GPU is active (with TRITON_INTERPRET=1 the CPU interprets its kernels, slowly)"
    return AVAILABLE


def backends() -> dict[str, str]:
    """The backends by name: "available", or the reason why not.

    Where `neurocuda._C` was built to run the CUDA kernels on the CPU, for tests, "cpu" says so.
    """
    return {"reference": AVAILABLE, "cpu": _CPU, "cuda": _cuda(), "triton": _triton()}


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


def requested_backend() -> str | None:
    """The backend that `use_backend` asks for, else `NEUROCUDA_BACKEND`, else None."""
    asked = _asked_last if torch.compiler.is_dynamo_compiling() else _asked.get()
    if asked is None and _ENVIRONMENT is not None:
        asked = _checked(_ENVIRONMENT, "NEUROCUDA_BACKEND")
    return asked


def backend_for(device: torch.device) -> str:
    """The backend that runs on tensors of that device.

    What is asked for, where that serves the device; else the best that does: "cpu" for CPU tensors, "cuda" for those of
    NVIDIA's GPUs, "triton" for those of all GPUs, "reference" for all others, where these are not available, and within
    the transforms of `torch.func`. Triton serves CPU tensors only where it is asked for, and interpreted
    (TRITON_INTERPRET=1).
    """
    asked = requested_backend()
    if asked == "reference" or _transformed():
        return "reference"
    if device.type == "cuda":  # that of AMD's GPUs too
        if asked != "triton" and _cuda() == AVAILABLE and device.index not in _unfit:
            return "cuda"
        return "triton" if _triton() == AVAILABLE else "reference"
    if device.type != "cpu":
        return "reference"
    if asked == "triton" and _INTERPRETED:
        return "triton"
    return "cpu" if serves(_CPU) else "reference"


def _transformed() -> bool:
    """Whether a transform of `torch.func` is at work, which does not see into compiled operators."""
    return not torch.compiler.is_dynamo_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def unobserved(inputs: Collection[torch.Tensor]) -> bool:
    """Whether nothing observes the operators on these tensors: no autograd, autocast, tracing, transform, dispatch mode
    or tensor subclass. Only then may one call be replayed for another.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not any(map(torch.is_autocast_enabled, {t.device.type for t in inputs}))
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and {type(t) for t in inputs} <= {torch.Tensor, torch.nn.Parameter}
    )


def operators(device: torch.device) -> ModuleType:
    """The module whose functions run on tensors of that device; they have the signatures of `reference`."""
    backend = backend_for(device)
    if backend == "triton":
        from neurocuda.ops import triton  # not before: it is not everywhere, and takes long to import

        return triton
    return native if backend in ("cpu", "cuda") else reference


def _checked(name: str, where: str) -> str:
    known = backends()
    if name not in known:
        raise ArgumentError(f"{where}: expected one of {', '.join(known)}, found {name!r}")
    if not serves(known[name]):
        raise ArgumentError(f"{where}: the backend {name!r} is not available: {known[name]}")
    return name
