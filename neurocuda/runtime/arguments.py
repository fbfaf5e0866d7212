"""Checks the arguments of a network and of its calls; what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, check_integer, nearest
from neurocuda.graph import Graph
from neurocuda.ops import Surrogate
from neurocuda.ops.backends import operators
from neurocuda.runtime.state import State

Signals = Tensor | Mapping[str, Tensor]
"""A signal [T, B, *shape], or several by the name of their Input or Output node."""

_EXACT_IN_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.bool)


def check_settings(
    chunk: int | None, discretization: object, surrogate: object, learn: Collection[str], frozen: bool
) -> None:
    """Raises `ArgumentError` for arguments of an Executor of another type or range."""
    if frozen and learn:
        raise ArgumentError(f"learn: expected nothing to learn in a frozen network, found {sorted(learn)}")
    if chunk is not None:
        check_integer("chunk", chunk, 1)
    for argument, value, expected in (
        ("discretization", discretization, Discretization),
        ("surrogate", surrogate, Surrogate),
    ):
        if value is not None and not isinstance(value, expected):
            raise ArgumentError(f"{argument}: expected a {expected.__name__}, found {value!r} ({type(value).__name__})")


def requires_grad(x: Signals, state: State | None) -> bool:
    """Whether a signal or an entry of a state requires a gradient."""
    signals = [*x.values()] if isinstance(x, Mapping) else [x]
    tensors = [*signals, *(state.tensors.values() if isinstance(state, State) else [])]
    return any(isinstance(t, Tensor) and t.requires_grad for t in tensors)


def check_inputs(graph: Graph, names: Sequence[str], x: Signals, device: torch.device | None) -> list[Tensor]:
    """The signals of the inputs `names`, in this order. `start_finite_check` checks their values.

    `device` is that of the network, None if it has none.
    """
    if isinstance(x, Mapping):
        signals = dict(x)
    elif len(names) == 1:
        signals = {names[0]: x}
    else:
        raise ArgumentError(f"x: expected a dict with the inputs {list(names)}, found {type(x).__name__}")
    for name in signals:
        if name not in names:
            close = nearest(str(name), names)
            raise ArgumentError(f"x: expected the inputs {list(names)}, found {name!r} ({close})")
    missing = [name for name in names if name not in signals]
    if missing:
        raise ArgumentError(f"x: expected the inputs {list(names)}, found none for {missing}")
    for name in names:
        _check_signal(name, signals[name], graph.nodes[name].output_shape, device)
    first = signals[names[0]]
    for name in names:
        if signals[name].shape[:2] != first.shape[:2]:
            raise ArgumentError(
                f"input {name!r}: expected T, B = {tuple(first.shape[:2])}, those of input {names[0]!r}, "
                f"found {tuple(signals[name].shape[:2])}"
            )
    return [signals[name] for name in names]


def refuse_infinite(signals: Mapping[str, Tensor]) -> NoReturn:
    """Raises `ArgumentError` at the first value that is not finite; there must be one."""
    start_finite_check(signals)()
    raise AssertionError("all inputs are finite")


def start_finite_check(signals: Mapping[str, Tensor]) -> Callable[[], None]:
    """Starts a check of the inputs; the function that it returns raises `ArgumentError` at the first infinite or NaN
    value.

    A CPU checks at once. A GPU checks after the kernels that were launched before: a network starts the check, launches
    its kernels, and then waits for the result, so that the host runs at most one call ahead and the GPU never idles.
    Integers are not checked, and nothing is during torch.compile or a capture, which cannot stop at a value.
    """
    floats = {name: signal.detach() for name, signal in signals.items() if signal.is_floating_point()}
    if torch.compiler.is_compiling() or not floats:
        return _no_check
    device = next(iter(floats.values())).device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _no_check
    finite = operators(device).start_finite_check(list(floats.values()))

    def check() -> None:
        if finite():
            return
        for name, signal in floats.items():
            for place in (~signal.isfinite()).nonzero()[:1].tolist():
                found = f"{signal[tuple(place)].item()} at index {tuple(place)}"
                raise ArgumentError(f"input {name!r}: expected finite numbers, found {found}")

    return check


def _no_check() -> None: ...


def check_out(graph: Graph, out: Signals, like: Tensor) -> list[Tensor]:
    """The tensors that take the outputs, in order; `like` is the first input."""
    if torch.is_grad_enabled():
        raise ArgumentError("out: expected a call without gradients (torch.no_grad()), found one with them")
    names = graph.outputs
    targets = dict(out) if isinstance(out, Mapping) else {names[0]: out}
    if targets.keys() != set(names):
        found = sorted(map(str, targets)) if isinstance(out, Mapping) else type(out).__name__
        raise ArgumentError(f"out: expected tensors for the outputs {list(names)}, found {found}")
    for name in names:
        shape, tensor = (*like.shape[:2], *graph.nodes[name].output_shape), targets[name]
        wanted = f"{shape} torch.float32 on {like.device}"
        if not isinstance(tensor, Tensor):
            raise ArgumentError(f"out, output {name!r}: expected {wanted}, found {type(tensor).__name__}")
        if tensor.shape != shape or tensor.dtype != torch.float32 or tensor.device != like.device:
            found = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
            raise ArgumentError(f"out, output {name!r}: expected {wanted}, found {found}")
    return [targets[name] for name in names]


def quantities(graph: Graph, record: Mapping[str, str | Collection[str]]) -> tuple[tuple[str, str], ...]:
    """The node and the quantity of each thing to record."""
    keys = []
    if not isinstance(record, Mapping):
        raise ArgumentError(f"record: expected a dict from node to quantities, found {record!r}")
    for name, asked in record.items():
        if name not in graph.nodes:
            close = nearest(str(name), graph.nodes)
            raise ArgumentError(f"record: expected names of nodes, found {name!r} ({close})")
        node = graph.nodes[name]
        known = ["input", "output"]
        known += ["spikes"] if node.primitive.emits_spikes else []
        known += ["v"] if node.primitive.is_neuron else []
        known += ["i"] if "tau_syn" in node.parameters else []
        for quantity in asked if isinstance(asked, Collection) and not isinstance(asked, str) else [asked]:
            if quantity not in known:
                raise ArgumentError(
                    f"record, node {name!r}: expected quantities of {node.type} {known}, found {quantity!r}"
                )
            keys.append((name, quantity))
    return tuple(keys)


def _check_signal(name: str, signal: Tensor, shape: tuple[int, ...], device: torch.device | None) -> None:
    found = signal.shape if isinstance(signal, Tensor) else None
    if found is None or len(found) != 2 + len(shape) or found[2:] != shape:
        what = type(signal).__name__ if found is None else f"shape {tuple(found)}"
        alone = found is not None and found[1:] == shape
        hint = "; for one sample without a batch axis give x.unsqueeze(1)" if alone else ""
        raise ArgumentError(f"input {name!r}: expected {_wanted(shape)}, found {what}{hint}")
    if signal.dtype not in _EXACT_IN_FLOAT32:
        raise ArgumentError(
            f"input {name!r}: expected {_wanted(shape)} of float32 or a type exact in it, found {signal.dtype} "
            "(x.float() rounds it)"
        )
    if device is not None and signal.device != device:
        raise ArgumentError(f"input {name!r}: expected {_wanted(shape)} on {device}, found it on {signal.device}")


def _wanted(shape: tuple[int, ...]) -> str:
    return f"a tensor [T, B{''.join(f', {size}' for size in shape)}]"
