"""Which module and which function of torch becomes what: one table each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from neurocuda.convert import layers, pools, views
from neurocuda.convert.refusals import refusal
from neurocuda.convert.values import Call, Signal
from neurocuda.nn import Neuron

Handler = Callable[..., Signal]


def of_module(call: Call, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a call of a module of torch, or of a neuron, gives. Raises `UnsupportedModuleError`."""
    for kind, handler in MODULES:
        if isinstance(module, kind):
            return _handled(call, handler, (module, *args), kwargs)
    raise refusal(call, type(module).__name__)


def of_function(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a call of a function or a method of torch gives. Raises `UnsupportedModuleError`."""
    if call.function not in FUNCTIONS:
        raise refusal(call, call.function)
    if not args and "input" in kwargs:
        args, kwargs = (kwargs["input"],), {name: value for name, value in kwargs.items() if name != "input"}
    rest = (*args[1:], *kwargs.values())
    if call.function not in _SEVERAL and (not isinstance(args[0], Signal) or any(isinstance(v, Signal) for v in rest)):
        raise call.refuse("weights and settings that do not depend on the input", "some that do")
    return _handled(call, FUNCTIONS[call.function], args, kwargs)


def _handled(call: Call, handler: Handler, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        inspect.signature(handler).bind(call, *args, **kwargs)
    except TypeError as error:
        raise call.refuse("the arguments that torch documents", f"{error}") from None
    return handler(call, *args, **kwargs)


def _neuron(call: Call, m: Neuron, x: Signal, state: Any = None, *, return_state: bool = False) -> Any:
    if state is not None:
        raise call.refuse("neurons that keep their own state over the steps of the input", "a state that is passed")
    y = layers.neuron(call, m, x)
    return (y, None) if return_state else y


def _conv(call: Call, m: Any, x: Signal) -> Signal:
    if m.padding_mode != "zeros" and any(m._reversed_padding_repeated_twice):
        raise call.refuse("padding_mode='zeros'", f"padding_mode={m.padding_mode!r}")
    return layers.convolution(call, x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _batch_norm(call: Call, m: Any, x: Signal) -> Signal:
    return layers.batch_norm(call, x, m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps)


def _same(call: Call, x: Signal, *args: Any, **kwargs: Any) -> Signal:
    return x


def _relu(call: Call, x: Signal, inplace: bool = False) -> Signal:
    return layers.relu(call, x)


def _relu6(call: Call, x: Signal, inplace: bool = False) -> Signal:
    return layers.relu(call, x, 6.0)


def _hardtanh(call: Call, x: Signal, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Signal:
    return _clamp(call, x, min_val, max_val)


def _clamp(call: Call, x: Signal, min: Any = None, max: Any = None) -> Signal:
    low, high = (None if bound is None else layers.number(call, bound) for bound in (min, max))
    if low != 0 or (high is not None and high <= 0):
        found = f"{-math.inf if low is None else low} to {math.inf if high is None else high}"
        raise call.refuse("a range from 0 to a number above 0, or without end, which a firing rate has", found)
    return layers.relu(call, x, None if high is None or math.isinf(high) else high)


def _threshold(call: Call, x: Signal, threshold: float, value: float, inplace: bool = False) -> Signal:
    if threshold != 0 or value != 0:
        raise call.refuse("threshold 0 and value 0, which is a ReLU", f"{threshold} and {value}")
    return layers.relu(call, x)


def _dropout(call: Call, x: Signal, p: float = 0.5, training: bool = True, inplace: bool = False) -> Signal:
    if training and p:
        raise call.refuse("dropout that stops in eval mode (training=self.training)", "one that goes on")
    return x


def _add(call: Call, x: Any, other: Any, *, alpha: float = 1, out: None = None) -> Signal:
    return layers.combine(call, x, other, 1.0, float(alpha))


def _sub(call: Call, x: Any, other: Any, *, alpha: float = 1, out: None = None) -> Signal:
    return layers.combine(call, x, other, 1.0, -float(alpha))


def _rsub(call: Call, x: Any, other: Any, *, alpha: float = 1) -> Signal:
    return layers.combine(call, other, x, 1.0, -float(alpha))


def _mul(call: Call, x: Any, other: Any, *, out: None = None) -> Signal:
    if isinstance(x, Signal) and isinstance(other, Signal):
        raise refusal(call, "mul")
    signal, factor = (x, other) if isinstance(x, Signal) else (other, x)
    return layers.scaled(call, signal, factor)


def _div(call: Call, x: Any, other: Any, *, rounding_mode: str | None = None, out: None = None) -> Signal:
    if isinstance(other, Signal) or rounding_mode is not None:
        raise refusal(call, "div")
    return layers.scaled(call, x, other, inverse=True)


def _batch_norm_of_torch(
    call: Call,
    x: Signal,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Signal:
    return layers.batch_norm(call, x, mean, var, weight, bias, training, momentum, eps)


def _negative(call: Call, x: Signal) -> Signal:
    return layers.scaled(call, x, -1.0)


def _adaptive_maximum(space: int, call: Call, x: Signal, output_size: Any, return_indices: bool = False) -> Signal:
    return pools.adaptive_maximum(space, call, x, return_indices)


def _space(m: nn.Module) -> int:
    """The axes of space that a pool is named after."""
    return int(type(m).__name__[-2]) if type(m).__name__[-1] == "d" else 2


MODULES: tuple[tuple[Any, Handler], ...] = (
    (Neuron, _neuron),
    (
        (nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d),
        lambda call, m, x: layers.pad(call, x, m.padding, value=m.value),
    ),
    ((nn.Conv1d, nn.Conv2d), _conv),
    (nn.Linear, lambda call, m, x: layers.linear(call, x, m.weight, m.bias)),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm), _batch_norm),
    (nn.ReLU6, lambda call, m, x: layers.relu(call, x, 6.0)),
    (nn.Hardtanh, lambda call, m, x: _clamp(call, x, m.min_val, m.max_val)),
    (nn.ReLU, lambda call, m, x: layers.relu(call, x)),
    (nn.Threshold, lambda call, m, x: _threshold(call, x, m.threshold, m.value)),
    (nn.Identity, lambda call, m, x: x),
    (
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        lambda call, m, x: x,
    ),
    (nn.Flatten, lambda call, m, x: views.view(call, x)),
    (nn.Unflatten, lambda call, m, x: views.view(call, x)),
    (
        (nn.AvgPool1d, nn.AvgPool2d),
        lambda call, m, x: pools.average(
            _space(m),
            call,
            x,
            m.kernel_size,
            m.stride,
            m.padding,
            m.ceil_mode,
            m.count_include_pad,
            getattr(m, "divisor_override", None),
        ),
    ),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), lambda call, m, x: pools.adaptive_average(_space(m), call, x)),
    (
        (nn.MaxPool1d, nn.MaxPool2d),
        lambda call, m, x: pools.maximum(
            _space(m), call, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
        ),
    ),
    (
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
        lambda call, m, x: pools.adaptive_maximum(_space(m), call, x, m.return_indices),
    ),
)
"""Modules of torch and what they become; the first that fits."""

_ADD, _SUB = ("add", "add_", "iadd"), ("sub", "sub_", "isub", "subtract", "subtract_")
_MUL = ("mul", "mul_", "imul", "multiply", "multiply_")
_DIV = ("div", "div_", "truediv", "itruediv", "true_divide", "divide", "divide_")
_CAT = ("cat", "concat", "concatenate")
_SEVERAL = frozenset({*_ADD, *_SUB, *_MUL, *_DIV, *_CAT, "rsub", "view_as", "reshape_as", "type_as"})
"""Functions of which more than the first argument may depend on the input."""

FUNCTIONS: dict[str, Handler] = {
    **dict.fromkeys(("conv1d", "conv2d"), layers.convolution),
    "linear": layers.linear,
    "batch_norm": layers.batch_norm,
    "torch.batch_norm": _batch_norm_of_torch,
    "pad": layers.pad,
    **dict.fromkeys(("relu", "relu_"), _relu),
    "relu6": _relu6,
    **dict.fromkeys(("hardtanh", "hardtanh_"), _hardtanh),
    **dict.fromkeys(("clamp", "clamp_", "clip", "clip_"), _clamp),
    **dict.fromkeys(("clamp_min", "clamp_min_"), lambda call, x, min: _clamp(call, x, min)),
    **dict.fromkeys(("threshold", "_threshold", "threshold_"), _threshold),
    **dict.fromkeys(
        ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"),
        _dropout,
    ),
    "stochastic_depth": lambda call, x, p, mode, training=True: _dropout(call, x, p, training),
    **dict.fromkeys(_ADD, _add),
    **dict.fromkeys(_SUB, _sub),
    "rsub": _rsub,
    **dict.fromkeys(_MUL, _mul),
    **dict.fromkeys(_DIV, _div),
    **dict.fromkeys(("neg", "neg_", "negative", "negative_"), _negative),
    **dict.fromkeys(("contiguous", "clone", "detach", "positive", "pos", "requires_grad_"), _same),
    **dict.fromkeys(("to", "float", "double", "type_as", "cpu", "cuda", "type"), views.cast),
    **dict.fromkeys(
        ("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as", "squeeze_"),
        lambda call, x, *args, **kwargs: views.view(call, x),
    ),
    **dict.fromkeys(("permute", "transpose", "movedim", "swapaxes"), views.permute),
    "mean": pools.mean,
    "sum": pools.total,
    **dict.fromkeys(_CAT, views.cat),
    **{f"avg_pool{n}d": partial(pools.average, n) for n in (1, 2)},
    **{f"max_pool{n}d": partial(pools.maximum, n) for n in (1, 2)},
    **{f"adaptive_avg_pool{n}d": partial(pools.adaptive_average, n) for n in (1, 2)},
    **{f"adaptive_max_pool{n}d": partial(_adaptive_maximum, n) for n in (1, 2)},
}
"""Functions and methods by their names, and what they become."""
