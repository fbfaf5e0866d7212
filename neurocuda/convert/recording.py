"""A model run once under `torch.fx`: its calls in order, with the tensors that they really gave.

Shapes, sizes and types are those of a real run, so that code that looks at them goes its usual way. Code that looks at
values is refused: which way it goes would depend on the example.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from neurocuda.errors import ArgumentError, NeuroCUDAError, UnsupportedModuleError
from neurocuda.nn import Neuron

_VALUES = "a way through the model that is the same for all samples"
_TELLING = frozenset("item tolist numpy equal allclose is_nonzero __array__".split())
"""Functions and methods whose result is told by the values of a tensor, not by its shape or type."""


class Recorder(fx.Tracer):
    """Records the calls of a model; `values` is what each gave, `paths` the module in which it stands."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example = example
        self.values: dict[fx.Node, Any] = {}
        self.paths: dict[fx.Node, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        of_torch = type(m).__module__.startswith(("torch.nn.", "torch.ao."))
        return isinstance(m, Neuron) or (of_torch and not isinstance(m, nn.Sequential))

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val  # parameters are themselves: what is made of them alone is a constant

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Recorded(node, self)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        return lambda model, x: model(x), [self.root, self.create_proxy("placeholder", "input", (), {})]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if not _holds_recorded((args, kwargs)):
            return forward(*args, **kwargs)  # of constants alone
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, Recorded) and result.node.op == "call_module" and result.node not in self.values:
            path = str(result.node.target)
            self.paths[result.node] = path
            self._keep(result.node, path, lambda: self._of_leaf(m, path, forward, *self._real(result.node)))
        return result

    def create_proxy(self, kind: str, target: Any, *rest: Any, **options: Any) -> Any:
        proxy = super().create_proxy(kind, target, *rest, **options)
        node = proxy.node
        self.paths[node] = path = self.scope.module_path
        if kind == "placeholder":
            self.values[node] = self.example
        elif kind in ("call_function", "call_method"):
            if getattr(target, "__name__", target) in _TELLING:
                raise refused(path, _VALUES, "the values of a tensor taken as numbers")
            args, kwargs = self._real(node)
            self._keep(node, path, lambda: _called(target, args, kwargs))
            if not _holds_tensors(self.values[node]):
                self.graph.erase_node(node)  # told by shapes and types alone, it is what it is
                return self.values.pop(node)
        return proxy

    def path_of_module(self, mod: nn.Module) -> str:
        return "" if mod is self.root else super().path_of_module(mod)

    def create_arg(self, a: Any) -> Any:
        if issubclass(type(a), fx.Proxy):
            return a.node
        try:
            return super().create_arg(a)
        except NotImplementedError:
            raise refused(self.scope.module_path, "tensors and numbers as arguments", f"a {type(a).__name__}") from None

    def to_bool(self, obj: fx.Proxy) -> bool:
        raise refused(self.scope.module_path, _VALUES, "a decision by the values of a tensor (an if, say)")

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        value = self.values.get(obj.node)
        if isinstance(value, tuple | list):
            return iter([self.create_proxy("call_function", operator.getitem, (obj, n), {}) for n in range(len(value))])
        raise refused(self.scope.module_path, "operations on whole tensors", "a loop over the elements of one")

    def constant(self, node: fx.Node) -> Any:
        """What a get_attr node stands for."""
        value: Any = self.root
        for name in str(node.target).split("."):
            value = getattr(value, name)
        return value

    def _of_leaf(self, m: nn.Module, path: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        before = copy.deepcopy((args, kwargs)) if m._forward_hooks or m._forward_pre_hooks else None
        result = forward(*args, **kwargs)
        if before is not None:
            plain = m.forward(*before[0], **before[1])
            if isinstance(result, Tensor) and not (isinstance(plain, Tensor) and torch.equal(plain, result)):
                raise refused(path, "hooks that look and change nothing", f"one that changes what {_kind(m)} gives")
        return result

    def _real(self, node: fx.Node) -> Any:
        """The arguments of a call as they really are."""

        def real(argument: fx.Node) -> Any:
            return self.constant(argument) if argument.op == "get_attr" else self.values[argument]

        return map_arg(node.args, real), map_arg(node.kwargs, real)

    def _keep(self, node: fx.Node, path: str, compute: Callable[[], Any]) -> None:
        try:
            self.values[node] = compute()
        except NeuroCUDAError:
            raise
        except Exception as error:
            where = f"module {path!r}" if path else "model"
            expected = f"an example that the model takes, and a model that takes batches of {len(self.example)}"
            raise ArgumentError(f"{where}: expected {expected}, found {type(error).__name__}: {error}") from error


class Recorded(fx.Proxy):
    """What stands for a tensor while the model is recorded: its shape and type are real, its values are not told."""

    tracer: Recorder
    _is_param = False

    # so that isinstance(x, Tensor) in a model goes its usual way
    __class__ = property(lambda self: type(self.value))

    @property
    def value(self) -> Any:
        """What it stands for."""
        return self.tracer.values[self.node]

    def __getattr__(self, k: str) -> Any:
        found = getattr(self.value, k, None)
        return super().__getattr__(k) if found is None or callable(found) or isinstance(found, Tensor) else found

    def __len__(self) -> int:
        return len(self.value)

    def _told(self, *_: Any) -> Any:
        raise refused(self.tracer.scope.module_path, _VALUES, "the values of a tensor taken as numbers")

    __float__ = __int__ = __index__ = __contains__ = _told

    def __setitem__(self, key: Any, value: Any) -> None:
        raise refused(self.tracer.scope.module_path, "operations on whole tensors", "an assignment to a part of one")

    def _in_place(name: str) -> Any:  # type: ignore[misc]
        def change(self: Recorded, other: Any) -> Any:
            return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

        return change

    __iadd__, __isub__, __imul__, __itruediv__ = map(_in_place, ("iadd", "isub", "imul", "itruediv"))


def record(model: nn.Module, example: Tensor) -> tuple[Recorder, fx.Graph]:
    """The calls of a copy of `model`, in eval mode, on `example`. The model is not touched."""
    own = _copy(model)
    with suppress(NotImplementedError):  # what torch.export gives knows no modes
        own.eval()
    try:
        inspect.signature(own.forward).bind(example)
    except TypeError as error:
        raise ArgumentError(f"model: expected a forward that takes one tensor, found that it {error}") from None
    recorder = Recorder(example)
    with torch.no_grad():
        try:
            graph = recorder.trace(own)
        except (NeuroCUDAError, RecursionError):
            raise
        except Exception as error:
            path = recorder.scope.module_path
            found = f"{type(error).__name__}: {error}"
            raise refused(path, "a forward that torch.fx can follow, of operations on whole tensors", found) from error
    return recorder, graph


def _copy(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # torch copies no others; weight_norm has some
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise ArgumentError(f"model: expected a module that copy.deepcopy copies, found {found}") from error


def refused(path: str, expected: str, found: str) -> UnsupportedModuleError:
    """The error for what cannot be recorded."""
    where = f"module {path!r}" if path else "model"
    return UnsupportedModuleError(f"{where}: expected {expected}, found {found}", path)


def _kind(m: nn.Module) -> str:
    return type(m).__name__


def _called(target: str | Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)


def _holds(value: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether something that fits is in a value, or in a list or a dictionary of them."""
    if fits(value):
        return True
    if issubclass(type(value), dict):
        return any(_holds(entry, fits) for entry in value.values())
    return issubclass(type(value), tuple | list) and any(_holds(entry, fits) for entry in value)


def _holds_recorded(value: Any) -> bool:
    return _holds(value, lambda entry: issubclass(type(entry), fx.Proxy))


def _holds_tensors(value: Any) -> bool:
    return _holds(value, lambda entry: isinstance(entry, Tensor))
