"""`Neuron`: the neurons of one NIR node as a torch module, with their parameters and their state."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from neurocuda.discretization.coefficients import coefficients, initial_potential
from neurocuda.discretization.diagnostics import coarse_steps, problems
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, NeuroCUDAWarning, Problem
from neurocuda.graph import PRIMITIVES, Graph, Node, Shape, parameters_text
from neurocuda.graph.model import collapse
from neurocuda.graph.primitives import check_fields
from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, reference
from neurocuda.ops.backends import operators
from neurocuda.runtime.parameters import keep_types
from neurocuda.runtime.state import State, check_state

Value = float | Tensor | np.ndarray
"""A parameter: one number, one for each channel [C], or one for each neuron [*shape]."""

Learn = str | Collection[str]
"""The name or names of parameters to train."""

_HALF = (torch.float16, torch.bfloat16)
_READABLE = (torch.float32, *_HALF, torch.uint8, torch.bool)  # by native and Triton kernels
_EXACT = (*_READABLE, torch.int8)  # in float32

Self = TypeVar("Self", bound="Neuron")


class Neuron(nn.Module):
    """Base class of `IF`, `LIF`, `LI`, `I`, `CubaLI` and `CubaLIF`: the neurons of one NIR node.

    A call returns the spikes (LI, I, CubaLI: the membrane potential) for all T time steps of x [T, B, *shape], with the
    bits of an `Executor` of that node. Equations: Pedersen et al. 2024, Table 1; `NeuronCoefficients` has the update.
    Parameters are float64 buffers (those in `learn`: parameters of the module), which `.half()` and `.to(dtype)` leave
    unchanged.

    Args:
        parameters: The NIR parameters by name, in NIR's units (time in seconds). Each is a number, a tensor or array
            whose axes are the leading ones of the shape (channels [C]), or one for each neuron [*shape].
        discretization: Meaning of a time step; None (default): `Discretization()`, dt = 1e-4 s. With
            `Discretization(dt=1.0)`, time constants are in steps.
        surrogate: Surrogate gradient of spikes; None (default): `Surrogate()`.
        learn: Name or names of parameters to train; default none.
        keep_state: Whether a call without a state continues from the last one, until `reset_state()`; default False.
            The kept state is the attribute `state`; it moves with the module and is not in `state_dict()`.

    Raises:
        ArgumentError: An argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from neurocuda import nn
        >>> lif = nn.LIF(tau=torch.linspace(1e-3, 5e-3, 10), learn="tau")
        >>> spikes, state = lif(torch.rand(100, 4, 10), return_state=True)
        >>> spikes.shape, state.tensors["v"].shape
        (torch.Size([100, 4, 10]), torch.Size([4, 10]))
    """

    kind: ClassVar[str]
    state: State | None

    def __init__(
        self,
        parameters: dict[str, Value],
        *,
        discretization: Discretization | None = None,
        surrogate: Surrogate | None = None,
        learn: Learn = (),
        keep_state: bool = False,
    ) -> None:
        super().__init__()
        arguments = (("discretization", discretization, Discretization), ("surrogate", surrogate, Surrogate))
        for argument, value, expected in arguments:
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
            tensor = self._as_float64(name, parameter, name in learn)
            if name in learn:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)
        node = self._node("", None)
        self._bare_node = Node("", self.kind, {}, (), ())
        self._raise_first(problems(Graph({"": node}, ()), self.discretization))
        for line in coarse_steps(Graph({"": node}, ()), self.discretization):
            warnings.warn(line.replace("node ''", self.kind, 1), NeuroCUDAWarning, stacklevel=3)

    def forward(
        self, x: Tensor, state: State | None = None, *, return_state: bool = False
    ) -> Tensor | tuple[Tensor, State]:
        """Runs T time steps.

        Args:
            x: Input [T, B, *shape]: float32, or float16, bfloat16, uint8, int8 or bool.
            state: State before the first step, entries float32 [B, *shape]; None (default): the kept state, or zero.
            return_state: Whether to return the state too; default False.

        Returns:
            Spikes or membrane potentials [T, B, *shape], in the dtype of x if it is floating-point, else float32. With
            `return_state`, also the `State` after the last step.

        Raises:
            ArgumentError: x, the state or a parameter does not fit the shape or the device.
        """
        c = self._coefficients_for(x)
        before, previous = self._state_before(x, state)
        ops = operators(x.device)
        half = x.dtype in _HALF
        readable = ops is not reference and x.dtype in _READABLE
        options = {"dtype": x.dtype} if readable and half else {}
        y: Tensor
        y, after, _ = ops.neuron([x if readable else x.float()], c, before, self.surrogate, **options)
        tensors = {"v": after.v} if after.i is None else {"v": after.v, "i": after.i}
        if previous is not None:
            late = torch.cat([previous.unsqueeze(0), y.float()])
            y, tensors["previous"] = late[:-1], late[-1]
        y = y.to(x.dtype) if half else y
        if not (return_state or self.keep_state):
            return y
        result = State(tensors)
        if self.keep_state:
            self.state = result
        return (y, result) if return_state else y

    def reset_state(self) -> None:
        """Drops the kept state: the next call starts from zero."""
        self.state = None

    def detach_state(self) -> None:
        """Detaches the kept state from its gradients, for truncated backpropagation through time."""
        if self.state is not None:
            self.state = self.state.detach()

    def node(self, name: str, shape: Shape) -> Node:
        """The NIR node of these neurons, with the current parameters.

        Args:
            name: Name of the node.
            shape: Shape of the signal without T and B.

        Returns:
            A `Node` of the type `kind`, parameters in float64.

        Raises:
            ArgumentError: A parameter does not fit the shape.
        """
        for field in self._names:
            self._check_fit(field, getattr(self, field), tuple(shape))
        return self._node(name, tuple(shape))

    def extra_repr(self) -> str:
        learned = ", ".join(name for name in self._names if name in self._parameters)
        d = self.discretization
        changed = [
            f"{f.name}={getattr(d, f.name)!r}" for f in fields(d) if f.name == "dt" or getattr(d, f.name) != f.default
        ]
        text = parameters_text(Node("", self.kind, self._arrays(), (), ()))
        return ", ".join([text, *([f"learn=({learned})"] if learned else []), *changed])

    def _arrays(self) -> dict[str, Any]:
        """Copies of the parameters by name."""
        return {name: getattr(self, name).detach().cpu().numpy().copy() for name in self._names}

    def _node(self, name: str, shape: Shape | None) -> Node:
        """The node; without a shape, that of the parameter with the most axes."""
        checked, wrong = check_fields(name, self.kind, self._arrays())
        self._raise_first(tuple(wrong))
        arrays = {field: value for field, value in checked.items() if isinstance(value, np.ndarray)}
        if shape is None:
            shape = max((array.shape for array in arrays.values()), key=len)
            return Node(name, self.kind, checked, shape, shape)
        collapsed = {field: collapse(array, len(shape)) for field, array in arrays.items()}
        return Node(name, self.kind, collapsed, shape, shape)

    def _as_float64(self, name: str, value: Value, learned: bool) -> Tensor:
        """A float64 copy of a parameter, after its checks."""
        if isinstance(value, Tensor) and value.requires_grad and not learned:
            raise ArgumentError(
                f"{self.kind}, {name}: expected a tensor without gradients, found one with gradients "
                f"(learn={name!r} makes a copy of it a parameter of this module)"
            )
        try:
            array = np.asarray(value.detach().cpu().double() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError, RuntimeError):
            array = np.asarray(None)
        checked, wrong = check_fields("", self.kind, {name: array})
        self._raise_first(tuple(problem for problem in wrong if problem.field == name))
        found = checked[name]
        assert isinstance(found, np.ndarray)
        return torch.from_numpy(found.astype(np.float64))

    def _raise_first(self, wrong: tuple[Problem, ...]) -> None:
        for problem in wrong:
            place = problem.field or problem.where.partition(", ")[2]
            raise ArgumentError(f"{self.kind}, {place}: expected {problem.expected}, found {problem.found}")

    def _check_fit(self, name: str, value: Tensor, shape: Shape) -> None:
        sizes = zip(value.shape, shape, strict=False)
        if value.numel() != 1 and not (value.dim() <= len(shape) and all(own in (1, size) for own, size in sizes)):
            raise ArgumentError(
                f"{self.kind}, {name}: expected one number, or the first axes of *shape of a signal "
                f"[T, B{''.join(f', {size}' for size in shape)}], found shape {tuple(value.shape)}"
            )

    def _coefficients_for(self, x: Tensor) -> NeuronCoefficients:
        """Checks x [T, B, *shape] and returns the coefficients, aligned with its axes."""
        if not isinstance(x, Tensor) or x.dim() < 2 or x.dtype not in _EXACT:
            found = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ArgumentError(
                f"{self.kind}, x: expected a tensor [T, B, *shape] of float32 or a dtype exact in it, found {found}"
            )
        shape = tuple(x.shape[2:])
        values = {name: getattr(self, name) for name in self._names}
        for name, value in values.items():
            self._check_fit(name, value, shape)
            if value.device != x.device:
                raise ArgumentError(f"{self.kind}, x: expected a tensor on {value.device}, found one on {x.device}")
        return coefficients(self._bare_node, self._aligned(x), self.discretization)

    def _aligned(self, x: Tensor) -> dict[str, Tensor]:
        """The parameters, aligned with the axes of x [T, B, *shape]."""
        return {name: _align(getattr(self, name), x.dim() - 2) for name in self._names}

    def _state_before(self, x: Tensor, state: State | None) -> tuple[NeuronState, Tensor | None]:
        """The state before the first step, and the last spikes if `output_delay` delays them."""
        names = ["v"]
        if "tau_syn" in self._names:
            names.append("i")
        if PRIMITIVES[self.kind].is_spiking and self.discretization.output_delay:
            names.append("previous")
        kept = state is None and self.keep_state and self.state is not None
        state = self.state if kept else state
        if state is None:
            tensors = dict.fromkeys(names, torch.zeros((), device=x.device).expand(x.shape[1:]))
            start = initial_potential(self._bare_node, self._aligned(x), self.discretization)
            if start is not None:
                tensors["v"] = start.expand(x.shape[1:])
        else:
            try:
                check_state(state, {name: tuple(x.shape[1:]) for name in names}, x.device)
            except ArgumentError as error:
                hint = " (the kept state does not fit this input: call reset_state() first)" if kept else ""
                raise ArgumentError(f"{self.kind}, {error}{hint}") from None
            tensors = state.tensors
        return NeuronState(tensors["v"], tensors.get("i")), tensors.get("previous")

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves the parameters and the kept state with the module, without changing their dtype."""
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
    """A parameter whose axes are aligned with the leading ones of a signal with `rank` axes."""
    if value.numel() == 1:
        return value.reshape((1,) * rank)
    return value.reshape(value.shape + (1,) * (rank - value.dim()))


def _neurons(model: nn.Module) -> Iterator[Neuron]:
    return (module for module in model.modules() if isinstance(module, Neuron))


def reset_state(model: nn.Module) -> None:
    """Drops the kept state of all neurons in a model: the next call starts from zero.

    Args:
        model: Any module; those of `neurocuda.nn` in it are reset.

    Example:
        >>> import torch
        >>> from neurocuda import nn
        >>> model = torch.nn.Sequential(nn.I(keep_state=True))
        >>> model(torch.ones(3, 1)).flatten(), model(torch.ones(3, 1)).flatten()
        (tensor([1., 2., 3.]), tensor([4., 5., 6.]))
        >>> nn.reset_state(model)
        >>> model(torch.ones(3, 1)).flatten()
        tensor([1., 2., 3.])
    """
    for neuron in _neurons(model):
        neuron.reset_state()


def detach_state(model: nn.Module) -> None:
    """Detaches the kept state of all neurons in a model, for truncated backpropagation through time.

    Args:
        model: Any module; the state of those of `neurocuda.nn` in it is detached.

    Example:
        >>> import torch
        >>> from neurocuda import nn
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), nn.LI(tau=1e-3, keep_state=True))
        >>> for x in torch.rand(20, 4, 3).split(5):  # backpropagation through 5 time steps each
        ...     model(x).sum().backward()
        ...     nn.detach_state(model)
    """
    for neuron in _neurons(model):
        neuron.detach_state()
