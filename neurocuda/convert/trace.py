"""`trace`: a torch model as a graph, by `torch.fx`; its rectifiers as nodes of type ReLU, all else as NIR."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from neurocuda.convert.advice import instead
from neurocuda.convert.fold import fold
from neurocuda.convert.functions import FUNCTIONS, IN_PLACE, METHODS
from neurocuda.convert.modules import layer
from neurocuda.convert.values import BATCH, STEPS, Call, Part, Sketch, Value, fresh, unsupported
from neurocuda.errors import ArgumentError, NeuroCUDAError
from neurocuda.graph import Graph
from neurocuda.nn import Neuron, PerStep

<<<<<<< HEAD
_STEPS, _BATCH = 3, 2
"""What the model is run with: sizes that are told from each other, and from 1."""
=======
_PATH = "neurocuda_path"
_PLAIN = (int, float, bool, str, type(None))
_INPUT = "input"
_WRAPPERS = {
    "DataParallel": "its `module`",
    "DistributedDataParallel": "its `module`",
    "OptimizedModule": "the model that was compiled",
    "RecursiveScriptModule": "the model that was scripted",
    "TopLevelTracedModule": "the model that was traced",
}
>>>>>>> convert


def trace(model: nn.Module, example: Tensor) -> Graph:
    """The graph of what `model` computes in eval mode.

<<<<<<< HEAD
    A model of `neurocuda.nn` neurons takes an example [T, B, *shape]; `PerStep(layer)` is the layer, a neuron its node.

    Nodes are those of NIR with float64 weights, named by the path of their module ("layer1.0.conv1", "layer1.0.relu#2"
    for a second call) or, for functions, as torch.fx names them; and `ReLU`, with `cap` for ReLU6 and clamp(0, cap).
    What a node takes is the sum of its edges, so a sum of the model makes no node. BatchNorm is folded in float64.
    Of several results each is an Output, "output.0", "output.key". The model is left as it is, in its mode.
=======
    example: a batch [B, *shape], or [T, B, *shape] where the model holds neurons of `neurocuda.nn`; its shape alone
    counts. Nodes are NIR primitives with float64 weights, named after the modules, BatchNorm taken into the weights,
    and `ReLU` nodes (`cap` is their upper bound, if they have one). Several results, as a tuple or a dict,
    are the Outputs "output.0" or "output.<key>". The model, its parameters, buffers and mode, is left as it is.
>>>>>>> convert

    Raises `UnsupportedModuleError`, which names the module and what to use instead, for what has no meaning in a
    spiking network or cannot be followed by `torch.fx`, `ArgumentError` for an example that does not fit.
    """
<<<<<<< HEAD
    timed = isinstance(model, nn.Module) and any(isinstance(module, Neuron | PerStep) for module in model.modules())
    _check(model, example, timed)
    first = example.detach()[(slice(1),) * (1 + timed)]
    sizes = (_STEPS, _BATCH) if timed else (_BATCH,)
    sample = tuple(first.shape[len(sizes) :])
    recorder, calls = record(model, first.repeat(*sizes, *[1] * len(sample)))
    walk = _Walk(recorder, calls, ((_STEPS * _BATCH,), sizes) if timed else (sizes,), len(sizes), sample)
    walk.run()
    graph = Graph(walk.builder.nodes, tuple(walk.builder.edges), source=type(model).__name__)
    return resample.lower(fold(prune(graph)))


def _check(model: object, example: object, timed: bool) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model: expected a torch.nn.Module, found a {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentError("model: expected a module of Python code, found TorchScript, which has none to follow")
    if not isinstance(example, Tensor) or example.dim() < 2 + timed or 0 in example.shape:
        found = f"shape {tuple(example.shape)}" if isinstance(example, Tensor) else f"a {type(example).__name__}"
        axes = "[T, B, *shape]" if timed else "[B, *shape]"
        raise ArgumentError(f"example: expected a tensor {axes} of at least one sample, found {found}")
    if not example.is_floating_point():
        raise ArgumentError(f"example: expected a floating-point tensor, as the model takes it, found {example.dtype}")
=======
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model: expected a torch.nn.Module, found a {type(model).__name__}")
    neurons = any(isinstance(module, Neuron | PerStep) for module in model.modules())
    lead = (STEPS, BATCH) if neurons else (BATCH,)
    axes = "[T, B, *shape]" if neurons else "[B, *shape]"
    if not isinstance(example, Tensor) or example.dim() <= len(lead):
        found = f"shape {tuple(example.shape)}" if isinstance(example, Tensor) else f"a {type(example).__name__}"
        raise ArgumentError(f"example: expected a tensor {axes}, found {found}")
    shape = tuple(example.shape[len(lead) :])
    if 0 in shape:
        raise ArgumentError(f"example: expected a tensor {axes} with at least one element a sample, found {shape}")
    sketch = Sketch()
    x = Value((sketch.add(_INPUT, "Input", {}, Part((), shape)),), shape, lead)
    result = _Walk(sketch, _copied(model)).run(x)
    _write_outputs(sketch, result, lead)
    fold(sketch)
    return sketch.graph(type(model).__name__)


def _copied(model: nn.Module) -> nn.Module:
    """A copy of the model for the tracer to run, in eval mode and float64."""
    for kind, inner in _WRAPPERS.items():
        if type(model).__name__ == kind:
            raise unsupported("", kind, "it wraps a model", inner)
    try:
        return copy.deepcopy(model).eval().double()
    except Exception as error:
        raise unsupported("", type(model).__name__, f"it cannot be copied ({error})", "modules that can be") from None


class _Proxy(fx.Proxy):
    """A proxy whose `x += y` changes x, as that of a tensor does."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    """fx's tracer; it stops at known layers, and knows in which module it is."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = [""]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, Neuron | PerStep) or layer(m) is not None:
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.paths.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.paths.pop()
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta[_PATH] = self.paths[-1]
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)
>>>>>>> convert


@dataclass(frozen=True)
class _Walk:
    """Goes through a module call by call.

<<<<<<< HEAD
    def __init__(
        self, recorder: Recorder, calls: fx.Graph, leads: tuple[tuple[int, ...], ...], lead: int, shape: tuple[int, ...]
    ) -> None:
        self.recorder, self.calls, self.leads, self.lead, self.shape = recorder, calls, leads, lead, shape
        self.results = _named("output", next(iter(calls.find_nodes(op="output"))).args[0])
        self.builder = Builder(["input", *(name for name, _ in self.results)])  # modules of these names take another
        self.signals: dict[fx.Node, Any] = {}

    def run(self) -> None:
        for node in self.calls.nodes:
            if node.op == "placeholder":
                name, shape = self.builder.add("input", "Input", {}, (), self.shape)
                self.signals[node] = Signal((Part((name,), shape),), self.lead)
            elif node.op == "get_attr":
                self.signals[node] = self.recorder.constant(node)
            elif node.op == "output":
                for name, result in self.results:
                    self._output(name, result)
            else:
                self.signals[node] = self._call(node)
                self._change_in_place(node)

    def _call(self, node: fx.Node) -> Any:
        args: Any = map_arg(node.args, self.signals.__getitem__)
        kwargs: Any = map_arg(node.kwargs, self.signals.__getitem__)
        leaves = _leaves((args, kwargs))
        refused = next((value for value in leaves if isinstance(value, _Refused)), None)
        if refused is not None:
            return refused
        if not any(isinstance(value, Signal) for value in leaves):
            return self.recorder.values[node]
        call = self._described(node)
        if call.function == "getitem" and isinstance(args[0], tuple | list | dict):
            return args[0][args[1]]
        try:
            if node.op == "call_module":
                return of_module(call, self._module(node), args, kwargs)
            return of_function(call, args, kwargs)
        except UnsupportedModuleError as error:
            return _Refused(error)

    def _described(self, node: fx.Node) -> Call:
        path, value = self.recorder.paths[node], self.recorder.values[node]
        function = _function(node)
        if node.op == "call_module":
            name = self._without_wrappers(path) or type(self.recorder.root).__name__.lower()
            title = type(self._module(node)).__name__
        else:
            name, title = node.name, f"{function}()"
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        dtype = value.dtype if isinstance(value, Tensor) else None
        last = all(user.op == "output" for user in node.users)
        return Call(self.builder, name, path, title, function, shape, dtype, self.leads, last)

    def _change_in_place(self, node: fx.Node) -> None:
        """What a call changed in place is from now on what it gave."""
        target = node.args[0] if node.args else None
        if not isinstance(target, fx.Node) or not self._is_in_place(node):
            return
        changed = self.recorder.values[target]
        for other, value in self.recorder.values.items():
            if other is node or other not in self.signals or not _share(changed, value):
                continue
            if value.shape == changed.shape and value.stride() == changed.stride():
                self.signals[other] = self.signals[node]
=======
    `prefix` is the path of the module in the model, `borrowed` the storage of an input that others may use still.
    """

    sketch: Sketch
    root: nn.Module
    prefix: str = ""
    borrowed: object = None

    def run(self, x: Value) -> Any:
        """What the module returns for x, Values in place of tensors."""
        root = self.root
        if "forward" in vars(root) or root._forward_hooks or root._forward_pre_hooks:
            what = type(root).__name__
            raise unsupported(self.prefix, what, "it has a hook or a forward of its own", "the model without")
        if isinstance(root, Neuron | PerStep) or layer(root) is not None:
            root = nn.Sequential(root)
        tracer = _Tracer()
        try:
            defaults = _defaults(root)
            graph = tracer.trace(root, concrete_args=defaults)
        except NeuroCUDAError:
            raise
        except Exception as error:
            path = self._path(tracer.paths[-1])
            module = root.get_submodule(tracer.paths[-1])
            raise unsupported(
                path,
                type(module).__name__,
                f"torch.fx cannot follow it ({_line(error)})",
                "layers that are attributes, and a forward whose course does not depend on values or shapes of tensors",
            ) from error
        env: dict[fx.Node, Any] = {}
        order = {node: number for number, node in enumerate(graph.nodes)}
        given = iter([x, *defaults.values()])
        for node in graph.nodes:
            if node.op == "placeholder":
                rest: Any = {} if str(node.target).startswith("**") else ()
                env[node] = rest if str(node.target).startswith("*") else next(given)
            elif node.op == "get_attr":
                env[node] = operator.attrgetter(str(node.target))(root)
            elif node.op == "output":
                return fx.node.map_arg(node.args[0], env.__getitem__)
>>>>>>> convert
            else:
                self._call(node, root, env, order)
        raise AssertionError("a graph of fx ends in an output")

    def _path(self, path: str) -> str:
        return ".".join(part for part in (self.prefix, path) if part)

    def _call(self, node: fx.Node, root: nn.Module, env: dict[fx.Node, Any], order: Mapping[fx.Node, int]) -> None:
        args = fx.node.map_arg(node.args, env.__getitem__)
        kwargs = dict(fx.node.map_arg(node.kwargs, env.__getitem__))
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        if "other" in kwargs:
            args = (*args, kwargs.pop("other"))
        if node.op == "call_module":
<<<<<<< HEAD
            return bool(getattr(self._module(node), "inplace", False))
        name = _function(node)
        return name in ("iadd", "isub", "imul", "itruediv") or name.endswith("_") or bool(node.kwargs.get("inplace"))

    def _output(self, name: str, result: Any) -> None:
        value = self.signals[result] if isinstance(result, fx.Node) else result
        if isinstance(value, _Refused):
            raise value.error
        call = Call(self.builder, name, "", "the result", name, (), None, self.leads, True)
        if not isinstance(value, Signal):
            raise call.refuse("results that are tensors and depend on the input", f"a {type(value).__name__}")
        if value.lead != self.lead:
            raise call.refuse("results with the axes of the input before those of a sample")
        (part,) = whole(call, value).parts
        self.builder.add(name, "Output", {}, part.sources, part.shape)

    def _module(self, node: fx.Node) -> nn.Module:
        return self.recorder.root.get_submodule(str(node.target))

    def _without_wrappers(self, path: str) -> str:
        """The path of a module, PerStep left out."""
        module, kept = self.recorder.root, []
        for name in path.split(".") if path else ():
            if not isinstance(module, PerStep):
                kept.append(name)
            module = module.get_submodule(name)
        return ".".join(kept)


def _function(node: fx.Node) -> str:
    """The name of a function or method of torch; of any other with its module before it."""
    target: Any = node.target
    if isinstance(target, str):
        return target
    exported = isinstance(target, torch._ops.OpOverload)
    name: str = target.overloadpacket.__name__ if exported else getattr(target, "__name__", str(target))
    module: str | None = None if exported else getattr(target, "__module__", None)
    if module is not None and module.partition(".")[0] not in ("torch", "torchvision", "_operator", "builtins"):
        return f"{module}.{name}"
    if name == "fn":  # one of two that torch.nn.functional chooses between by return_indices
        return node.name.rstrip("_0123456789")
    if name == "batch_norm" and module != "torch.nn.functional":
        return "torch.batch_norm"  # which has its arguments in another order
    return name
=======
            module = root.get_submodule(str(node.target))
            path = self._path(str(node.target))
            call = Call(self.sketch, path, path, type(module).__name__)
            in_place = bool(getattr(module.module if isinstance(module, PerStep) else module, "inplace", False))
            operation = self._layer(call, module)
        else:
            path = self._path(node.meta.get(_PATH, ""))
            target = node.target if callable(node.target) else None
            what = str(node.target) if target is None else getattr(target, "__name__", str(target))
            call = Call(self.sketch, self._path(node.name), path, what)
            if not any(isinstance(value, Value) for value in _leaves([args, kwargs])):
                env[node] = self._result(call, lambda _, *a, **k: _constant(target, what, *a, **k), args, kwargs)
                return
            if _holds(target, args):
                env[node] = target(*args, **kwargs) if target else None
                return
            plain = what[:-1] if what.endswith("_") and not what.endswith("__") else what
            found = METHODS.get(plain) if target is None else FUNCTIONS.get(target)
            if found is None:
                call.refuse("it has no meaning in a spiking network", instead(what))
            operation = found
            in_place = plain != what if target is None else target in IN_PLACE
        result = self._result(call, operation, args, kwargs)
        first = args[0] if args else None
        if (in_place or kwargs.get("inplace") is True) and isinstance(first, Value) and isinstance(result, Value):
            result = replace(result, storage=first.storage)
            self._rebind(call, node, first, result, env, order)
        env[node] = result

    def _result(self, call: Call, operation: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return operation(call, *args, **kwargs)
        except NeuroCUDAError:
            raise
        except TypeError as error:
            raise unsupported(
                call.path, call.what, f"it is called in an unknown way ({_line(error)})", "its plain form"
            ) from error
        except (RuntimeError, LookupError, ValueError, AssertionError) as error:
            where = f"module {call.path!r}, {call.what}"
            raise ArgumentError(
                f"example: expected a shape that fits the model, found that {where} fails: {_line(error)}"
            ) from error

    def _rebind(
        self,
        call: Call,
        node: fx.Node,
        before: Value,
        after: Value,
        env: dict[fx.Node, Any],
        order: Mapping[fx.Node, int],
    ) -> None:
        """All names of a tensor see what was done to it in place."""

        def renewed(leaf: Any) -> Any:
            return after if leaf is before else leaf

        for other, value in env.items():
            if any(leaf is before for leaf in _leaves(value)):
                env[other] = fx.node.map_aggregate(value, renewed)
            elif isinstance(value, Value) and value.storage is before.storage:
                self._refuse_late_use(call, any(order[user] > order[node] for user in other.users))
        self._refuse_late_use(call, before.storage is self.borrowed)

    def _refuse_late_use(self, call: Call, late: bool) -> None:
        if late:
            call.refuse("it changes in place a tensor of which a view is used later", "its form that is not in place")

    def _layer(self, call: Call, module: nn.Module) -> Callable[..., Any]:
        """What a module does to Values."""
        _run_hooks(call, module)
        if isinstance(module, PerStep):
            return lambda call, x: self._per_step(call, module, x)
        if isinstance(module, Neuron):
            return lambda call, x, *args, **kwargs: _neuron(call, module, x, *args, **kwargs)
        operation = layer(module)
        if operation is None:
            call.refuse("it has no meaning in a spiking network", instead(call.what))
        known = operation
        return lambda call, *args, **kwargs: known(call, module, *args, **kwargs)

    def _per_step(self, call: Call, module: PerStep, x: Value) -> Any:
        if len(x.lead) != 2:
            call.refuse("it takes a signal over time [T, B, ...], found frames", "the layer without PerStep")
        frames = replace(x, lead=(x.lead[0] * x.lead[1],))
        inner = module.module
        if layer(inner) is not None or isinstance(inner, Neuron | PerStep):
            own = replace(call, what=type(inner).__name__)
            y = self._result(own, self._layer(own, inner), (frames,), {})
        else:
            y = _Walk(self.sketch, inner, call.path, x.storage).run(frames)
        if not isinstance(y, Value) or y.lead != frames.lead:
            call.refuse("its layer does not return one tensor of the same frames", "a layer that does")
        return replace(y, lead=x.lead)


def _neuron(call: Call, module: Neuron, x: Value, *args: Any, **kwargs: Any) -> Value:
    if any(value is not None and value is not False for value in (*args, *kwargs.values())):
        call.refuse("its state is passed by hand", "let it keep its own state (it starts at rest)")
    if len(x.lead) != 2:
        call.refuse("it takes a signal over time [T, B, ...], found frames", "leave neurons outside of PerStep")
    x = call.whole(x)
    node = module.node(call.sketch.unused(call.name), x.shape)
    return fresh(x, [call.sketch.put(node, x.parts[0].sources)], x.shape)
>>>>>>> convert


def _run_hooks(call: Call, module: nn.Module) -> None:
    """Hooks of torch's own that compute weights are run; others could do anything."""
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__.startswith("torch.nn.utils"):
            hook(module, ())
        else:
            call.refuse("it has a hook, which could do anything", "remove the hook")
    if module._forward_hooks:
        call.refuse("it has a hook, which could do anything", "remove the hook")


def _defaults(root: nn.Module) -> dict[str, Any]:
    """The defaults of all arguments of forward but the first."""
    parameters = list(inspect.signature(root.forward).parameters.values())
    defaults = {}
    for parameter in parameters[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not isinstance(parameter.default, _PLAIN):
            raise ArgumentError(
                f"model: expected a forward that takes one tensor, found the argument {parameter.name!r} too"
            )
        defaults[parameter.name] = parameter.default
    return defaults


def _constant(function: Callable[..., Any] | None, method: str, *args: Any, **kwargs: Any) -> Any:
    """What a function or a method of the first argument gives for arguments that are no signals."""
    return function(*args, **kwargs) if function else getattr(args[0], method)(*args[1:], **kwargs)


def _holds(function: Callable[..., Any] | None, args: Any) -> bool:
    """Whether a function puts signals into a tuple or takes one out of it."""
    if isinstance(function, type) and issubclass(function, tuple):
        return True
    return function is operator.getitem and not isinstance(args[0], Value)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _write_outputs(sketch: Sketch, result: Any, lead: tuple[int, ...]) -> None:
    for name, value in _named_outputs("output", result):
        call = Call(sketch, name, "", f"the result {name!r}")
        if not isinstance(value, Value):
            call.refuse(
                f"it is a {type(value).__name__} that does not depend on the input", "return tensors of it alone"
            )
        if value.lead != lead:
            call.refuse("it does not have the axes of time and batch that the input has", "keep them the first axes")
        sketch.add(name, "Output", {}, call.whole(value).parts[0])


def _named_outputs(name: str, result: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(result, Mapping):
        for key, value in result.items():
            yield from _named_outputs(f"{name}.{key}", value)
    elif isinstance(result, list | tuple):
        for number, value in enumerate(result):
            yield from _named_outputs(f"{name}.{number}", value)
    else:
        yield name, result
