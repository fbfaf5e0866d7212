"""The layers of torch that the tracer supports, as operations on Values."""

from __future__ import annotations

from typing import Any

from torch import nn

from neurocuda.convert.tracing import layer_rules, pool_rules
from neurocuda.convert.tracing.functions import METHODS, Operation, clamp, ranked, softmax
from neurocuda.convert.tracing.max_pool import adaptive_max_pool, max_pool
from neurocuda.convert.tracing.symbolic import Call, Value


def _batch_norm_layer(call: Call, m: Any, x: Value) -> Value:
    rank = len(x.shape)
    allowed = {nn.BatchNorm1d: (1, 2), nn.BatchNorm2d: (3,)}
    for kind, ranks in allowed.items():
        if isinstance(m, kind) and rank not in ranks:
            call.refuse(f"it does not take axes {x.shape} behind the batch", "the layer for those axes")
    return layer_rules.batch_norm(call, x, m.running_mean, m.running_var, m.weight, m.bias, m.training, 0.0, m.eps)


def _conv_layer(call: Call, m: Any, x: Value) -> Value:
    if m.padding_mode != "zeros":
        call.refuse(f"it pads with {m.padding_mode!r}", "padding_mode='zeros'")
    return layer_rules.conv(call, x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _with(operation: Operation, *fields: str) -> Operation:
    """An operation whose further arguments are fields of the layer."""
    return lambda call, m, x: operation(call, x, *(getattr(m, field) for field in fields))


_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_MEAN = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_DROPPED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)

LAYERS: tuple[tuple[type[nn.Module], Operation], ...] = (
    *((kind, _conv_layer) for kind in (nn.Conv1d, nn.Conv2d)),
    (nn.Linear, _with(layer_rules.linear, "weight", "bias")),
    *((kind, _batch_norm_layer) for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)),
    (nn.ReLU, _with(layer_rules.rectifier)),
    *((kind, _with(clamp, "min_val", "max_val")) for kind in (nn.ReLU6, nn.Hardtanh)),
    (nn.MaxPool1d, _with(ranked(max_pool, 1), *_MAX)),
    (nn.MaxPool2d, _with(ranked(max_pool, 2), *_MAX)),
    (nn.AdaptiveMaxPool1d, _with(ranked(adaptive_max_pool, 1), "output_size", "return_indices")),
    (nn.AdaptiveMaxPool2d, _with(ranked(adaptive_max_pool, 2), "output_size", "return_indices")),
    (nn.AvgPool1d, _with(ranked(pool_rules.avg_pool, 1), *_MEAN)),
    (nn.AvgPool2d, _with(ranked(pool_rules.avg_pool, 2), *_MEAN, "divisor_override")),
    (nn.AdaptiveAvgPool1d, _with(ranked(pool_rules.adaptive_avg_pool, 1), "output_size")),
    (nn.AdaptiveAvgPool2d, _with(ranked(pool_rules.adaptive_avg_pool, 2), "output_size")),
    (nn.Flatten, _with(METHODS["flatten"], "start_dim", "end_dim")),
    (nn.Unflatten, _with(METHODS["unflatten"], "dim", "unflattened_size")),
    *((kind, lambda call, m, x: x) for kind in _DROPPED),
    *((kind, _with(softmax)) for kind in (nn.Softmax, nn.LogSoftmax, nn.Softmax2d)),
)


def layer(module: nn.Module) -> Operation | None:
    """The operation of a layer of torch; None for others, and for a subclass with a forward of its own."""
    for kind, operation in LAYERS:
        if isinstance(module, kind) and type(module).forward is kind.forward and "forward" not in vars(module):
            return operation
    return None
