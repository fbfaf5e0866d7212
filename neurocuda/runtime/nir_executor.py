"""`Executor`: a NIR graph as a `torch.nn.Module` that runs over time, chunk by chunk, carrying its state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neurocuda.compiler.exactness import InputGrids
from neurocuda.compiler.lowering import How
from neurocuda.compiler.pipeline import compile_graph
from neurocuda.compiler.schedule import state_shapes
from neurocuda.compiler.tiling import steps_of_chunk
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError
from neurocuda.graph import Graph
from neurocuda.ops import Surrogate, native, reference
from neurocuda.ops.backends import operators, requested_backend
from neurocuda.ops.int8 import IntegerWeight
from neurocuda.runtime.arguments import Signals, ask_finite, check_finite, check_inputs, check_out, quantities
from neurocuda.runtime.capture.call_cache import Recorder, Repeated, kinds, repeat, repeated
from neurocuda.runtime.capture.cuda_graphs import CudaGraphs, capturable, into
from neurocuda.runtime.capture.tape import on_their_own, recorded
from neurocuda.runtime.guards import alone_on, certain, recordable
from neurocuda.runtime.int8_layers import IntegerLayers
from neurocuda.runtime.interpreter import run_chunks, run_steps
from neurocuda.runtime.operands import Derived, Held, Kept, Origins, Tensors, computed_with, origins
from neurocuda.runtime.parameters import Constants, all_tensors, keep_types, register
from neurocuda.runtime.state import State, check_state


@dataclass(frozen=True)
class RunResult:
    """What `Executor.run` returns: outputs and state as a call does, and recordings[node][quantity] [T, B, *]."""

    output: Tensor | dict[str, Tensor]
    state: State
    recordings: dict[str, dict[str, Tensor]]


_MADE = frozenset(
    """_settings graph discretization certificate schedule _held _entries _integers _derived _recorder _graphs
    _repeated""".split()
)
"""Attributes of an Executor that its graph and its settings determine."""


class Executor(nn.Module):
    """A NIR graph that runs: `y, state = net(x, state=None)`, x and y [T, B, *shape].

    Weights, biases and scales are float32 parameters named `node:field`. Parameters of neurons are float64
    buffers (parameters where `learn` names them) that `.half()` and `.to(dtype)` leave alone. In these names
    a dot of a node's name is written '/'. A `frozen` network has none of them, and computes no gradients but those of
    its inputs and states that ask for some.

    On a GPU, without gradients, a second call with inputs of one kind is captured in a CUDA graph, which later calls
    replay; it keeps memory for a copy of the inputs, the results and all in between. `cuda_graph = False` runs every
    call operator by operator.
    """

    cuda_graph = True

    def __init__(
        self,
        graph: Graph,
        discretization: Discretization | None = None,
        *,
        chunk: int | None = None,
        surrogate: Surrogate | None = None,
        learn: str | Collection[str] = (),
        force: Mapping[str, How] | None = None,
        input_grid: InputGrids | None = None,
        ordered: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
            raise ArgumentError(f"chunk: expected a whole number of steps >= 1, or None, found {chunk!r}")
        for argument, value, expected in (
            ("discretization", discretization, Discretization),
            ("surrogate", surrogate, Surrogate),
        ):
            if value is not None and not isinstance(value, expected):
                raise ArgumentError(
                    f"{argument}: expected a {expected.__name__}, found {value!r} ({type(value).__name__})"
                )
        learn = {learn} if isinstance(learn, str) else set(learn)
        if frozen and learn:
            raise ArgumentError(f"learn: expected nothing to learn in a frozen network, found {sorted(learn)}")
        self._settings = {
            "force": force,
            "input_grid": input_grid,
            "ordered": ordered,
            "frozen": frozen,
            "learn": learn,
        }
        self.graph = graph
        self.discretization = Discretization() if discretization is None else discretization
        self.chunk = chunk
        self.surrogate = Surrogate() if surrogate is None else surrogate
        made = compile_graph(graph, self.discretization, input_grid=input_grid, force=force, ordered=ordered)
        self.certificate, self.schedule = made.certificate, made.schedule
        constants = Constants(graph, self.discretization, self.schedule.of_library) if frozen else None
        names = register(self, graph, self.discretization, learn) if constants is None else constants.names
        self._held = Held(graph, self.discretization, names, constants)
        self._entries = state_shapes(graph, self.schedule.schedule, names.delay_counts)
        self._integers = IntegerLayers(self.schedule, self.certificate, None if frozen else self._by_field())
        self._derived = Derived(graph, self.discretization, frozen)
        self._forget_calls()
        if frozen:
            self._lay_out()

    def forward(
        self, x: Signals, state: State | None = None, *, out: Signals | None = None
    ) -> tuple[Tensor | dict[str, Tensor], State]:
        """Run over the T steps of x.

        x: [T, B, *shape] of the Input, or a dict by name where there are several; float32, or a narrower type
        that is exact in it. state: what an earlier call returned, None for rest (all zero). Returns the
        signals of the Output (a dict by name where there are several) and the state after the last step.
        out: float32 memory for the signals of the Output, without gradients. Raises `ArgumentError` naming the
        input or the entry of the state that does not fit.
        """
        return self._call(x, state, out, ends=False)

    def output(
        self, x: Signals, state: State | None = None, *, out: Signals | None = None
    ) -> Tensor | dict[str, Tensor]:
        """The signals of the Output alone, as a call returns them; no state is kept for steps to come.

        Arguments and errors are those of a call. It takes less memory: the state of a node goes when the node has run.
        """
        return self._call(x, state, out, ends=True)[0]

    def _call(
        self, x: Signals, state: State | None, out: Signals | None, ends: bool
    ) -> tuple[Tensor | dict[str, Tensor], State]:
        """`forward`; where the sequence `ends`, with an empty state."""
        if self._needs_no_gradients(x, state):
            with torch.no_grad():
                return self._call(x, state, out, ends)
        plain = not torch.compiler.is_dynamo_compiling() and isinstance(x, Tensor) and x.is_cpu
        plain = plain and out is None and requested_backend() in (None, "cpu")
        before = state.tensors if type(state) is State else None
        known = out is None and (state is None or before is not None)
        if plain and known and isinstance(x, Tensor):
            again = self._recorder.replay(ends, x, before, self._parameters, self._buffers)
            if again is not None:
                return again[0], State(again[1])
        last = self._repeated.get(ends)
        if last is not None and self.cuda_graph and known and isinstance(x, Tensor):
            again = repeat(last, x, before, self._parameters, self._buffers)
            if again is not None:
                return again[0], State(again[1])
        result = self._run(x, state, {}, out, ends)
        if plain and isinstance(x, Tensor) and isinstance(result.output, Tensor) and self._is_one_recording(x):
            start = self._at_rest(x.shape[1], x.device).tensors if before is None else before
            integers, looks = self._integers.looks({self.graph.inputs[0]: x}, self._by_field())
            self._recorder.prepare(ends, (ends, *integers), [x, *start.values()], list(start), looks)
        return result.output, result.state

    def run(
        self,
        x: Signals,
        state: State | None = None,
        record: Mapping[str, str | Collection[str]] | None = None,
        *,
        out: Signals | None = None,
    ) -> RunResult:
        """Run as a call does, and record quantities of nodes at every step, such as {"lif1": ("spikes", "v")}.

        Any node has "input" (its sum) and "output"; IF, LIF, CubaLIF and Threshold have "spikes"; neurons have
        "v" (after the reset), CubaLI and CubaLIF "i". Recorded is what the node computes at a step, before any
        delay on its edges. `out` takes the signals of the outputs, [T, B, *shape] float32, without gradients.
        """
        if self._needs_no_gradients(x, state):
            with torch.no_grad():
                return self.run(x, state, record, out=out)
        return self._run(x, state, record or {}, out, ends=False)

    def _run(
        self,
        x: Signals,
        state: State | None,
        record: Mapping[str, str | Collection[str]],
        out: Signals | None,
        ends: bool,
    ) -> RunResult:
        """`run`; where the sequence `ends`, with an empty state."""
        inputs = check_inputs(self.graph, x, self._held.device(self))
        asked = quantities(self.graph, record)
        first = next(iter(inputs.values()))
        batch = first.shape[1]
        if state is not None:
            check_state(state, {name: (batch, *shape) for name, shape in self._entries.items()}, first.device)
        targets = check_out(self.graph, out, first) if out is not None else []
        before = [] if state is None else [state.tensors[name] for name in self._entries]
        given = [*inputs.values(), *before]
        graph = self.cuda_graph and capturable(given) and operators(first.device) is not reference
        last = self._repeated.pop(ends, None)
        # Once more where something supposed was not so, with fewer layers as integers; at last nothing is supposed.
        for supposes in (True, True, True, True, False):
            finite = ask_finite(inputs) if graph or first.is_cuda else None
            integers = self._integers.supposed(inputs, self._by_field) if supposes else certain({})
            kept = self._derived.supposed(given, self._derived_from) if supposes else certain(None)
            checked = finite is not None
            function = partial(self._whole, asked, ends, integers=integers.value, kept=kept.value, checked=checked)
            key = (ends, *asked, *(integers.value or ()), kept.value is None)
            # One operator needs no graph, and so no copies, unless its coefficients are computed beside it.
            direct = graph and not self.schedule.layered and kept.value is not None
            if graph and not direct:
                results = self._graphs.run(key, function, given, self._sources(), targets)
            else:
                results = into(function(given), targets)
            if finite is not None:
                finite()
            if all([integers.so(), kept.so()]):
                break
        one = not asked and len(inputs) == len(self.graph.outputs) == 1
        if graph and one and operators(first.device) is native:
            kind, frozen = kinds(given, self._sources()), self._held.constants is not None
            again: Any = None  # the first time
            if not direct:
                again = self._graphs.captured(key, given)
            elif integers.value:
                again = function  # the kernel of integers is no operator of torch, and is not recorded
            elif last is not None and last.kind == kind:
                again = recorded(function, given, 0 if ends else len(self._entries), frozen) or function
            looks = (integers.looks, kept.looks)
            self._repeated[ends] = repeated(kind, self.schedule.by_library, [*self._entries], looks, again)
        count = len(self.graph.outputs) + len(asked)
        signals, carry = results[:count], results[count:]
        outputs = dict(zip(self.graph.outputs, signals, strict=False))
        recordings: dict[str, dict[str, Tensor]] = {}
        for (name, quantity), values in zip(asked, signals[len(outputs) :], strict=True):
            recordings.setdefault(name, {})[quantity] = values
        output = outputs if len(outputs) > 1 else next(iter(outputs.values()))
        after = {} if ends else dict(zip(self._entries, carry, strict=True))
        return RunResult(output, State(after), recordings)

    def profile(self, x: Tensor, state: State) -> list[tuple[str, float]]:
        """The operators of a call of one chunk, in order, and the nanoseconds of each.

        [] unless this call was recorded: made twice before, without gradients, on the compiled operators.
        """
        given = {self.graph.inputs[0]: x}
        integers = self._integers.of_chunk(self._integers.usable(given, self._by_field()), given)
        return self._recorder.profile((False, *integers), [x, *(state.tensors[name] for name in self._entries)])

    def _whole(
        self,
        asked: list[tuple[str, str]],
        ends: bool,
        given: list[Tensor],
        integers: dict[str, IntegerWeight] | None = None,
        kept: Kept | None = None,
        checked: bool = True,
    ) -> list[Tensor]:
        """Outputs, recordings and the state after all steps, from the inputs and the state before them, or from rest.

        ends: no state is left. integers: the weights of the layers that run as whole numbers; None: those that may,
        chunk by chunk. kept: what comes of the parameters; None: it is computed. checked: the inputs are known to be
        finite.
        """
        inputs = dict(zip(self.graph.inputs, given, strict=False))
        before = given[len(inputs) :]
        if not before:
            before = [*self._at_rest(given[0].shape[1], given[0].device).tensors.values()]
        signals, carry = self._over_time(inputs, before, asked, ends, integers, kept, checked)
        return [*signals, *carry]

    def _over_time(
        self,
        given: dict[str, Tensor],
        carry: list[Tensor],
        asked: list[tuple[str, str]],
        ends: bool,
        integers: dict[str, IntegerWeight] | None,
        kept: Kept | None,
        checked: bool,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs and recordings over all steps, and the state after them, chunk by chunk."""
        inputs = list(given.values())
        steps, batch = inputs[0].shape[:2]
        ops = operators(inputs[0].device)
        usable = self._integers.usable(given, self._by_field()) if integers is None else {}
        recording = ops is native and inputs[0].is_cpu and recordable([*inputs, *carry])
        lasting = alone_on("cpu", inputs)
        if recording:
            self._recorder.refresh(self._sources())
        elif not checked:
            check_finite(given)
        tensors = None if recording else self._tensors(inputs[0].device, kept, lasting)
        count = len(self.graph.outputs) + len(asked)
        length = steps_of_chunk(self.schedule, self.chunk, steps, batch, inputs[0].device)
        if steps == 0:
            nothing = [inputs[0].new_empty(0, batch, *shape, dtype=torch.float32) for shape in self._shapes(asked)]
            return nothing, [] if ends else [tensor.clone() for tensor in carry]

        def advance(part: list[Tensor], carry: list[Tensor], last: bool) -> tuple[list[Tensor], list[Tensor]]:
            in_integers = integers
            if in_integers is None:
                in_integers = self._integers.of_chunk(usable, dict(zip(given, part, strict=True)))
            last = ends and last
            function = partial(self._advance, asked, last, tensors, in_integers, lasting)
            after = 0 if last else len(carry)
            if recording:
                key = (last, *asked, *in_integers)
                made = self._recorder.run(key, function, [*part, *carry], finite=len(part), state=after)
                if made is None:
                    check_finite(given)  # which says where
                assert made is not None
            else:
                made = on_their_own(function([*part, *carry]), [*part, *carry], after)
            return made[:count], made[count:]

        return run_chunks(inputs, carry, length, advance, ops)

    def _is_one_recording(self, x: Tensor) -> bool:
        """Whether all steps run as one recording."""
        steps, batch = x.shape[:2]
        return 0 < steps <= steps_of_chunk(self.schedule, self.chunk, steps, batch, x.device)

    def _advance(
        self,
        asked: list[tuple[str, str]],
        ends: bool,
        tensors: Tensors | None,
        integers: Mapping[str, IntegerWeight],
        lasting: bool,
        given: list[Tensor],
    ) -> list[Tensor]:
        """Outputs, recordings and the state after a chunk, unless the sequence ends with it, from the inputs and the
        state before it.
        """
        tensors = self._tensors(given[0].device, None, lasting) if tensors is None else tensors
        if integers:
            tensors = replace(tensors, integers=integers, bytes=self.schedule.bytes)
        return run_steps(self.graph, self.schedule, tensors, self._entries, asked, ends, given)

    def __reduce__(self) -> tuple[Any, ...]:
        """Graph, settings, parameters and what a user gave it. All else is made of them: no file names its classes."""
        settings = {**self._settings, "chunk": self.chunk, "surrogate": self.surrogate}
        given = {key: value for key, value in self.__dict__.items() if key not in _MADE}
        device = None if self._held.constants is None else self._held.constants.device
        return _made_again, (type(self), self.graph, self.discretization, settings, device), given

    def extra_repr(self) -> str:
        frozen = "" if self._held.constants is None else ", frozen"
        return f"{self.graph.source}, {self.discretization}{frozen}\n{self.schedule}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Executor:
        """Move the parameters of neurons and the delays with the module, but never change their type."""
        self._repeated.clear()  # they hold the parameters where they lay
        if self._held.constants is not None:
            self._held.constants.move(fn)
            self._integers.forget()
            self._derived = Derived(self.graph, self.discretization, constant=True)
            self._forget_calls()
            return self
        move: Callable[..., nn.Module] = super()._apply
        kept = [*self._held.names.exact.values(), *self._held.names.delays.values()]
        keep_types(self, kept, lambda: move(fn, recurse))
        return self

    def parameter_name(self, node: str, field: str) -> str | None:
        """The name of the parameter or buffer that holds a field of a node; None if there is none of it."""
        return self._held.names.of(node, field) if self._held.constants is None else None

    def _needs_no_gradients(self, x: Signals, state: State | None) -> bool:
        """Whether gradients are on that nothing asks for: a frozen network then runs as without."""
        if self._held.constants is None or not torch.is_grad_enabled():
            return False
        signals = [*x.values()] if isinstance(x, Mapping) else [x]
        given = [*signals, *(state.tensors.values() if isinstance(state, State) else [])]
        return not any(isinstance(t, Tensor) and t.requires_grad for t in given)

    def _forget_calls(self) -> None:
        self._recorder = Recorder(constant=self._held.constants is not None)
        self._graphs = CudaGraphs()
        self._repeated: dict[bool, Repeated] = {}  # by whether the sequence ends with the call

    def _lay_out(self) -> None:
        """Bring the weights into the form that layers compute with, by a step of silence."""
        nodes = self.graph.nodes
        silence = {name: torch.zeros(1, 1, *nodes[name].output_shape, device="cpu") for name in self.graph.inputs}
        with torch.no_grad():
            if alone_on("cpu", silence.values()):
                self.run(silence)
        self._forget_calls()

    def _by_field(self) -> dict[tuple[str, str], Tensor]:
        return self._held.by_field(self)

    def _sources(self) -> list[Tensor]:
        return all_tensors(self)

    def _shapes(self, asked: list[tuple[str, str]]) -> list[tuple[int, ...]]:
        """The shapes of the outputs and of what is recorded, for one step of one sample."""
        nodes = self.graph.nodes
        outputs = [nodes[name].output_shape for name in self.graph.outputs]
        return outputs + [nodes[name].output_shape if q == "output" else nodes[name].input_shape for name, q in asked]

    def _at_rest(self, batch: int, device: torch.device) -> State:
        zero = torch.zeros((), device=device)  # one for all: nothing is written into a state
        return State({name: zero.expand(batch, *shape) for name, shape in self._entries.items()})

    def _derived_from(self) -> Origins:
        return origins(self._held, self, self.schedule.packed_layers)

    def _tensors(self, device: torch.device, kept: Kept | None, lasting: bool) -> Tensors:
        return computed_with(self._held, self, self.surrogate, self._derived, device, kept, lasting)


def _made_again(
    kind: type[Executor],
    graph: Graph,
    discretization: Discretization,
    settings: dict[str, Any],
    device: torch.device | None,
) -> Executor:
    """A network from `Executor.__reduce__`. device: of the constants of a frozen one."""
    net = kind.__new__(kind)
    Executor.__init__(net, graph, discretization, **settings)
    return net if device is None else net.to(device)
