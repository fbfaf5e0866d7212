"""The functions and methods of torch that the tracer supports, as operations on Values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neurocuda.convert.tracing import layer_rules, pool_rules
from neurocuda.convert.tracing.max_pool import adaptive_max_pool, max_pool
from neurocuda.convert.tracing.symbolic import Call, Value

Operation = Callable[..., Any]

_WIDE = (torch.float32, torch.float64)


def _relu(call: Call, x: Value, inplace: bool = False) -> Value:
    return layer_rules.rectifier(call, x)


def _relu6(call: Call, x: Value, inplace: bool = False) -> Value:
    return layer_rules.rectifier(call, x, 6)


def _hardtanh(call: Call, x: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Value:
    return clamp(call, x, min_val, max_val)


def clamp(call: Call, x: Value, min: Any = None, max: Any = None) -> Value:
    if isinstance(min, Tensor | Value) or isinstance(max, Tensor | Value) or min is None or min != 0:
        call.refuse(f"it clamps at {min} from below", "clamp at 0, a ReLU")
    if max is not None and max <= 0:
        call.refuse(f"it clamps between 0 and {max}", "an upper bound > 0, or none")
    return layer_rules.rectifier(call, x, max)


def _constant(call: Call, x: Value, c: Any) -> np.ndarray:
    """A constant beside x as an array of the axes of a sample; a single value where all are the same."""
    if isinstance(c, bool) or not isinstance(c, int | float | Tensor):
        call.refuse(f"it takes a {type(c).__name__}", "numbers, tensors that are parameters or buffers, or signals")
    if not isinstance(c, Tensor):
        return np.array(float(c))
    shape = x.meta.shape
    sizes = zip(reversed(c.shape), reversed(shape), strict=False)
    if c.dim() > len(shape) or any(own not in (1, size) for own, size in sizes):
        call.refuse(f"a constant of shape {tuple(c.shape)} enlarges a signal {x.shape}", "a constant that fits")
    full = c.reshape((1,) * (len(shape) - c.dim()) + tuple(c.shape))
    lead = len(x.lead)
    if any(size != 1 for size in full.shape[:lead]):
        call.refuse("a constant differs between the samples of a batch", "the same constant for all samples")
    return layer_rules.array(full.reshape(full.shape[lead:]))


def _add(call: Call, x: Any, y: Any, *, alpha: Any = 1) -> Value:
    if isinstance(x, Value) and isinstance(y, Value):
        return layer_rules.add(call, x, y if alpha == 1 else _multiplied(call, y, alpha))
    if isinstance(x, Value):
        return layer_rules.affine(call, x, 1.0, _constant(call, x, y) * alpha)
    return layer_rules.affine(call, y, alpha, _constant(call, y, x))


def _sub(call: Call, x: Any, y: Any, *, alpha: Any = 1) -> Value:
    return _add(call, x, y, alpha=-alpha)


def _rsub(call: Call, x: Any, y: Any, *, alpha: Any = 1) -> Value:
    return _add(call, y, x, alpha=-alpha)


def _multiplied(call: Call, x: Value, factor: Any) -> Value:
    named = replace(call, name=f"{call.name}.scale")
    return layer_rules.affine(named, x, _constant(call, x, factor))


def _mul(call: Call, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and isinstance(y, Value):
        call.refuse("it multiplies two signals", "add them, or multiply by a constant (gates have no spiking form)")
    signal, factor = (x, y) if isinstance(x, Value) else (y, x)
    return layer_rules.affine(call, signal, _constant(call, signal, factor))


def _div(call: Call, x: Any, y: Any, *, rounding_mode: str | None = None) -> Value:
    if isinstance(y, Value) or rounding_mode is not None:
        call.refuse("it divides by a signal, or rounds", "divide by a constant")
    return layer_rules.affine(call, x, 1 / _constant(call, x, y))


def _neg(call: Call, x: Value) -> Value:
    return layer_rules.affine(call, x, -1.0)


def _maximum(call: Call, x: Any, y: Any) -> Value:
    if not (isinstance(x, Value) and isinstance(y, Value)):
        call.refuse("it takes the maximum with a constant", "a ReLU where the constant is zero")
    ahead = _sub(replace(call, name=f"{call.name}.difference"), y, x)
    return layer_rules.add(call, x, layer_rules.rectifier(call, ahead))


def softmax(call: Call, x: Value, *args: Any, **kwargs: Any) -> Value:
    call.refuse("it needs all of a layer at once", "remove it if it is the last: scores order the classes as it does")


def _dropout(call: Call, x: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    if training and p > 0:
        call.refuse("it is random even in eval mode", "pass training=self.training, or use a module of it")
    return x


def _conv(rank: int) -> Operation:
    def conv(call: Call, x: Value, weight: Tensor, *args: Any, **kwargs: Any) -> Value:
        if isinstance(weight, Value):
            call.refuse("its weights depend on the input", "weights that are parameters")
        if weight.dim() != rank + 2:
            raise ValueError(f"a weight of {rank + 2} axes is needed, found {tuple(weight.shape)}")
        return layer_rules.conv(call, x, weight, *args, **kwargs)

    return conv


def _linear(call: Call, x: Value, weight: Any, bias: Any = None) -> Value:
    if isinstance(weight, Value) or isinstance(bias, Value):
        call.refuse("its weights depend on the input", "weights that are parameters")
    return layer_rules.linear(call, x, weight, bias)


def ranked(pool: Operation, rank: int) -> Operation:
    """A pool over `rank` axes."""

    def operation(call: Call, x: Value, *args: Any, **kwargs: Any) -> Value:
        result: Value = pool(call, x, rank, *args, **kwargs)
        return result

    return operation


def _reshaping(name: str) -> Operation:
    def reshape(call: Call, x: Value, *args: Any, **kwargs: Any) -> Value:
        if any(isinstance(value, torch.dtype) for value in args):
            call.refuse("it reads the bits of a signal as another type", "its numbers")
        try:
            shape = getattr(x.meta, name)(*args, **kwargs).shape
        except RuntimeError:
            sizes = [size for value in args for size in (value if isinstance(value, Sequence) else [value])]
            call.refuse(
                f"the shape {sizes} does not fit a batch of samples of {x.shape}",
                "keep the batch the first axis, x.flatten(1) or x.view(x.size(0), -1)",
            )
        return layer_rules.reshaped(call, x, shape)

    return reshape


def _mean(call: Call, x: Value, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    axes = () if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    return pool_rules.mean(call, x, axes, keepdim)


def _sum(call: Call, x: Value, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    y = _mean(call, x, dim, keepdim)
    number = math.prod(x.shape) // math.prod(y.shape)
    return layer_rules.affine(replace(call, name=f"{call.name}.number"), y, float(number))


def _cat(call: Call, tensors: Sequence[Any], dim: int = 0, *, axis: int | None = None) -> Value:
    if not all(isinstance(value, Value) for value in tensors):
        call.refuse("it concatenates constants", "concatenate signals")
    return layer_rules.cat(call, tensors, dim if axis is None else axis)


def _same(call: Call, x: Value, *args: Any, **kwargs: Any) -> Value:
    return x


def _copied(call: Call, x: Value, *args: Any, **kwargs: Any) -> Value:
    return replace(x, storage=object())


def _to(call: Call, x: Value, *args: Any, **kwargs: Any) -> Value:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.dtype) and value not in _WIDE:
            call.refuse(f"it rounds a signal to {value}", "leave signals in float32")
    return x


def _size(call: Call, x: Value, dim: int | None = None) -> Any:
    return x.meta.shape if dim is None else x.meta.shape[dim]


def _getattr(call: Call, x: Value, name: str) -> Any:
    known = {"shape": x.meta.shape, "ndim": x.meta.dim(), "dtype": torch.float32, "device": torch.device("cpu")}
    if name not in known:
        call.refuse(f"it reads {name!r} of a signal", "the shape alone")
    return known[name]


def _dim(call: Call, x: Value) -> int:
    return x.meta.dim()


def _getitem(call: Call, x: Value, index: Any) -> Value:
    call.refuse("it takes out a part of a signal", "a layer that computes just that part")


METHODS: dict[str, Operation] = {
    **{name: _reshaping(name) for name in ("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten")},
    "relu": _relu,
    **dict.fromkeys(("clamp", "clip", "clamp_min"), clamp),
    "add": _add,
    **dict.fromkeys(("sub", "subtract"), _sub),
    **dict.fromkeys(("mul", "multiply"), _mul),
    **dict.fromkeys(("div", "divide"), _div),
    **dict.fromkeys(("neg", "negative"), _neg),
    "maximum": _maximum,
    "mean": _mean,
    "sum": _sum,
    **dict.fromkeys(("softmax", "log_softmax"), softmax),
    "size": _size,
    "dim": _dim,
    **dict.fromkeys(("contiguous", "float", "double", "detach", "requires_grad"), _same),
    "clone": _copied,
    "to": _to,
    "__getitem__": _getitem,
}
"""Methods of a tensor, without the `_` of those that work in place."""

_POOLS: dict[str, Operation] = {
    "max_pool": max_pool,
    "adaptive_max_pool": adaptive_max_pool,
    "avg_pool": pool_rules.avg_pool,
    "adaptive_avg_pool": pool_rules.adaptive_avg_pool,
}
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout")

FUNCTIONS: dict[Any, Operation] = {
    **dict.fromkeys((operator.add, operator.iadd), _add),
    **dict.fromkeys((operator.sub, operator.isub), _sub),
    **dict.fromkeys((operator.mul, operator.imul), _mul),
    **dict.fromkeys((operator.truediv, operator.itruediv), _div),
    operator.neg: _neg,
    operator.getitem: _getitem,
    getattr: _getattr,
    torch.rsub: _rsub,
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _cat),
    torch.clamp_: clamp,
    torch.conv1d: _conv(1),  # which torch.nn.functional has too, as all of torch's that are not here twice
    torch.conv2d: _conv(2),
    torch.dropout: _dropout,
    torch.max_pool1d: ranked(max_pool, 1),
    torch.max_pool2d: ranked(max_pool, 2),
    functional.linear: _linear,
    functional.batch_norm: layer_rules.batch_norm,
    **dict.fromkeys((functional.relu, functional.relu_), _relu),
    functional.relu6: _relu6,
    **dict.fromkeys((functional.hardtanh, functional.hardtanh_), _hardtanh),
    **dict.fromkeys((functional.softmax, functional.log_softmax), softmax),
    **{getattr(functional, name): _dropout for name in _DROPOUTS},
    **{getattr(functional, f"{name}{n}d"): ranked(pool, n) for name, pool in _POOLS.items() for n in (1, 2)},
    **{getattr(torch, name): operation for name, operation in METHODS.items() if hasattr(torch, name)},
}

IN_PLACE = frozenset(
    {operator.iadd, operator.isub, operator.imul, operator.itruediv, torch.relu_, torch.clamp_}
    | {functional.relu_, functional.hardtanh_}
)
"""Functions that change their first argument."""
