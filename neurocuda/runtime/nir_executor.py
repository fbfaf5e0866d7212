"""`Executor`: a NIR graph as a `torch.nn.Module` that runs over time, chunk by chunk, carrying its state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from operator import call
from typing import Any

import torch
from torch import Tensor, nn

from neurocuda.compiler.exactness import InputGrids
from neurocuda.compiler.lowering import How
from neurocuda.compiler.pipeline import compile_graph
from neurocuda.compiler.tiling import steps_of_chunk
from neurocuda.discretization.metadata import resolve
from neurocuda.discretization.settings import Discretization
from neurocuda.graph import Graph
from neurocuda.ops import Surrogate, native, reference
from neurocuda.ops.backends import operators, unobserved
from neurocuda.runtime import arguments
from neurocuda.runtime.arguments import Signals
from neurocuda.runtime.capture.call_cache import CallCache, copied_to, own_memory
from neurocuda.runtime.guards import Guards, Speculation
from neurocuda.runtime.int8_layers import Int8Layers, Int8Weights
from neurocuda.runtime.interpreter import Returns, plan_of, run_chunk, run_chunks
from neurocuda.runtime.operands import OperandBuilder, OperandCache, Operands
from neurocuda.runtime.parameters import ParameterStore
from neurocuda.runtime.state import RunResult, State, check_state

_COMPUTED = frozenset(
    """_settings graph discretization certificate schedule _plan _store _int8 _builder _operands _calls""".split()
)
"""Attributes of an Executor that its graph and its settings determine."""

_OUTPUTS_AND_STATE, _OUTPUTS = Returns(), Returns(ends=True)

_ATTEMPTS = 4
"""Of a call on speculative values, before it runs without any."""


class Executor(nn.Module):
    """A NIR graph that runs: `y, state = net(x, state=None)`, x and y [T, B, *shape].

    Weights, biases and scales are float32 parameters named `node:field`, a dot of the node's name written '/'.
    Neuron parameters are float64 buffers that `.half()` and `.to(dtype)` leave alone. Frozen networks have constants.

    Without gradients, a second call with the same shapes, strides and dtypes is captured, as a program on a CPU and as
    a CUDA graph on a GPU, and later calls replay it. A graph keeps memory for all its tensors; `cuda_graph = False`
    runs every GPU call operator by operator.

    Args:
        graph: The graph, as `read` or `from_nir` returns it.
        discretization: What a time step means. Default: that of the file, else `Discretization()`.
        chunk: Time steps that run layer by layer at a time, >= 1. Default: the choice that `load` describes.
        surrogate: The derivative of a spike. Default: `Surrogate()`.
        learn: Neuron parameters to train ("tau", "v_threshold", ...): parameters instead of buffers. Default: none.
        force: "ordered", "library" (vendor library) or "integer" (int8) by layer. Default: the choice made at loading.
        input_grid: The grid of the inputs, one for all or by name. Default: the integers 0 .. 255.
        ordered: Sums every layer in the defined order: the same bits on every backend. Default: False.
        frozen: Makes constants of all parameters; then `learn` must be empty. Default: False.

    Raises:
        ArgumentError: An argument does not fit.
        AlgebraicLoopError: A cycle has no state.

    Example:
        >>> import neurocuda, torch
        >>> net = neurocuda.Executor(neurocuda.read("examples/digits/digits.nir"))
        >>> y, state = net(torch.zeros(3, 2, 1, 8, 8))
        >>> y.shape
        torch.Size([3, 2, 10])
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
        learn = {learn} if isinstance(learn, str) else set(learn)
        arguments.check_settings(chunk, discretization, surrogate, learn, frozen)
        self._settings: dict[str, Any] = {"force": force, "input_grid": input_grid, "ordered": ordered}
        self._settings |= {"frozen": frozen, "learn": learn}
        self.graph, self.chunk = graph, chunk
        self.discretization, self.discretization_origin = resolve(graph, discretization)
        self.surrogate = Surrogate() if surrogate is None else surrogate
        compiled = compile_graph(graph, self.discretization, input_grid=input_grid, force=force, ordered=ordered)
        self.certificate, self.schedule = compiled.certificate, compiled.schedule
        lazy = self.schedule.of_library if frozen else None
        self._store = ParameterStore(self, graph, self.discretization, learn, lazy)
        self._plan = plan_of(graph, self.schedule, self._store.delay_counts)
        self._int8 = Int8Layers(self.schedule, self.certificate, None if frozen else self._store.by_field(self))
        self._builder = OperandBuilder(self._store, self.schedule, self.discretization, self.surrogate)
        self._forget()
        self._prepare()

    def forward(
        self, x: Signals, state: State | None = None, *, out: Signals | None = None
    ) -> tuple[Tensor | dict[str, Tensor], State]:
        """Runs over the T time steps of x.

        Args:
            x: [T, B, *shape] of the Input, or a dict by name; float32, float16, bfloat16, uint8, int8 or bool; finite.
            state: The state that an earlier call returned, of the same batch. Default: that before the first step.
            out: Memory for the outputs, float32 as they are returned; only without gradients. Default: new memory.

        Returns:
            The signals of the Output, float32 [T, B, *shape] (a dict by name if there are several), and the last state.

        Raises:
            ArgumentError: An input, an entry of the state or `out` does not fit.
        """
        return self._call(x, state, out, _OUTPUTS_AND_STATE)

    def output(
        self, x: Signals, state: State | None = None, *, out: Signals | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Runs as a call does, but returns no state, which takes less memory.

        Args:
            x: As of a call.
            state: As of a call.
            out: As of a call.

        Returns:
            The signals of the Output, float32 [T, B, *shape] (a dict by name if there are several).

        Raises:
            ArgumentError: As a call.
        """
        return self._call(x, state, out, _OUTPUTS)[0]

    def _call(
        self, x: Signals, state: State | None, out: Signals | None, returns: Returns
    ) -> tuple[Tensor | dict[str, Tensor], State]:
        """A call that returns what `returns` says: replayed if its guards hold, else run. The state may be empty."""
        if self._store.frozen and torch.is_grad_enabled() and not arguments.requires_grad(x, state):
            with torch.no_grad():
                return self._call(x, state, out, returns)
        state = self._initial_state(x) if state is None and self._store.starts else state
        if out is None and isinstance(x, Tensor) and (state is None or type(state) is State):
            before = None if state is None else state.tensors
            if self.cuda_graph or (x.is_cpu and not self._calls.simulated):
                replayed = self._calls.replay(returns.ends, x, before, self)
                if replayed is not None:
                    return replayed[0], State(replayed[1])
        result = self._run(x, state, out, returns)
        return result.output, result.state

    def run(
        self,
        x: Signals,
        state: State | None = None,
        record: Mapping[str, str | Collection[str]] | None = None,
        *,
        out: Signals | None = None,
    ) -> RunResult:
        """Runs as a call does, and records quantities of nodes at every time step.

        Args:
            x: As of a call.
            state: As of a call.
            record: Quantities by node, such as {"lif1": ("spikes", "v")}. Any node has "input" (the sum of its inputs)
                and "output"; IF, LIF, CubaLIF and Threshold have "spikes"; neurons have "v" (after the reset), CubaLI
                and CubaLIF also "i". A recorded output is that before the delay of an edge.
            out: As of a call.

        Returns:
            Outputs, state and recordings, float32 [T, B, *shape] for each recorded quantity.

        Raises:
            ArgumentError: As a call, and for a node or quantity that does not exist.
        """
        if self._store.frozen and torch.is_grad_enabled() and not arguments.requires_grad(x, state):
            with torch.no_grad():
                return self.run(x, state, record, out=out)
        state = self._initial_state(x) if state is None and self._store.starts else state
        return self._run(x, state, out, Returns(arguments.quantities(self.graph, {} if record is None else record)))

    def profile(self, x: Tensor, state: State) -> list[tuple[str, float]]:
        """Times the operators of a captured call of one chunk on a CPU.

        Args:
            x: As of a call that was captured: the third with its shapes, without gradients, on the native operators.
            state: As of that call.

        Returns:
            The name and the nanoseconds of each operator, in order; [] if there is no captured call.
        """
        inputs = {self._plan.inputs[0]: x}
        weights = self._int8.of_chunk(self._int8.usable(inputs, self._store.by_field(self)), inputs)
        key = Returns(), self._operands.operands, *weights
        return self._calls.profile(key, [x, *(state.tensors[name] for name in self._plan.entries)])

    def _initial_state(self, x: Signals) -> State:
        """The state before the first step, of a network where it is not zero."""
        first = arguments.check_inputs(self.graph, self._plan.inputs, x, self._device())[0]
        return State(self._store.initial_state(self, self._plan.entries, first.shape[1]))

    def _run(self, x: Signals, state: State | None, out: Signals | None, returns: Returns) -> RunResult:
        """`run`, with checked recordings."""
        plan = self._plan
        inputs = arguments.check_inputs(self.graph, plan.inputs, x, self._device())
        first = inputs[0]
        if state is not None:
            shapes = {name: (first.shape[1], *shape) for name, shape in plan.entries.items()}
            check_state(state, shapes, first.device)
            inputs += map(state.tensors.__getitem__, plan.entries)
        targets = arguments.check_out(self.graph, out, first) if out is not None else []
        return plan.result(returns, self._execute(returns, inputs, targets))

    def _execute(self, returns: Returns, tensors: list[Tensor], out: list[Tensor]) -> list[Tensor]:
        """Outputs, recordings and the state after all steps.

        A GPU runs all steps as one CUDA graph (a single operator as a program), a CPU runs each chunk as a program.
        Operands and int8 weights are cached and speculative, unless something observes the operators. tensors: the
        inputs, and the state unless the call starts from rest. out: memory for the first results.
        """
        plan, device, calls = self._plan, tensors[0].device, self._calls
        sources = self._sources()  # before the operands: a thread may replace a parameter between the two
        ops, on_gpu = operators(device), tensors[0].is_cuda
        registered = not self._store.registered.difference(self._parameters, self._buffers)
        graph = self.cuda_graph and registered and ops is not reference and (on_gpu or calls.simulated)
        graph = graph and calls.can_capture(tensors)
        can_cache = registered and ops is native and unobserved(tensors)
        inputs = dict(zip(plan.inputs, tensors, strict=False))
        for speculate in (*(True,) * _ATTEMPTS, False):
            cached = can_cache and speculate
            finite = arguments.start_finite_check(inputs) if graph or on_gpu else None
            operands = self._operands.speculate(self, device) if cached else None
            has_int8 = cached and on_gpu and plan.has_int8
            int8 = self._int8.speculate(inputs, self._store.by_field(self)) if has_int8 else None
            weights = None if int8 is None else int8.value
            speculations = [one for one in (operands, int8) if one is not None]
            checks = [one.validate for one in speculations if one.validate is not None]
            function = partial(self._run_steps, returns, operands, weights, sources, finite is not None)
            # A single operator needs no graph, and so no copies, unless its operands are computed beside it.
            single = graph and operands is not None and not self.schedule.layered
            key = (returns, operands and operands.value, *(weights or ()))
            if single and operands is not None and not weights:
                calls.refresh(sources)
                state = 0 if returns.ends else len(plan.entries)
                made = calls.run_program(key, function, tensors, 0, state, operands.value.derived)
                results = copied_to(out, made or [])
            elif graph and not single:
                results = calls.run_graph(key, function, tensors, sources, out)
            else:
                results = copied_to(out, function(tensors))
            if finite is not None:
                finite()
            valid = [*map(call, checks)]  # each waits, also after one that failed
            if all(valid):
                break
            sources = self._sources()
        if graph and ops is native and plan.is_guardable(returns):
            # The int8 kernel is no operator of torch: a program cannot record it.
            run = function if single and weights else calls.captured(key, tensors)
            if run is not None:
                guards, by_library = [one.guards for one in speculations], self.schedule.by_library
                calls.guard(returns.ends, run, tensors, [*plan.entries], sources, guards, by_library)
        return results

    def _run_steps(
        self,
        returns: Returns,
        operands: Speculation[Operands] | None,
        int8: Int8Weights | None,
        sources: list[Tensor],
        checked: bool,
        tensors: list[Tensor],
    ) -> list[Tensor]:
        """Runs all steps, chunk by chunk. On a CPU with cached operands, chunks are captured as programs.

        Args:
            operands: Cached operands; None to build them from the parameters.
            int8: The weights of the int8 layers; None to choose them for each chunk on a CPU.
            sources: The parameters that the operands were built from.
            checked: Whether a check of finite inputs was started already: on a GPU, and for a CUDA graph.
        """
        plan, calls = self._plan, self._calls
        inputs = dict(zip(plan.inputs, tensors, strict=False))
        (steps, batch), device = tensors[0].shape[:2], tensors[0].device
        programs = operands is not None and not checked
        if programs:
            calls.refresh(sources)
        elif not checked:
            arguments.start_finite_check(inputs)()
        tensors = plan.with_state(tensors)
        if steps == 0:
            return plan.results_of_no_steps(returns, tensors)
        guardable = operands is not None and plan.is_guardable(returns)
        built = self._builder.build(self, device) if operands is None else operands.value
        usable = self._int8.usable(inputs, self._store.by_field(self)) if programs and plan.has_int8 else {}
        length = steps_of_chunk(self.schedule, self.chunk, steps, batch, device)

        def guard(weights: Int8Weights, program: Any) -> None:
            assert operands is not None
            of_int8 = self._int8.guards(weights, inputs, self._store.by_field(self)) if plan.has_int8 else Guards()
            if of_int8 is not None:
                guards = [operands.guards, of_int8]
                calls.guard(returns.ends, program, tensors, [*plan.entries], sources, guards)

        def run(part: list[Tensor], ends: bool) -> list[Tensor]:
            weights = int8 or {}
            if usable and int8 is None:
                weights = self._int8.of_chunk(usable, dict(zip(inputs, part, strict=False)))
            values = replace(built, int8=weights, bytes=self.schedule.bytes) if weights else built
            chunk = Returns(returns.recordings, ends)
            function = partial(run_chunk, plan, values, chunk)
            state = 0 if ends else len(plan.entries)
            if not programs:
                return own_memory(function(part), part, state)
            if_captured = partial(guard, weights) if guardable and length >= steps else None
            results = calls.run_program(
                (chunk, built, *weights), function, part, len(inputs), state, built.derived, if_captured
            )
            return results or arguments.refuse_infinite(inputs)

        if length >= steps:
            return run(tensors, returns.ends)
        return run_chunks(plan, returns, tensors, length, run, built.operators)

    def __reduce__(self) -> tuple[Any, ...]:
        """Graph, settings, parameters and what a user assigned. All else is computed: no file names its classes."""
        settings = {**self._settings, "chunk": self.chunk, "surrogate": self.surrogate}
        assigned = {key: value for key, value in self.__dict__.items() if key not in _COMPUTED}
        device = self._store.device if self._store.frozen else None
        return _restored, (type(self), (self.graph, self.discretization), settings, device), assigned

    def extra_repr(self) -> str:
        frozen = ", frozen" if self._store.frozen else ""
        return f"{self.graph.source}, {self.discretization} ({self.discretization_origin}){frozen}\n{self.schedule}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Executor:
        """Moves the parameters; those of neurons and delays never change their dtype."""
        self._calls.forget_guarded()
        move: Callable[..., nn.Module] = super()._apply
        self._store.move(self, fn, lambda: move(fn, recurse))
        if self._store.frozen:
            self._int8.forget()
            self._forget()
        return self

    def parameter_name(self, node: str, field: str) -> str | None:
        """The name of the parameter or buffer of a field, as `state_dict` has it.

        Args:
            node: The name of a node in the graph.
            field: One of its NIR fields, such as "weight" or "tau".

        Returns:
            The name, such as "fc:weight"; None if the field has no parameter, or the network is frozen.
        """
        return self._store.name(node, field)

    def _forget(self) -> None:
        self._operands = OperandCache(self._builder)
        self._calls = CallCache(constant=self._store.frozen)

    def _prepare(self) -> None:
        """Builds the operands of a CPU, and prepacks a frozen network's weights by a step of silence."""
        silence = [torch.zeros(1, 1, *self.graph.nodes[name].output_shape, device="cpu") for name in self._plan.inputs]
        with torch.no_grad():
            can_cache = operators(torch.device("cpu")) is native and unobserved(silence)
            if can_cache and self._store.frozen:
                self._execute(Returns(), silence, [])
                self._calls = CallCache(constant=True)
            elif can_cache:
                self._operands.speculate(self, torch.device("cpu"))

    def _sources(self) -> list[Tensor]:
        return [t for t in (*self._parameters.values(), *self._buffers.values()) if t is not None]

    def _device(self) -> torch.device | None:
        """Where the parameters are, None where there are none."""
        return self._store.device if self._store.frozen else next((t.device for t in self._sources()), None)


def _restored(cls: type[Executor], arguments: tuple[Any, ...], settings: Any, device: Any) -> Executor:
    """A network from `Executor.__reduce__`. device: of the constants of a frozen one."""
    net = cls.__new__(cls)
    Executor.__init__(net, *arguments, **settings)
    return net if device is None else net.to(device)
