"""`trace`: a torch model as it is becomes a graph of NIR nodes and rectifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from neurocuda.convert import resample
from neurocuda.convert.editing import prune
from neurocuda.convert.fold import fold
from neurocuda.convert.operations import of_function, of_module
from neurocuda.convert.recording import Recorder, record
from neurocuda.convert.values import Builder, Call, Part, Signal, whole
from neurocuda.errors import ArgumentError, UnsupportedModuleError
from neurocuda.graph import Graph

_BATCH = 2


def trace(model: nn.Module, example: Tensor) -> Graph:
    """The network of `model` as it runs in eval mode, for samples of the shape of `example` [B, *shape].

    Nodes are those of NIR with float64 weights, named by the path of their module ("layer1.0.conv1", "layer1.0.relu#2"
    for a second call) or, for functions, as torch.fx names them; and `ReLU`, with `cap` for ReLU6 and clamp(0, cap).
    What a node takes is the sum of its edges, so a sum of the model makes no node. BatchNorm is folded in float64.
    Of several results each is an Output, "output.0", "output.key". The model is left as it is, in its mode.

    Raises `UnsupportedModuleError`, naming the module, for what has no meaning as a spiking network, and
    `ArgumentError` where the model does not take the example.
    """
    _check(model, example)
    frames = torch.cat([example[:1].detach()] * _BATCH)
    recorder, calls = record(model, frames)
    builder = Builder()
    _Walk(recorder, builder, ((_BATCH,),), tuple(example.shape[1:])).run(calls)
    graph = Graph(builder.nodes, tuple(builder.edges), source=type(model).__name__)
    return resample.lower(fold(prune(graph)))


def _check(model: object, example: object) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model: expected a torch.nn.Module, found a {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentError("model: expected a module of Python code, found TorchScript, which has none to follow")
    if not isinstance(example, Tensor) or example.dim() < 2 or 0 in example.shape:
        found = f"shape {tuple(example.shape)}" if isinstance(example, Tensor) else f"a {type(example).__name__}"
        raise ArgumentError(f"example: expected a tensor [B, *shape] of at least one sample, found {found}")
    if not example.is_floating_point():
        raise ArgumentError(f"example: expected a floating-point tensor, as the model takes it, found {example.dtype}")


@dataclass(frozen=True)
class _Refused:
    """What a call gave that the graph cannot hold. It is an error only if something depends on it."""

    error: UnsupportedModuleError


class _Walk:
    """Follows the recorded calls in order, and says of each what it is in the graph."""

    def __init__(
        self, recorder: Recorder, builder: Builder, leads: tuple[tuple[int, ...], ...], shape: tuple[int, ...]
    ) -> None:
        self.recorder, self.builder, self.leads, self.shape = recorder, builder, leads, shape
        self.signals: dict[fx.Node, Any] = {}

    def run(self, calls: fx.Graph) -> None:
        for name in ("input", "output"):  # modules of that name take another
            assert name not in self.builder.nodes
        for node in calls.nodes:
            if node.op == "placeholder":
                name, shape = self.builder.add("input", "Input", {}, (), self.shape)
                self.signals[node] = Signal((Part((name,), shape),), len(self.leads[0]))
            elif node.op == "get_attr":
                self.signals[node] = self.recorder.constant(node)
            elif node.op == "output":
                self._output(node)
            else:
                self.signals[node] = self._call(node)
                self._change_in_place(node)

    def _call(self, node: fx.Node) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), self.signals.__getitem__)
        for value in _leaves((args, kwargs)):
            if isinstance(value, _Refused):
                return value
        call = self._described(node)
        if not any(isinstance(value, Signal) for value in _leaves((args, kwargs))):
            return self.recorder.values[node]
        try:
            if node.op == "call_module":
                return of_module(call, self.recorder.root.get_submodule(str(node.target)), args, kwargs)
            return of_function(call, call.function, args, kwargs)
        except UnsupportedModuleError as error:
            return _Refused(error)
        except TypeError as error:
            return _Refused(call.refuse("arguments that are known here", f"{error}"))

    def _described(self, node: fx.Node) -> Call:
        path, value = self.recorder.paths[node], self.recorder.values[node]
        function = _function(node)
        if node.op == "call_module":
            name = path or type(self.recorder.root).__name__.lower()
            title = type(self.recorder.root.get_submodule(path)).__name__
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
            else:
                error = self._described(node).refuse("a change in place of a tensor that has no other view in use")
                self.signals[other] = _Refused(error)

    def _is_in_place(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(self.recorder.root.get_submodule(str(node.target)), "inplace", False))
        name = _function(node)
        return name in ("iadd", "isub", "imul", "itruediv") or name.endswith("_") or bool(node.kwargs.get("inplace"))

    def _output(self, node: fx.Node) -> None:
        for name, result in _named("output", node.args[0]):
            value = self.signals.get(result) if isinstance(result, fx.Node) else result
            if isinstance(value, _Refused):
                raise value.error
            shape = tuple(value.shape)
            call = Call(self.builder, name, "", "the result", name, shape, None, self.leads, True)
            if not isinstance(value, Signal):
                raise call.refuse("results that depend on the input", f"a {type(value).__name__}")
            if value.lead != len(self.leads[0]):
                raise call.refuse("results with the axes of the input before those of a sample")
            (part,) = whole(call, value).parts
            self.builder.add(name, "Output", {}, part.sources, part.shape)


def _function(node: fx.Node) -> str:
    """The name of a function or method, without its module."""
    if isinstance(node.target, str):
        return node.target
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target.overloadpacket.__name__)
    name: str = getattr(node.target, "__name__", str(node.target))
    return node._pretty_print_target(node.target).rpartition(".")[2] if name == "fn" else name


def _share(a: Any, b: Any) -> bool:
    both = isinstance(a, Tensor) and isinstance(b, Tensor)
    return both and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [leaf for entry in value for leaf in _leaves(entry)]
    if isinstance(value, Mapping):
        return [leaf for entry in value.values() for leaf in _leaves(entry)]
    return [value]


def _named(name: str, value: Any) -> list[tuple[str, Any]]:
    """The results of a model by the names of their Outputs; None is no result."""
    if isinstance(value, tuple | list):
        return [pair for number, entry in enumerate(value) for pair in _named(f"{name}.{number}", entry)]
    if isinstance(value, Mapping):
        return [pair for key, entry in value.items() for pair in _named(f"{name}.{key}", entry)]
    return [] if value is None else [(name, value)]
