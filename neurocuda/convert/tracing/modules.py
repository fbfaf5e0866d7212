"""The layers of torch that the tracer supports, as operations on Values."""

from __future__ import annotations

from typing import Any

from torch import nn

from neurocuda.convert.tracing import layer_rules, pool_rules
from neurocuda.convert.tracing.functions import METHODS, Operation, clamp, softmax
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


def _max_pool_layer(rank: int) -> Operation:
    def pool(call: Call, m: Any, x: Value) -> Value:
        how = (m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)
        return max_pool(call, x, rank, *how)

    return pool


def _avg_pool_layer(rank: int) -> Operation:
    def pool(call: Call, m: Any, x: Value) -> Value:
        how = (m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad)
        return pool_rules.avg_pool(call, x, rank, *how, getattr(m, "divisor_override", None))

    return pool


def _adaptive_max_layer(rank: int) -> Operation:
    def pool(call: Call, m: Any, x: Value) -> Value:
        if m.return_indices:
            call.refuse("it returns indices", "return_indices=False")
        return adaptive_max_pool(call, x, rank, m.output_size)

    return pool


_DROPPED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)

LAYERS: tuple[tuple[type[nn.Module], Operation], ...] = (
    *((kind, _conv_layer) for kind in (nn.Conv1d, nn.Conv2d)),
    (nn.Linear, lambda call, m, x: layer_rules.linear(call, x, m.weight, m.bias)),
    *((kind, _batch_norm_layer) for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)),
    (nn.ReLU, lambda call, m, x: layer_rules.rectifier(call, x)),
    *((kind, lambda call, m, x: clamp(call, x, m.min_val, m.max_val)) for kind in (nn.ReLU6, nn.Hardtanh)),
    (nn.MaxPool1d, _max_pool_layer(1)),
    (nn.MaxPool2d, _max_pool_layer(2)),
    (nn.AdaptiveMaxPool1d, _adaptive_max_layer(1)),
    (nn.AdaptiveMaxPool2d, _adaptive_max_layer(2)),
    (nn.AvgPool1d, _avg_pool_layer(1)),
    (nn.AvgPool2d, _avg_pool_layer(2)),
    (nn.AdaptiveAvgPool1d, lambda call, m, x: pool_rules.adaptive_avg_pool(call, x, 1, m.output_size)),
    (nn.AdaptiveAvgPool2d, lambda call, m, x: pool_rules.adaptive_avg_pool(call, x, 2, m.output_size)),
    (nn.Flatten, lambda call, m, x: METHODS["flatten"](call, x, m.start_dim, m.end_dim)),
    (nn.Unflatten, lambda call, m, x: METHODS["unflatten"](call, x, m.dim, m.unflattened_size)),
    *((kind, lambda call, m, x: x) for kind in _DROPPED),
    *((kind, lambda call, m, x: softmax(call, x)) for kind in (nn.Softmax, nn.LogSoftmax, nn.Softmax2d)),
)


def layer(module: nn.Module) -> Operation | None:
    """The operation of a layer of torch; None for others, and for a subclass with a forward of its own."""
    for kind, operation in LAYERS:
        if isinstance(module, kind) and type(module).forward is kind.forward and "forward" not in vars(module):
            return operation
    return None
