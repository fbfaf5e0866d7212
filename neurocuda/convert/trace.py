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
from neurocuda.nn import Neuron, PerStep

_STEPS, _BATCH = 3, 2
"""What the model is run with: sizes that are told from each other, and from 1."""


def trace(model: nn.Module, example: Tensor) -> Graph:
    """The network of `model` as it runs in eval mode, for samples of the shape of `example` [B, *shape].

    A model of `neurocuda.nn` neurons takes an example [T, B, *shape]; `PerStep(layer)` is the layer, a neuron its node.

    Nodes are those of NIR with float64 weights, named by the path of their module ("layer1.0.conv1", "layer1.0.relu#2"
    for a second call) or, for functions, as torch.fx names them; and `ReLU`, with `cap` for ReLU6 and clamp(0, cap).
    What a node takes is the sum of its edges, so a sum of the model makes no node. BatchNorm is folded in float64.
    Of several results each is an Output, "output.0", "output.key". The model is left as it is, in its mode.

    Raises `UnsupportedModuleError`, naming the module, for what has no meaning as a spiking network, and
    `ArgumentError` where the model does not take the example.
    """
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


@dataclass(frozen=True)
class _Refused:
    """What a call gave that the graph cannot hold. It is an error only if something depends on it."""

    error: UnsupportedModuleError


class _Walk:
    """Follows the recorded calls in order, and says of each what it is in the graph."""

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
            else:
                error = self._described(node).refuse("a change in place of a tensor that has no other view in use")
                self.signals[other] = _Refused(error)

    def _is_in_place(self, node: fx.Node) -> bool:
        if node.op == "call_module":
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
