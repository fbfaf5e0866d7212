"""`Executor`: a NIR graph as a `torch.nn.Module` that runs over time, chunk by chunk, carrying its state."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import nir
import numpy as np
import torch
from torch import Tensor, nn

from neurocuda.discretization import (
    Discretization,
    coefficients,
    delay_steps,
    neuron_parameters,
    problems,
)
from neurocuda.errors import ArgumentError, NeuroCUDAWarning, nearest, raise_problems
from neurocuda.graph import NEURONS, SPIKE_PRODUCING, Graph, Node, align, from_nir
from neurocuda.io import read
from neurocuda.lowering import How, LoweredSchedule, lower
from neurocuda.ops import Surrogate
from neurocuda.ops.backends import operators
from neurocuda.plausibility import doubts
from neurocuda.schedule import schedule
from neurocuda.stages import Chunk, Tensors, run_chunk
from neurocuda.state import State, check_state

Signals = Tensor | Mapping[str, Tensor]
"""A signal [T, B, *shape], or several by the name of their Input or Output node."""

_WEIGHTS = ("weight", "bias", "scale")
_EXACT_IN_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.bool)


@dataclass(frozen=True)
class RunResult:
    """What `Executor.run` returns: outputs and state as a call does, and recordings[node][quantity] [T, B, *]."""

    output: Tensor | dict[str, Tensor]
    state: State
    recordings: dict[str, dict[str, Tensor]]


def load(
    source: str | os.PathLike[str] | Graph | nir.NIRGraph,
    discretization: Discretization | None = None,
    *,
    chunk: int = 32,
    surrogate: Surrogate | None = None,
    learn: str | Collection[str] = (),
) -> Executor:
    """A network from a NIR file, a `Graph` or a `nir.NIRGraph`.

    `chunk` is the number of steps that run layer by layer at a time: more is faster up to the cache, and takes
    more memory. `learn` names neuron parameters ("tau", "v_threshold", ...) to be trained. Raises `FileError`,
    `GraphError` (`ShapeError`, `AlgebraicLoopError`) or `ArgumentError`; warns with `NeuroCUDAWarning` of what
    is probably not meant.
    """
    if isinstance(source, Graph):
        graph = source
    elif isinstance(source, nir.NIRGraph):
        graph = from_nir(source)
    elif isinstance(source, str | os.PathLike):
        graph = read(source)
    else:
        raise ArgumentError(f"source: expected a path, a Graph or a nir.NIRGraph, found {type(source).__name__}")
    net = Executor(graph, discretization, chunk=chunk, surrogate=surrogate, learn=learn)
    for line in [*graph.warnings, *doubts(graph, net.discretization)]:
        warnings.warn(f"{graph.source}: {line}", NeuroCUDAWarning, stacklevel=2)
    return net


class Executor(nn.Module):
    """A NIR graph that runs: `y, state = net(x, state=None)`, x and y [T, B, *shape].

    Weights, biases and scales are float32 parameters named `node:field`. Parameters of neurons are float64
    buffers (parameters where `learn` names them) that `.half()` and `.to(dtype)` leave alone. In these names
    a dot of a node's name is written '/'.
    """

    def __init__(
        self,
        graph: Graph,
        discretization: Discretization | None = None,
        *,
        chunk: int = 32,
        surrogate: Surrogate | None = None,
        learn: str | Collection[str] = (),
        force: Mapping[str, How] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(chunk, int) or chunk < 1:
            raise ArgumentError(f"chunk: expected a whole number of steps >= 1, found {chunk!r}")
        for argument, value, wanted in (
            ("discretization", discretization, Discretization),
            ("surrogate", surrogate, Surrogate),
        ):
            if value is not None and not isinstance(value, wanted):
                raise ArgumentError(
                    f"{argument}: expected a {wanted.__name__}, found {value!r} ({type(value).__name__})"
                )
        learn = {learn} if isinstance(learn, str) else set(learn)
        self.graph = graph
        self.discretization = Discretization() if discretization is None else discretization
        self.chunk = chunk
        self.surrogate = Surrogate() if surrogate is None else surrogate
        raise_problems(problems(graph, self.discretization), graph.source)
        self.schedule: LoweredSchedule = lower(graph, schedule(graph, self.discretization), force)
        self._exact: dict[tuple[str, str], str] = {}
        self._weights: dict[tuple[str, str], str] = {}
        self._delays: dict[str, str] = {}
        self._depths: dict[str, int] = {}
        for node in graph.nodes.values():
            self._register(node, frozenset(learn))
        unknown = sorted(set(learn) - {field for _, field in self._exact})
        if unknown:
            known = sorted({field for _, field in self._exact})
            raise ArgumentError(f"learn: expected neuron parameters of this graph {known}, found {unknown}")
        self._late_sources = {edge.source for edge in self.schedule.schedule.delayed}

    def _register(self, node: Node, learn: frozenset[str]) -> None:
        prefix = node.name.replace("~", "~0").replace("/", "~1").replace(".", "/")
        exact = node.type in NEURONS or node.type == "Threshold"
        if node.type == "Delay":
            self._delays[node.name] = f"{prefix}:steps"
            steps = delay_steps(node, self.discretization)
            self._depths[node.name] = int(steps.max())
            self.register_buffer(f"{prefix}:steps", steps, persistent=False)
        for field, value in neuron_parameters(node).items() if exact else ():
            key = self._exact[node.name, field] = f"{prefix}:{field}"
            if field in learn:
                self.register_parameter(key, nn.Parameter(value))
            else:
                self.register_buffer(key, value)
        for field in [name for name in _WEIGHTS if name in node.parameters]:
            key = self._weights[node.name, field] = f"{prefix}:{field}"
            self.register_parameter(key, nn.Parameter(_weight(node, field)))

    def forward(self, x: Signals, state: State | None = None) -> tuple[Tensor | dict[str, Tensor], State]:
        """Run over the T steps of x.

        x: [T, B, *shape] of the Input, or a dict by name where there are several; float32, or a narrower type
        that is exact in it. state: what an earlier call returned, None for rest (all zero). Returns the
        signals of the Output (a dict by name where there are several) and the state after the last step.
        Raises `ArgumentError` naming the input or the entry of the state that does not fit.
        """
        result = self.run(x, state)
        return result.output, result.state

    def run(
        self,
        x: Signals,
        state: State | None = None,
        record: Mapping[str, str | Collection[str]] | None = None,
    ) -> RunResult:
        """Run as a call does, and record quantities of nodes at every step, such as {"lif1": ("spikes", "v")}.

        Any node has "input" (its sum) and "output"; IF, LIF, CubaLIF and Threshold have "spikes"; neurons have
        "v" (after the reset), CubaLI and CubaLIF "i". Recorded is what the node computes at a step, before any
        delay on its edges.
        """
        inputs = self._check_inputs(x)
        steps, batch = next(iter(inputs.values())).shape[:2]
        device = next(iter(inputs.values())).device
        owed = self._state_shapes(batch)
        if state is not None:
            check_state(state, owed, device)
        carry = (
            {name: torch.zeros(shape, device=device) for name, shape in owed.items()}
            if state is None
            else dict(state.tensors)
        )
        records: dict[tuple[str, str], list[Tensor]] = {key: [] for key in self._quantities(record or {})}
        outputs: dict[str, list[Tensor]] = {name: [] for name in self.graph.outputs}
        whole = {} if torch.is_grad_enabled() else self._empty_outputs(steps, batch, device)
        tensors = self._tensors(device)
        for start in range(0, steps, self.chunk):
            stop = min(start + self.chunk, steps)
            chunk = Chunk(stop - start, batch, carry, records, device)
            run_chunk(self.schedule, tensors, {n: s[start:stop].float() for n, s in inputs.items()}, chunk)
            for name in outputs:
                if name in whole:
                    whole[name][start:stop] = chunk.signals[name]
                else:
                    outputs[name].append(chunk.signals[name])
        if not whole:
            nothing = self._empty_outputs(0, batch, device)
            whole = {name: torch.cat([nothing[name], *pieces]) for name, pieces in outputs.items()}
        recordings: dict[str, dict[str, Tensor]] = {}
        for (name, quantity), pieces in records.items():
            node = self.graph.nodes[name]
            shape = node.output_shape if quantity == "output" else node.input_shape
            nothing_yet = torch.zeros(0, batch, *shape, device=device)
            recordings.setdefault(name, {})[quantity] = torch.cat([nothing_yet, *pieces])
        output = whole if len(whole) > 1 else next(iter(whole.values()))
        return RunResult(output, State({name: carry[name].clone() for name in owed}), recordings)

    def extra_repr(self) -> str:
        return f"{self.graph.source}, {self.discretization}\n{self.schedule}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Executor:
        """Move the parameters of neurons and the delays with the module, but never change their type."""
        kept = {key: getattr(self, key) for key in (*self._exact.values(), *self._delays.values())}
        before = {
            key: (tensor.detach().clone(), None if tensor.grad is None else tensor.grad.clone())
            for key, tensor in kept.items()
        }
        move: Callable[..., nn.Module] = super()._apply
        move(fn, recurse)
        for key, (value, gradient) in before.items():
            after = getattr(self, key)
            if after.dtype != value.dtype:
                after.grad = None
                after.data = value.to(after.device)
                after.grad = None if gradient is None else gradient.to(after.device)
        return self

    def _empty_outputs(self, steps: int, batch: int, device: torch.device) -> dict[str, Tensor]:
        shapes = {name: self.graph.nodes[name].output_shape for name in self.graph.outputs}
        return {name: torch.empty(steps, batch, *shape, device=device) for name, shape in shapes.items()}

    def _state_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The entries of the state for a batch."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, node in self.graph.nodes.items():
            if node.type in NEURONS:
                shapes[f"{name}.v"] = (batch, *node.input_shape)
            if "tau_syn" in node.parameters:
                shapes[f"{name}.i"] = (batch, *node.input_shape)
            if node.type == "Delay":
                shapes[f"{name}.history"] = (batch, self._depths[name], *node.input_shape)
            if name in self._late_sources:
                shapes[f"{name}.previous"] = (batch, *node.output_shape)
        return shapes

    def _tensors(self, device: torch.device) -> Tensors:
        """What the nodes compute with. Computed at every call: parameters may change in ways no one is told of."""
        weights = {key: getattr(self, name).float() for key, name in self._weights.items()}
        neurons: dict[str, dict[str, Tensor]] = {}
        for (name, field), key in self._exact.items():
            if self.graph.nodes[name].type in NEURONS:
                neurons.setdefault(name, {})[field] = getattr(self, key)
            else:
                weights[name, field] = getattr(self, key).float()
        d = self.discretization
        return Tensors(
            operators(device),
            weights,
            {name: coefficients(self.graph.nodes[name], p, d) for name, p in neurons.items()},
            {name: getattr(self, key) for name, key in self._delays.items()},
            d.spike_when,
            self.surrogate,
        )

    def _check_inputs(self, x: Signals) -> dict[str, Tensor]:
        names = self.graph.inputs
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
        device = next((t.device for t in [*self.parameters(), *self.buffers()]), None)
        for name in names:
            _check_signal(name, signals[name], self.graph.nodes[name].output_shape, device)
        first = signals[names[0]]
        for name in names:
            if signals[name].shape[:2] != first.shape[:2]:
                raise ArgumentError(
                    f"input {name!r}: expected T, B = {tuple(first.shape[:2])}, those of input {names[0]!r}, "
                    f"found {tuple(signals[name].shape[:2])}"
                )
        return {name: signals[name] for name in names}

    def _quantities(self, record: Mapping[str, str | Collection[str]]) -> list[tuple[str, str]]:
        keys = []
        if not isinstance(record, Mapping):
            raise ArgumentError(f"record: expected a dict from node to quantities, found {record!r}")
        for name, asked in record.items():
            if name not in self.graph.nodes:
                close = nearest(str(name), self.graph.nodes)
                raise ArgumentError(f"record: expected names of nodes, found {name!r} ({close})")
            node = self.graph.nodes[name]
            known = ["input", "output"]
            known += ["spikes"] if node.type in SPIKE_PRODUCING else []
            known += ["v"] if node.type in NEURONS else []
            known += ["i"] if "tau_syn" in node.parameters else []
            for quantity in asked if isinstance(asked, Collection) and not isinstance(asked, str) else [asked]:
                if quantity not in known:
                    raise ArgumentError(
                        f"record, node {name!r}: expected quantities of {node.type} {known}, found {quantity!r}"
                    )
                keys.append((name, quantity))
        return keys


def _weight(node: Node, field: str) -> Tensor:
    """A weight as float32, a scale aligned with its signal."""
    array = node.array(field)
    if field == "scale":
        array = align(array, len(node.input_shape))
    if field == "bias" and array.size == 1:
        array = array.reshape((1,) * (1 if "stride" in node.parameters else len(node.output_shape)))
    return torch.from_numpy(array.astype(np.float32))


def _check_signal(name: str, signal: Tensor, shape: tuple[int, ...], device: torch.device | None) -> None:
    wanted = f"a tensor [T, B{''.join(f', {size}' for size in shape)}]"
    if not isinstance(signal, Tensor):
        raise ArgumentError(f"input {name!r}: expected {wanted}, found {type(signal).__name__}")
    found = tuple(signal.shape)
    if signal.dim() != 2 + len(shape) or found[2:] != shape:
        hint = ""
        if found[1:] == shape:
            hint = "; for one sample without a batch axis give x.unsqueeze(1)"
        raise ArgumentError(f"input {name!r}: expected {wanted}, found shape {found}{hint}")
    if signal.dtype not in _EXACT_IN_FLOAT32:
        raise ArgumentError(
            f"input {name!r}: expected {wanted} of float32 or a type exact in it, found {signal.dtype} "
            "(x.float() rounds it)"
        )
    if device is not None and signal.device != device:
        raise ArgumentError(f"input {name!r}: expected {wanted} on {device}, found it on {signal.device}")
    if signal.is_floating_point() and signal.numel() and not _all_finite(signal.detach()):
        at = tuple(int(i) for i in (~signal.isfinite()).nonzero()[0])
        raise ArgumentError(f"input {name!r}: expected finite numbers, found {signal[at].item()} at index {at}")


def _all_finite(signal: Tensor) -> bool:
    """Whether every number is finite; the extremes tell it without a copy of the signal."""
    return all(math.isfinite(extreme.item()) for extreme in signal.aminmax())
