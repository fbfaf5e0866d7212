"""Neurons as torch modules, for models written by hand: [T, B, *shape] in, spikes or membrane potentials out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import fields
from typing import Any, ClassVar, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from neurocuda.discretization.coefficients import coefficients
from neurocuda.discretization.diagnostics import coarse_steps, problems
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, NeuroCUDAWarning, Problem
from neurocuda.graph import PRIMITIVES, Graph, Node, Shape, parameters_text
from neurocuda.graph.model import collapse
from neurocuda.graph.primitives import check_fields
from neurocuda.ops import NeuronState, Surrogate, reference
from neurocuda.ops.backends import operators
from neurocuda.ops.pointwise import safe_convolutions
from neurocuda.runtime.parameters import keep_types
from neurocuda.runtime.state import State, check_state

__all__ = [
    *("IF", "LI", "LIF", "CubaLI", "CubaLIF", "I", "Neuron", "PerStep"),
    *("detach_state", "reset_state", "safe_convolutions"),
]

Value = float | Tensor | np.ndarray
"""A parameter of a neuron: one number, one for each channel [C], or one for each neuron [*shape]."""

_NARROW = (torch.float16, torch.bfloat16)
_TAKEN = (torch.float32, *_NARROW, torch.uint8, torch.bool)
_EXACT = (*_TAKEN, torch.int8)

Self = TypeVar("Self", bound="Neuron")


class How(TypedDict, total=False):
    """What every neuron takes by keyword beside its parameters; `Neuron` says what it means."""

    discretization: Discretization | None
    surrogate: Surrogate | None
    learn: str | Collection[str]
    keep_state: bool


class Neuron(nn.Module):
    """What `IF`, `LIF`, `LI`, `I`, `CubaLI` and `CubaLIF` have in common: a population of NIR neurons over time.

    A call takes x [T, B, *shape], float32 or a type that is exact in it, and returns the spikes (LI, I, CubaLI: the
    membrane potential) in the same shape and floating-point type; with `return_state=True` also the `State` after the
    last step, as `y, state = lif(x, state, return_state=True)`. Without a state it starts at rest, all zero. What is
    computed is the update of one NIR node, the bits of an `Executor` of that node.

    Parameters are those of NIR, in its units (seconds; `Discretization(dt=1.0)` counts in steps): numbers, tensors
    for each channel, which are the leading axes of the shape, or for each neuron. They are float64 buffers, or
    parameters where `learn` names them, and `.half()` and `.to(dtype)` leave them alone.

    discretization: how time is stepped. surrogate: the derivative of a spike. learn: names of parameters to train.
    keep_state: whether a call without a state goes on where the last one stopped, until `reset_state()`; the state
    kept is `state`. It moves with the module, copies hold it without its gradients, `state_dict` leaves it out.
    Raises `ArgumentError` naming the argument that does not fit.
    """

    kind: ClassVar[str]
    state: State | None

    def __init__(
        self,
        parameters: dict[str, Value],
        *,
        discretization: Discretization | None = None,
        surrogate: Surrogate | None = None,
        learn: str | Collection[str] = (),
        keep_state: bool = False,
    ) -> None:
        super().__init__()
        given = (("discretization", discretization, Discretization), ("surrogate", surrogate, Surrogate))
        for argument, value, expected in given:
            if value is not None and not isinstance(value, expected):
                raise ArgumentError(
                    f"{self.kind}, {argument}: expected a {expected.__name__}, found {value!r} ({type(value).__name__})"
                )
        self.discretization = Discretization() if discretization is None else discretization
        self.surrogate = Surrogate() if surrogate is None else surrogate
        self.keep_state = keep_state
        self.state = None
        self._names = tuple(parameters)
        learn = {learn} if isinstance(learn, str) else set(learn)
        if not learn <= set(parameters):
            raise ArgumentError(
                f"{self.kind}, learn: expected some of {list(parameters)}, found {sorted(map(str, learn))}"
            )
        for name, parameter in parameters.items():
            own = self._checked(name, parameter, name in learn)
            if name in learn:
                self.register_parameter(name, nn.Parameter(own))
            else:
                self.register_buffer(name, own)
        node = self._node("", None)
        self._population = Node("", self.kind, {}, (), ())
        self._refuse(problems(Graph({"": node}, ()), self.discretization))
        for line in coarse_steps(Graph({"": node}, ()), self.discretization):
            warnings.warn(line.replace("node ''", self.kind, 1), NeuroCUDAWarning, stacklevel=3)

    def forward(
        self, x: Tensor, state: State | None = None, *, return_state: bool = False
    ) -> Tensor | tuple[Tensor, State]:
        """Run over the T steps of x [T, B, *shape]; see the class."""
        population = self._aligned(x)
        before = self._state_before(x, state)
        ops = operators(x.device)
        narrow = x.dtype in _NARROW
        as_it_is = ops is not reference and x.dtype in _TAKEN
        options = {"dtype": x.dtype} if as_it_is and narrow else {}
        y: Tensor
        y, after, _ = ops.neuron([x if as_it_is else x.float()], population, before[0], self.surrogate, **options)
        tensors = {"v": after.v} if after.i is None else {"v": after.v, "i": after.i}
        if before[1] is not None:
            late = torch.cat([before[1].unsqueeze(0), y.float()])
            y, tensors["previous"] = late[:-1], late[-1]
        y = y.to(x.dtype) if narrow else y  # as torch's own layers do, so that it fits between them
        if not (return_state or self.keep_state):
            return y
        result = State(tensors)
        if self.keep_state:
            self.state = result
        return (y, result) if return_state else y

    def reset_state(self) -> None:
        """Forget the state kept: the next call starts at rest."""
        self.state = None

    def detach_state(self) -> None:
        """Cut the gradients of the state kept, as for truncated backpropagation through time."""
        if self.state is not None:
            self.state = self.state.detach()

    def node(self, name: str, shape: Shape) -> Node:
        """This population as the NIR node `name` on signals of `shape`, with its parameters as they are now."""
        for field in self._names:
            self._check_fit(field, getattr(self, field), tuple(shape))
        return self._node(name, tuple(shape))

    def extra_repr(self) -> str:
        learnt = ", ".join(name for name in self._names if name in self._parameters)
        d = self.discretization
        changed = [
            f"{f.name}={getattr(d, f.name)!r}" for f in fields(d) if f.name == "dt" or getattr(d, f.name) != f.default
        ]
        arrays = {name: getattr(self, name).detach().cpu().numpy().copy() for name in self._names}
        text = parameters_text(Node("", self.kind, arrays, (), ()))
        return ", ".join([text, *([f"learn=({learnt})"] if learnt else []), *changed])

    def _node(self, name: str, shape: Shape | None) -> Node:
        """The node; without a shape, its parameters as they are."""
        arrays = {field: getattr(self, field).detach().cpu().numpy().copy() for field in self._names}
        checked, wrong = check_fields(name, self.kind, arrays)
        self._refuse(tuple(wrong))
        if shape is None:
            most: Shape = max((array.shape for array in arrays.values()), key=len)
            return Node(name, self.kind, checked, most, most)
        own = {field: collapse(value, len(shape)) for field, value in checked.items() if isinstance(value, np.ndarray)}
        return Node(name, self.kind, own, shape, shape)

    def _checked(self, name: str, value: Value, learnt: bool) -> Tensor:
        """The parameter as a float64 tensor of its own."""
        if isinstance(value, Tensor) and value.requires_grad and not learnt:
            raise ArgumentError(
                f"{self.kind}, {name}: expected a tensor without gradients, found one with them "
                f"(learn={name!r} makes it a parameter of this module, a copy)"
            )
        try:
            array = np.asarray(value.detach().cpu().double() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError, RuntimeError):
            array = np.asarray(None)
        checked, wrong = check_fields("", self.kind, {name: array})
        self._refuse(tuple(problem for problem in wrong if problem.field == name))
        found = checked[name]
        assert isinstance(found, np.ndarray)
        return torch.from_numpy(found.astype(np.float64))

    def _refuse(self, wrong: tuple[Problem, ...]) -> None:
        for problem in wrong:
            place = problem.field or problem.where.partition(", ")[2]
            raise ArgumentError(f"{self.kind}, {place}: expected {problem.expected}, found {problem.found}")

    def _check_fit(self, name: str, value: Tensor, shape: Shape) -> None:
        sizes = zip(value.shape, shape, strict=False)
        if value.numel() != 1 and not (value.dim() <= len(shape) and all(own in (1, size) for own, size in sizes)):
            raise ArgumentError(
                f"{self.kind}, {name}: expected one number, or axes that are the leading ones of a signal "
                f"[T, B{''.join(f', {size}' for size in shape)}], found shape {tuple(value.shape)}"
            )

    def _aligned(self, x: Tensor) -> Any:
        """The coefficients for x, after a look whether it fits."""
        if not isinstance(x, Tensor) or x.dim() < 2 or x.dtype not in _EXACT:
            found = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ArgumentError(
                f"{self.kind}, x: expected a tensor [T, B, *shape] of float32 or a type exact in it, found {found}"
            )
        shape = tuple(x.shape[2:])
        values = {name: getattr(self, name) for name in self._names}
        for name, value in values.items():
            self._check_fit(name, value, shape)
            if value.device != x.device:
                raise ArgumentError(f"{self.kind}, x: expected a tensor on {value.device}, found one on {x.device}")
        aligned = {name: _align(value, len(shape)) for name, value in values.items()}
        return coefficients(self._population, aligned, self.discretization)

    def _state_before(self, x: Tensor, state: State | None) -> tuple[NeuronState, Tensor | None]:
        """The state of the population, and its last spikes where they leave a step late."""
        names = ["v"]
        if "tau_syn" in self._names:
            names.append("i")
        if PRIMITIVES[self.kind].is_spiking and self.discretization.output_delay:
            names.append("previous")
        kept = state is None and self.keep_state and self.state is not None
        state = self.state if kept else state
        if state is None:
            zero = torch.zeros((), device=x.device).expand(x.shape[1:])
            tensors = dict.fromkeys(names, zero)
        else:
            try:
                check_state(state, {name: tuple(x.shape[1:]) for name in names}, x.device)
            except ArgumentError as error:
                hint = " (the state kept is of other signals: reset_state() before them)" if kept else ""
                raise ArgumentError(f"{self.kind}, {error}{hint}") from None
            tensors = state.tensors
        return NeuronState(tensors["v"], tensors.get("i")), tensors.get("previous")

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the parameters and the state kept with the module, but never change their type."""
        move: Callable[..., nn.Module] = super()._apply
        keep_types(self, self._names, lambda: move(fn, recurse))
        if self.state is not None:
            self.state = self.state.to(getattr(self, self._names[0]).device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        content: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        if self.state is not None:
            content["state"] = self.state.detach()
        return content


def _align(value: Tensor, rank: int) -> Tensor:
    """A parameter with its axes on the leading axes of a signal of `rank` axes."""
    if value.numel() == 1:
        return value.reshape((1,) * rank)
    return value.reshape(value.shape + (1,) * (rank - value.dim()))


class I(Neuron):  # noqa: E742
    """An integrator, v' = r x: emits its membrane potential. r None adds an input of 1 as 1 a step."""

    kind = "I"

    def __init__(self, r: Value | None = None, **how: Unpack[How]) -> None:
        super().__init__({"r": _unit_gain(r, how)}, **how)


class IF(Neuron):
    """An integrate-and-fire neuron, v' = r x. r None adds an input of 1 as 1 a step, as most simulators do.

    `Discretization(reset="subtract")` resets by subtraction; otherwise v becomes v_reset.
    """

    kind = "IF"

    def __init__(
        self, r: Value | None = None, v_threshold: Value = 1.0, v_reset: Value = 0.0, **how: Unpack[How]
    ) -> None:
        super().__init__({"r": _unit_gain(r, how), "v_threshold": v_threshold, "v_reset": v_reset}, **how)


class LI(Neuron):
    """A leaky integrator, tau v' = (v_leak - v) + r x: emits its membrane potential."""

    kind = "LI"

    def __init__(self, tau: Value, r: Value = 1.0, v_leak: Value = 0.0, **how: Unpack[How]) -> None:
        super().__init__({"tau": tau, "r": r, "v_leak": v_leak}, **how)


class LIF(Neuron):
    """A leaky integrate-and-fire neuron, tau v' = (v_leak - v) + r x."""

    kind = "LIF"

    def __init__(
        self,
        tau: Value,
        r: Value = 1.0,
        v_leak: Value = 0.0,
        v_threshold: Value = 1.0,
        v_reset: Value = 0.0,
        **how: Unpack[How],
    ) -> None:
        firing = {"v_threshold": v_threshold, "v_reset": v_reset}
        super().__init__({"tau": tau, "r": r, "v_leak": v_leak, **firing}, **how)


class CubaLI(Neuron):
    """`LI` behind a synapse, tau_syn i' = -i + w_in x, tau_mem v' = (v_leak - v) + r i: emits its v."""

    kind = "CubaLI"

    def __init__(
        self, tau_syn: Value, tau_mem: Value, r: Value = 1.0, v_leak: Value = 0.0, w_in: Value = 1.0, **how: Unpack[How]
    ) -> None:
        super().__init__({"tau_syn": tau_syn, "tau_mem": tau_mem, "r": r, "v_leak": v_leak, "w_in": w_in}, **how)


class CubaLIF(Neuron):
    """`LIF` behind a synapse, tau_syn i' = -i + w_in x, tau_mem v' = (v_leak - v) + r i."""

    kind = "CubaLIF"

    def __init__(
        self,
        tau_syn: Value,
        tau_mem: Value,
        r: Value = 1.0,
        v_leak: Value = 0.0,
        v_threshold: Value = 1.0,
        v_reset: Value = 0.0,
        w_in: Value = 1.0,
        **how: Unpack[How],
    ) -> None:
        membrane = {"tau_syn": tau_syn, "tau_mem": tau_mem, "r": r, "v_leak": v_leak}
        super().__init__({**membrane, "v_threshold": v_threshold, "v_reset": v_reset, "w_in": w_in}, **how)


def _unit_gain(r: Value | None, how: How) -> Value:
    """r, or where it is None that of a gain of exactly 1: 1 / dt, or 1 where it is the gain itself."""
    if r is not None:
        return r
    d = how.get("discretization")
    d = d if isinstance(d, Discretization) else Discretization()  # another type is refused in a moment
    return 1 / d.dt if d.if_gain == "r*dt" else 1.0


class PerStep(nn.Module):
    """Any torch layer over [T, B, ...]: it sees the T * B frames as one batch, in order of time.

    Statistics of a batch, those of BatchNorm, are taken over all steps. Raises `ArgumentError` where x has no axes
    [T, B], or the layer does not return a tensor with a row for each frame.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise ArgumentError(f"PerStep, module: expected a torch.nn.Module, found {type(module).__name__}")
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.dim() < 2:
            found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ArgumentError(f"PerStep, x: expected a tensor [T, B, ...], found {found}")
        steps, batch = x.shape[:2]
        with safe_convolutions() if x.is_cpu and torch.is_grad_enabled() else nullcontext():
            y = self.module(x.flatten(0, 1))
        if not isinstance(y, Tensor) or y.dim() < 1 or y.shape[0] != steps * batch:
            found = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise ArgumentError(
                f"PerStep, what {type(self.module).__name__} returns: expected a tensor [{steps * batch}, ...], a row "
                f"for each frame, found {found}"
            )
        return y.reshape(steps, batch, *y.shape[1:])


def _neurons(model: nn.Module) -> Iterator[Neuron]:
    return (module for module in model.modules() if isinstance(module, Neuron))


def reset_state(model: nn.Module) -> None:
    """Forget the state that neurons of a model keep: the next call starts at rest."""
    for neuron in _neurons(model):
        neuron.reset_state()


def detach_state(model: nn.Module) -> None:
    """Cut the gradients of the state that neurons of a model keep, as for truncated backpropagation through time."""
    for neuron in _neurons(model):
        neuron.detach_state()
