"""Chooses the implementation of the operators.

`reference` is plain PyTorch, `cpu` and `cuda` are the kernels in `neurocuda._C`, `triton` those in Triton, for GPUs
without `cuda`. All return the same bits. The fastest available backend runs unless `NEUROCUDA_BACKEND` in the
environment or `use_backend` in a program requests another.
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
"""Status of a `cpu` built with NEUROCUDA_BUILD=emulated: it runs the source of the CUDA kernels on the CPU, slowly."""

_ENVIRONMENT = os.environ.get("NEUROCUDA_BACKEND")
_requested: ContextVar[str | None] = ContextVar("neurocuda_backend", default=None)
_requested_last: str | None = None
"""By any thread. torch.compile cannot read a ContextVar; it guards on this name."""
_BUILT_FOR = re.compile(rb"neurocuda built for torch ([^\0]+)\0")


def _load() -> str:
    """Loads `neurocuda._C`, which registers its operators. Returns the status of `cpu`."""
    spec = importlib.util.find_spec("neurocuda._C")
    beside = Path(__file__).parents[1]  # not the library of an editable installation elsewhere
    if spec is None or spec.origin is None or not Path(spec.origin).parent.samefile(beside):
        return "not built (NEUROCUDA_BUILD=cpu pip install --no-build-isolation builds it, or says why it cannot)"
    # Read from the file first: to load a library that was built for another torch may crash.
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
        warnings.warn(f"neurocuda._C: {reason}; the reference operators run, slowly", NeuroCUDAWarning, stacklevel=2)
    return reason


_CPU = _load()
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton interprets its kernels on the CPU, slowly; read when the kernels are imported."""


def is_usable(status: str) -> bool:
    """Whether a backend with this status in `backends()` can run."""
    return status in (AVAILABLE, EMULATED)


_cuda_status: str | None = None
_unsupported: frozenset[int] = frozenset()
"""Indices of the GPUs that the CUDA kernels were not built for."""
_triton_status: str | None = None


def _cuda() -> str:
    """The status of `cuda`: `AVAILABLE` if the kernels in `neurocuda._C` run on some GPU here."""
    global _cuda_status, _unsupported
    if _cuda_status is None:
        _cuda_status, _unsupported = _find_cuda()
    return _cuda_status


def _triton() -> str:
    """The status of `triton`: `AVAILABLE` if it can launch kernels. Computed on first use, as Triton imports slowly."""
    global _triton_status
    if _triton_status is None:
        _triton_status = _find_triton()
    return _triton_status


# As torch.compiler.assume_constant_result does, whose import is slow: torch.compile does not trace these functions.
for _status in (_cuda, _triton):
    vars(_status)["_dynamo_marked_constant"] = True


def _find_cuda() -> tuple[str, frozenset[int]]:
    """The status of `cuda`, and the indices of unsupported GPUs."""
    if not is_usable(_CPU):
        return _CPU, frozenset()
    built: str = importlib.import_module("neurocuda._C").cuda_built
    if not built:
        return "not built (NEUROCUDA_BUILD=cuda builds it, or says why it cannot)", frozenset()
    if not torch.cuda.is_available():
        return f"no GPU can be used: {_cuda_error()}", frozenset()
    capabilities = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    unsupported = frozenset(index for index, found in enumerate(capabilities) if not runs_on(built, found))
    if len(unsupported) < len(capabilities):
        return AVAILABLE, unsupported
    versions = ", ".join(sorted({f"{major}.{minor}" for major, minor in capabilities}))
    return f"built for compute capability {built}; the GPUs here have {versions}", unsupported


def _cuda_error() -> str:
    """torch's message on why there is no GPU."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).split(". ")[0].split("\n")[0]
    return "torch.cuda is not available"


def runs_on(built: str, capability: tuple[int, int]) -> bool:
    """Whether kernels built for architectures such as "8.0;9.0+PTX" run on a GPU of a compute capability.

    A binary runs on its major version from its minor version up, one with a letter ("9.0a") on that version alone.
    The driver compiles PTX for every version from its own up.
    """
    architectures = re.findall(r"(\d+)\.(\d+)([a-z]?)(\+PTX)?", built.split(",")[0])
    for major, minor, letters, ptx in architectures:
        version = int(major), int(minor)
        if version == capability or (not letters and version[0] == capability[0] and version[1] <= capability[1]):
            return True
        if ptx and not letters and version <= capability:
            return True
    return not architectures  # names such as "Hopper", which torch accepts


def _find_triton() -> str:
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
    """Lists the backends.

    Returns:
        The status of "reference", "cpu", "cuda" and "triton": "available", or the reason why it is not. A "cpu" that
        runs emulated CUDA kernels, for tests, says so.

    Example:
        >>> import neurocuda
        >>> neurocuda.backends()["reference"]
        'available'
    """
    return {"reference": AVAILABLE, "cpu": _CPU, "cuda": _cuda(), "triton": _triton()}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """A context that runs the operators on the named backend, in the current thread.

    A backend that does not support a tensor's device leaves it to another: see `backends`.

    Args:
        name: "reference", "cpu", "cuda" or "triton".

    Raises:
        ArgumentError: The backend is unknown or not available.

    Example:
        >>> import torch
        >>> from neurocuda import nn, use_backend
        >>> with use_backend("reference"):
        ...     spikes = nn.IF()(torch.ones(3, 1))
        >>> spikes.flatten()
        tensor([0., 1., 0.])
    """
    global _requested_last
    token, before = _requested.set(_available(name, "use_backend")), _requested_last
    _requested_last = name
    try:
        yield
    finally:
        _requested.reset(token)
        _requested_last = before


def requested_backend() -> str | None:
    """The backend that `use_backend`, else `NEUROCUDA_BACKEND`, requests; None without a request."""
    name = _requested_last if torch.compiler.is_dynamo_compiling() else _requested.get()
    if name is None and _ENVIRONMENT is not None:
        name = _available(_ENVIRONMENT, "NEUROCUDA_BACKEND")
    return name


def backend_for(device: torch.device) -> str:
    """The name of the backend for tensors on a device.

    The requested one if it supports the device; else the fastest that does: "cpu" for CPU tensors, "cuda" for NVIDIA
    GPUs, "triton" for GPUs, "reference" for other devices, in place of an unavailable backend, and inside transforms of
    `torch.func`. Triton runs CPU tensors only when requested and interpreted (TRITON_INTERPRET=1).
    """
    requested = requested_backend()
    if requested == "reference" or _in_functorch_transform():
        return "reference"
    if device.type == "cuda":  # AMD GPUs too
        if requested != "triton" and _cuda() == AVAILABLE and device.index not in _unsupported:
            return "cuda"
        return "triton" if _triton() == AVAILABLE else "reference"
    if device.type != "cpu":
        return "reference"
    if requested == "triton" and _INTERPRETED:
        return "triton"
    return "cpu" if is_usable(_CPU) else "reference"


def _in_functorch_transform() -> bool:
    """Whether a transform of `torch.func` is active, which cannot differentiate or batch native operators."""
    return not torch.compiler.is_dynamo_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def unobserved(inputs: Collection[torch.Tensor]) -> bool:
    """Whether nothing observes the operators on these tensors: no autograd, autocast, tracing, transform, dispatch
    mode, tensor subclass, or capture of the current stream. Only then may one call be replayed for another.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    devices = {t.device.type for t in inputs}
    return (
        not any(map(torch.is_autocast_enabled, devices))
        and not ("cuda" in devices and torch.cuda.is_current_stream_capturing())
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and {type(t) for t in inputs} <= {torch.Tensor, torch.nn.Parameter}
    )


def operators(device: torch.device) -> ModuleType:
    """The module with the operators for tensors on a device; its functions have the signatures of `reference`."""
    backend = backend_for(device)
    if backend == "triton":
        from neurocuda.ops import triton  # optional, and slow to import

        return triton
    return native if backend in ("cpu", "cuda") else reference


def _available(name: str, source: str) -> str:
    """The name, if that backend can run; raises `ArgumentError` otherwise."""
    known = backends()
    if name not in known:
        raise ArgumentError(f"{source}: expected one of {', '.join(known)}, found {name!r}")
    if not is_usable(known[name]):
        raise ArgumentError(f"{source}: the backend {name!r} is not available: {known[name]}")
    return name
