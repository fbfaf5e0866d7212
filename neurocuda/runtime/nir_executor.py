"""`Executor`: a NIR graph as a `torch.nn.Module` that runs over time, chunk by chunk, carrying its state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
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
from neurocuda.ops.backends import operators, unobserved
from neurocuda.runtime import arguments
from neurocuda.runtime.arguments import Signals
from neurocuda.runtime.capture.call_cache import CallCache, copied_to, own_memory
from neurocuda.runtime.guards import Guards, Speculation
from neurocuda.runtime.int8_layers import Int8Layers, Int8Weights
from neurocuda.runtime.interpreter import Plan, Returns, run_chunk, run_chunks
from neurocuda.runtime.operands import OperandBuilder, OperandCache, Operands
from neurocuda.runtime.parameters import Field, ParameterStore
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
    Parameters of neurons are float64 buffers that `.half()` and `.to(dtype)` leave alone. A frozen network has
    constants instead.

    Without gradients, a second call with the same shapes, strides and dtypes is captured, as a program on a CPU and as
    a CUDA graph on a GPU, and later calls replay it. A graph keeps memory for its inputs, its results and all in
    between; `cuda_graph = False` runs every GPU call operator by operator.

    Args:
        graph: The graph.
        discretization: What a time step means. Default: `Discretization()`.
        chunk: Time steps that run layer by layer at a time; None: see `load`.
        surrogate: The derivative of a spike. Default: `Surrogate()`.
        learn: Neuron parameters to train ("tau", "v_threshold", ...): parameters instead of buffers.
        force: "ordered", "library" or "integer" by layer, instead of the choice made when the network is loaded.
        input_grid: The grid of the inputs, one for all or by name. Default: the integers 0 .. 255.
        ordered: Sums every layer in the defined order.
        frozen: Makes constants of all parameters.

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
        arguments.check_settings(chunk, discretization, surrogate)
        learn = {learn} if isinstance(learn, str) else set(learn)
        if frozen and learn:
            raise ArgumentError(f"learn: expected nothing to learn in a frozen network, found {sorted(learn)}")
        names = ("force", "input_grid", "ordered", "frozen", "learn")
        self._settings = dict(zip(names, (force, input_grid, ordered, frozen, learn), strict=True))
        self.graph = graph
        self.discretization = Discretization() if discretization is None else discretization
        self.chunk = chunk
        self.surrogate = Surrogate() if surrogate is None else surrogate
        compiled = compile_graph(graph, self.discretization, input_grid=input_grid, force=force, ordered=ordered)
        self.certificate, self.schedule = compiled.certificate, compiled.schedule
        lazy = self.schedule.of_library if frozen else None
        self._store = ParameterStore(self, graph, self.discretization, learn, lazy)
        entries = state_shapes(graph, self.schedule.schedule, self._store.delay_counts)
        self._plan = Plan(
            graph, self.schedule, entries, graph.inputs, graph.outputs, bool(self.schedule.integer_layers)
        )
        self._int8 = Int8Layers(self.schedule, self.certificate, None if frozen else self._store.by_field(self))
        self._builder = OperandBuilder(self._store, self.schedule, self.discretization, self.surrogate)
        self._forget()
        self._prepare()

    def forward(
        self, x: Signals, state: State | None = None, *, out: Signals | None = None
    ) -> tuple[Tensor | dict[str, Tensor], State]:
        """Runs over the T time steps of x.

        Args:
            x: [T, B, *shape] of the Input, or a dict by name; float32, or a narrower dtype that is exact in it.
            state: What an earlier call returned; None for rest (all zero).
            out: float32 memory for the signals of the Output, without gradients.

        Returns:
            The signals of the Output [T, B, *shape] (a dict by name if there are several), and the state after the
            steps.

        Raises:
            ArgumentError: An input or an entry of the state does not fit.
        """
        return self._call(x, state, out, _OUTPUTS_AND_STATE)

    def output(
        self, x: Signals, state: State | None = None, *, out: Signals | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Runs as a call does, and returns the outputs alone. It takes less memory: no state is kept.

        Args:
            x: As of a call.
            state: As of a call.
            out: As of a call.

        Returns:
            The signals of the Output [T, B, *shape] (a dict by name if there are several).
        """
        return self._call(x, state, out, _OUTPUTS)[0]

    def _call(
        self, x: Signals, state: State | None, out: Signals | None, returns: Returns
    ) -> tuple[Tensor | dict[str, Tensor], State]:
        """`forward`; with an empty state where the sequence ends."""
        if self._store.frozen and torch.is_grad_enabled() and not arguments.requires_grad(x, state):
            with torch.no_grad():
                return self._call(x, state, out, returns)
        if out is None and isinstance(x, Tensor) and (self.cuda_graph or (x.is_cpu and not self._calls.simulated)):
            before = state.tensors if type(state) is State else None
            if state is None or before is not None:
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
            record: By node, such as {"lif1": ("spikes", "v")}. Any node has "input" (its sum) and "output"; IF, LIF,
            CubaLIF
                and Threshold have "spikes"; neurons "v" (after the reset), CubaLI and CubaLIF "i". Delays on the edges
                that leave a node do not count.
            out: As of a call.

        Returns:
            Outputs, state and recordings.

        Raises:
            ArgumentError: As a call, and for a node or quantity that does not exist.
        """
        if self._store.frozen and torch.is_grad_enabled() and not arguments.requires_grad(x, state):
            with torch.no_grad():
                return self.run(x, state, record, out=out)
        return self._run(x, state, out, Returns(arguments.quantities(self.graph, {} if record is None else record)))

    def _run(self, x: Signals, state: State | None, out: Signals | None, returns: Returns) -> RunResult:
        """`run`, with checked recordings."""
        plan = self._plan
        inputs = arguments.check_inputs(self.graph, plan.inputs, x, self._device())
        first = inputs[0]
        if state is not None:
            owed = {name: (first.shape[1], *shape) for name, shape in plan.entries.items()}
            check_state(state, owed, first.device)
        targets = arguments.check_out(self.graph, out, first) if out is not None else []
        before = [] if state is None else list(map(state.tensors.__getitem__, plan.entries))
        results = self._execute(returns, [*inputs, *before], targets)
        count = len(plan.outputs) + len(returns.recordings)
        outputs = dict(zip(plan.outputs, results, strict=False))
        recordings: dict[str, dict[str, Tensor]] = {}
        for (name, quantity), values in zip(returns.recordings, results[len(outputs) : count], strict=True):
            recordings.setdefault(name, {})[quantity] = values
        output = outputs if len(outputs) > 1 else next(iter(outputs.values()))
        after = {} if returns.ends else dict(zip(plan.entries, results[count:], strict=True))
        return RunResult(output, State(after), recordings)

    def _execute(self, returns: Returns, given: list[Tensor], out: list[Tensor]) -> list[Tensor]:
        """Outputs, recordings and the state after all steps, from the inputs and, unless from rest, the state before.

        Where nothing observes the operators, operands and int8 weights are cached and used speculatively; calls are
        captured chunk by chunk as programs on a CPU, and whole as a CUDA graph on a GPU.
        """
        plan, device, calls = self._plan, given[0].device, self._calls
        ops = operators(device)
        registered = self._store.is_registered(self)
        graph = self.cuda_graph and ops is not reference and registered
        graph = graph and (given[0].is_cuda or calls.simulated) and calls.can_capture(given)
        unwatched = (
            registered
            and ops is native
            and unobserved(given)
            and not (given[0].is_cuda and torch.cuda.is_current_stream_capturing())
        )
        inputs = dict(zip(plan.inputs, given, strict=False))
        for speculate in (*(True,) * _ATTEMPTS, False):
            sources = self._sources()  # before the operands: a thread may replace a parameter between the two
            cached = unwatched and speculate
            finite = arguments.start_finite_check(inputs) if graph or given[0].is_cuda else None
            operands = self._operands.speculate(self, device) if cached else None
            int8 = self._int8.speculate(inputs, self._by_field) if cached and plan.has_int8 else None
            values = None if operands is None else operands.value
            weights = None if int8 is None else int8.value
            function = partial(
                self._whole, returns, operands, weights, sources if cached and not graph else None, finite is not None
            )
            # A single operator needs no graph, and so no copies, unless its operands are computed beside it.
            single = graph and cached and not self.schedule.layered
            key = (returns, values, *(weights or ()))
            if values is not None and single and not weights:
                calls.refresh(sources)
                state = 0 if returns.ends else len(plan.entries)
                made = calls.run_program(key, function, given, state=state, constants=values.derived)
                results = copied_to(out, made or [])
            elif graph and not single:
                results = calls.run_graph(key, function, given, sources, out)
            else:
                results = copied_to(out, function(given))
            if finite is not None:
                finite()
            valid = [one.validate() for one in (operands, int8) if one is not None and one.validate is not None]
            if all(valid):
                break
        if graph and ops is native and self._is_guardable(returns):
            # The int8 kernel is no operator of torch: a program cannot record it.
            run = function if single and weights else calls.captured(key, given)
            if run is not None:
                guards = [one.guards for one in (operands, int8) if one is not None]
                calls.guard(returns.ends, run, given, [*plan.entries], sources, guards, self.schedule.by_library)
        return results

    def _is_guardable(self, returns: Returns) -> bool:
        """Whether `CallCache.replay` can run such a call: one signal in, one out."""
        return not returns.recordings and len(self._plan.inputs) == len(self._plan.outputs) == 1

    def profile(self, x: Tensor, state: State) -> list[tuple[str, float]]:
        """The operators of a call of one chunk, in order, and the nanoseconds of each.

        Args:
            x: As of a call that was captured: the third with its shapes, without gradients, on the native operators.
            state: As of a call.

        Returns:
            Pairs of a name and a time; [] if there is no captured call.
        """
        inputs = {self._plan.inputs[0]: x}
        weights = self._int8.of_chunk(self._int8.usable(inputs, self._by_field()), inputs)
        key = (Returns(), self._operands.operands, *weights)
        return self._calls.profile(key, [x, *(state.tensors[name] for name in self._plan.entries)])

    def _whole(
        self,
        returns: Returns,
        operands: Speculation[Operands] | None,
        int8: Int8Weights | None,
        sources: list[Tensor] | None,
        checked: bool,
        given: list[Tensor],
    ) -> list[Tensor]:
        """Runs all steps, chunk by chunk.

        Args:
            operands: None to build them from the parameters.
            int8: weights of the layers that run in integers; None to choose them for each chunk on a CPU.
            sources: the parameters, where chunks are captured as programs on a CPU, with cached operands.
            checked: whether the inputs are known to be finite, or a guard checks it.
        """
        plan = self._plan
        inputs = dict(zip(plan.inputs, given, strict=False))
        steps, batch = given[0].shape[:2]
        programs = sources is not None and given[0].is_cpu
        if programs:
            assert sources is not None
            self._calls.refresh(sources)
        elif not checked:
            arguments.check_finite(inputs)
        given = self._with_state(given)
        if steps == 0:
            shapes = plan.shapes_of(returns)
            nothing = [given[0].new_empty(0, batch, *shape, dtype=torch.float32) for shape in shapes]
            return nothing + ([] if returns.ends else [t.clone() for t in given[len(inputs) :]])
        built = self._builder.build(self, given[0].device) if operands is None else operands.value
        usable = self._int8.usable(inputs, self._by_field()) if programs and plan.has_int8 else {}
        length = steps_of_chunk(self.schedule, self.chunk, steps, batch, given[0].device)
        guardable = operands is not None and length >= steps and self._is_guardable(returns)

        def guarded(program: Any, weights: Int8Weights) -> None:
            assert operands is not None
            assert sources is not None
            names, promise = self._int8.guards(inputs, self._by_field()) if plan.has_int8 else ((), Guards())
            if names == tuple(weights):  # otherwise a later call may use more int8 weights
                guards = [operands.guards, promise]
                self._calls.guard(returns.ends, program, given, [*plan.entries], sources, guards)

        def run(part: list[Tensor], ends: bool) -> list[Tensor]:
            weights, values = int8 or {}, built
            if usable and int8 is None:
                weights = self._int8.of_chunk(usable, dict(zip(inputs, part, strict=False)))
            if weights:
                values = replace(built, int8=weights, bytes=self.schedule.bytes)
            chunk = Returns(returns.recordings, ends)
            function = partial(run_chunk, plan, values, chunk)
            state = 0 if ends else len(plan.entries)
            if not programs:
                return own_memory(function(part), part, state)
            made = self._calls.run_program(
                (chunk, built, *weights),
                function,
                part,
                finite=len(inputs),
                state=state,
                constants=built.derived,
                guard=partial(guarded, weights=weights) if guardable else None,
            )
            if made is None:
                arguments.check_finite(inputs)  # raises, and names the element
            assert made is not None
            return made

        if length >= steps:
            return run(given, returns.ends)
        return run_chunks(plan, returns, given, length, run, built.operators)

    def _with_state(self, given: list[Tensor]) -> list[Tensor]:
        """The inputs and the state; rest is one zero for all elements, as nothing is written into a state."""
        if len(given) > len(self._plan.inputs) or not self._plan.entries:
            return given
        zero, batch = torch.zeros((), device=given[0].device), given[0].shape[1]
        return [*given, *[zero.expand(batch, *shape) for shape in self._plan.entries.values()]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Graph, settings, parameters and what a user assigned. All else is computed: no file names its classes."""
        settings = {**self._settings, "chunk": self.chunk, "surrogate": self.surrogate}
        assigned = {key: value for key, value in self.__dict__.items() if key not in _COMPUTED}
        device = self._store.device if self._store.frozen else None
        return _restored, (type(self), (self.graph, self.discretization), settings, device), assigned

    def extra_repr(self) -> str:
        frozen = ", frozen" if self._store.frozen else ""
        return f"{self.graph.source}, {self.discretization}{frozen}\n{self.schedule}"

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
        """The name of a parameter or buffer.

        Args:
            node: A node.
            field: One of its fields.

        Returns:
            The name; None if the field has no parameter, or the network is frozen.
        """
        return self._store.name(node, field)

    def _forget(self) -> None:
        self._operands = OperandCache(self._builder)
        self._calls = CallCache(constant=self._store.frozen)

    def _prepare(self) -> None:
        """Builds the operands of a CPU, and prepacks a frozen network's weights by a step of silence."""
        silence = [torch.zeros(1, 1, *self.graph.nodes[name].output_shape, device="cpu") for name in self._plan.inputs]
        with torch.no_grad():
            if operators(torch.device("cpu")) is not native or not unobserved(silence):
                return
            if self._store.frozen:
                self._run(dict(zip(self._plan.inputs, silence, strict=True)), None, None, Returns())
                self._calls = CallCache(constant=True)
            else:
                self._operands.speculate(self, torch.device("cpu"))

    def _by_field(self) -> dict[Field, Tensor]:
        return self._store.by_field(self)

    def _sources(self) -> list[Tensor]:
        return [t for t in (*self._parameters.values(), *self._buffers.values()) if t is not None]

    def _device(self) -> torch.device | None:
        """Where the parameters are, None where there are none."""
        if self._store.constants is not None:
            return self._store.device
        return next((t.device for t in self._sources()), None)


def _restored(
    cls: type[Executor], arguments: tuple[Any, ...], settings: dict[str, Any], device: torch.device | None
) -> Executor:
    """A network from `Executor.__reduce__`. device: of the constants of a frozen one."""
    net = cls.__new__(cls)
    Executor.__init__(net, *arguments, **settings)
    return net if device is None else net.to(device)
