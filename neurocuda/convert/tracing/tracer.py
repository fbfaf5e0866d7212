"""`trace`: a torch model as a graph, by `torch.fx`; its rectifiers as nodes of type ReLU, all else as NIR."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from neurocuda.convert.tracing.fold_batchnorm import fold
from neurocuda.convert.tracing.functions import FUNCTIONS, IN_PLACE, METHODS
from neurocuda.convert.tracing.modules import layer
from neurocuda.convert.tracing.symbolic import BATCH, STEPS, Call, Part, Sketch, Value, fresh, unsupported
from neurocuda.errors import ArgumentError, NeuroCUDAError
from neurocuda.graph import Graph
from neurocuda.nn import Neuron, PerStep

_REMEDIES = (
    ("gelu silu swish mish elu selu celu softplus leaky prelu glu logsigmoid", "nn.ReLU, and train the model with it"),
    ("attention transformer matmul bmm einsum", "convolutions and linear layers, whose weights are constant"),
    ("sigmoid tanh softsign erf", "nn.ReLU; after the last layer nothing, as scores order the classes alike"),
    ("lstm gru rnn", "the neurons of neurocuda.nn, which have a state"),
    ("layernorm layer_norm groupnorm group_norm instancenorm instance_norm responsenorm", "BatchNorm"),
    ("softm", "remove it if it is the last, as scores order the classes alike; otherwise nn.ReLU"),
    ("transpose permute", "the axes [B, channels, rows, columns] throughout"),
    ("chunk split unbind narrow select", "a layer for each part"),
    ("rand noise bernoulli normal_", "nothing of chance in eval mode"),
)
_KNOWN = "convolutions, linear layers, BatchNorm, ReLU, sums, pools and concatenations"

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


def trace(model: nn.Module, example: Tensor) -> Graph:
    """The graph of `model` in eval mode.

    example: a batch [B, *shape], or [T, B, *shape] for a model with neurons of `neurocuda.nn`; only its shape is
    used. Nodes are NIR primitives with float64 weights, named after the modules, BatchNorm folded into the weights,
    and `ReLU` nodes (`cap` is their upper bound, if they have one). Several results, as a tuple or a dict,
    are the Outputs "output.0" or "output.<key>". The model, its parameters, buffers and mode, is left as it is.

    Raises `UnsupportedModuleError`, which names the module and what to use instead, for what has no meaning in a
    spiking network or cannot be followed by `torch.fx`, `ArgumentError` for an example that does not fit.
    """
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


def _in_place(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    """The method of a proxy that records an in-place operator."""
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


class _Proxy(fx.Proxy):
    """A proxy whose `x += y` changes x, as that of a tensor does, and that passes for a tensor in `isinstance`."""

    _is_param = False
    __class__ = property(lambda self: Tensor)

    __iadd__, __isub__, __imul__, __itruediv__ = map(
        _in_place, (operator.iadd, operator.isub, operator.imul, operator.itruediv)
    )


class _Tracer(fx.Tracer):
    """fx's tracer; it stops at supported layers, and tracks the path of the current module."""

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

    def create_arg(self, a: Any) -> Any:
        return a.node if issubclass(type(a), fx.Proxy) else super().create_arg(a)


@dataclass(frozen=True)
class _Walk:
    """Interprets a module call by call.

    `prefix` is the path of the module in the model, `borrowed` the storage of an input that the caller may still read.
    """

    sketch: Sketch
    root: nn.Module
    prefix: str = ""
    borrowed: object = None

    def run(self, x: Value) -> Any:
        """The output of the module for x, with Values in place of tensors."""
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
        inputs = iter([x, *defaults.values()])
        for node in graph.nodes:
            if node.op == "placeholder":
                rest: Any = {} if str(node.target).startswith("**") else ()
                env[node] = rest if str(node.target).startswith("*") else next(inputs)
            elif node.op == "get_attr":
                env[node] = operator.attrgetter(str(node.target))(root)
            elif node.op == "output":
                return fx.node.map_arg(node.args[0], env.__getitem__)
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
                call.refuse("it has no meaning in a spiking network", _instead(what))
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
                call.path, call.what, f"its arguments are not supported ({_line(error)})", "its plain form"
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
        """Replaces a tensor that was changed in place, under all its names."""

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
            call.refuse("it has no meaning in a spiking network", _instead(call.what))
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


def _run_hooks(call: Call, module: nn.Module) -> None:
    """Runs torch's own hooks that compute weights; refuses all others, whose effect is unknown."""
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__.startswith("torch.nn.utils"):
            hook(module, ())
        else:
            call.refuse("it has a hook, whose effect is unknown", "remove the hook")
    if module._forward_hooks:
        call.refuse("it has a hook, whose effect is unknown", "remove the hook")


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
    """The result of a function, or of a method of the first argument, whose arguments are no signals."""
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


def _instead(what: str) -> str:
    """What to use instead of a layer or function of that name."""
    name = what.lower()
    return next((advice for words, advice in _REMEDIES if any(word in name for word in words.split())), _KNOWN)
