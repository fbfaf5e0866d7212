"""The operators in plain PyTorch: the definition that every kernel must equal bit for bit.

float32, each operation rounded separately. Signals are [T, B, *shape], one step of them [B, *shape].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional, grad

from neurocuda.ops.coefficients import NeuronCoefficients, NeuronState, SpikeWhen
from neurocuda.ops.pointwise import weight_gradient
from neurocuda.ops.surrogate import Surrogate, spike

Pads = tuple[tuple[int, int], ...]
"""Zeros before and after each spatial axis."""


def all_finite(x: Tensor) -> bool:
    """Whether every number is finite; the extremes tell it without a copy."""
    return all(math.isfinite(extreme.item()) for extreme in x.aminmax())


def ask_finite(signals: Sequence[Tensor]) -> Callable[[], bool]:
    """Looks whether every number of some signals is finite; what it returns tells."""
    finite = all(all_finite(x) for x in signals if x.numel())
    return lambda: finite


def empty(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Memory for float32 values."""
    return torch.empty(list(sizes), dtype=torch.float32, device=device)


def branch_sum(branches: Sequence[Tensor]) -> Tensor:
    """The sum of one or more branches, left fold in the order given."""
    total = branches[0]
    for branch in branches[1:]:
        total = total + branch
    return total


def neuron_step(
    x: Tensor, c: NeuronCoefficients, state: NeuronState, surrogate: Surrogate
) -> tuple[Tensor, NeuronState]:
    """One step of a population: what it emits, and its state after the reset.

        i = i * decay_i + x * gain_i                  neurons with a synapse; otherwise i = x
        u = v * decay_v + (i * gain_v + bias_v)
        s = u > threshold                             or >=; many: max(0, floor(u / threshold))
        v = s ? v_reset : u                           or u - s * threshold

    or, where spikes come back as current, v = u and i = s.

    Forward Euler or exact integration of the NIR equations, by the coefficients (Pedersen et al. 2024,
    Table 1). Without a threshold the neuron emits u and keeps it.
    """
    current, synapse = x, None
    if c.decay_i is not None and c.gain_i is not None:
        assert state.i is not None
        synapse = state.i * c.decay_i + x * c.gain_i
        current = synapse if c.synapse == "updated" else state.i
    u = state.v * c.decay_v + (current * c.gain_v + c.bias_v)
    if c.threshold is None:
        return u, NeuronState(u, synapse)
    s = spike(u, c.threshold, c.spike_when, c.spikes_per_step, surrogate)
    if c.v_reset is None:
        return s, NeuronState(u, s)
    fired = s.detach()
    v = torch.where(fired > 0, c.v_reset, u) if c.reset == "to-value" else u - fired * c.threshold
    return s, NeuronState(v, synapse)


def neuron(
    branches: Sequence[Tensor],
    c: NeuronCoefficients,
    state: NeuronState,
    surrogate: Surrogate,
    record: Collection[str] = (),
) -> tuple[Tensor, NeuronState, dict[str, Tensor]]:
    """Sum the branches and update the population over T steps.

    Returns the output [T, B, *shape], the state after the last step, and, for each of "v" and "i" in `record`,
    its values after every step.
    """
    outputs: list[Tensor] = []
    traces: dict[str, list[Tensor]] = {name: [] for name in record}
    for step in range(branches[0].shape[0]):
        output, state = neuron_step(branch_sum([branch[step] for branch in branches]), c, state, surrogate)
        outputs.append(output)
        for name, values in traces.items():
            values.append(getattr(state, name))
    if not outputs:
        nothing = branch_sum(branches)  # of no steps, which has their shape
        return nothing, state, dict.fromkeys(record, nothing)
    return torch.stack(outputs), state, {name: torch.stack(values) for name, values in traces.items()}


def recurrent_neuron(
    branches: Sequence[Tensor],
    place: int,
    weight: Tensor,
    bias: Tensor | None,
    c: NeuronCoefficients,
    state: NeuronState,
    previous: Tensor,
    surrogate: Surrogate,
    record: Collection[str] = (),
) -> tuple[Tensor, NeuronState, Tensor, dict[str, Tensor]]:
    """A population whose spikes come back to it through a weight one step later.

    The recurrent current, `ordered_linear(previous spikes, weight, bias)`, stands before branch `place` in
    the sum. `previous` are the spikes of the step before the first, [B, *shape]. Returns the output, the
    state and spikes after the last step, and traces: "v", "i" as `neuron`, "recurrent" the recurrent current.
    """
    outputs: list[Tensor] = []
    traces: dict[str, list[Tensor]] = {name: [] for name in record}
    for step in range(branches[0].shape[0]):
        current = ordered_linear(previous, weight, bias)
        terms = [branch[step] for branch in branches]
        terms.insert(place, current)
        previous, state = neuron_step(branch_sum(terms), c, state, surrogate)
        outputs.append(previous)
        for name, values in traces.items():
            values.append(current if name == "recurrent" else getattr(state, name))
    stacked = {name: torch.stack(values) for name, values in traces.items()}
    return torch.stack(outputs), state, previous, stacked


def threshold(x: Tensor, level: Tensor, when: SpikeWhen, surrogate: Surrogate) -> Tensor:
    """1 where x is above (or reaches) the level, 0 elsewhere, with the surrogate gradient."""
    return spike(x, level, when, "one", surrogate)


def delay(x: Tensor, steps: Tensor | int, history: Tensor) -> tuple[Tensor, Tensor]:
    """Each element of x [T, B, *shape] as it was `steps` steps ago: one number, or int64 [*shape].

    `history` [B, D, *shape] holds the last D >= max(steps) values, oldest first. Returns the delayed signal
    and the history after the last step.
    """
    depth = history.shape[1]
    past = torch.cat([history.movedim(1, 0), x])
    if isinstance(steps, int):
        start = depth - steps
        delayed = past[start : start + x.shape[0]]
    else:
        times = torch.arange(x.shape[0], device=x.device).reshape(-1, *[1] * (x.dim() - 1))
        delayed = past.gather(0, (times + (depth - steps)).expand(x.shape))
    return delayed, past[past.shape[0] - depth :].movedim(0, 1)


def sum_pool2d(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Sums of windows of x [N, C, H, W], rows before columns; padding adds zeros."""
    x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    return functional.avg_pool2d(x, list(kernel), list(stride), divisor_override=1)


def avg_pool2d(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """`sum_pool2d` divided by the full area of the kernel, padding included."""
    return sum_pool2d(x, kernel, stride, padding) / float(kernel[0] * kernel[1])


def ordered_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b with a defined sum: ascending input feature, one product and one sum at a time, bias last.

    x [N, *batch, in], weight [*batch, out, in]: where there are batch axes, a matrix for each of them.
    """
    apply: Callable[..., Tensor] = _OrderedLinear.apply
    result = apply(x, weight)
    return result if bias is None else result + bias


class _OrderedLinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        total = x.new_zeros(*x.shape[:-1], weight.shape[-2])
        for k in x.flatten(0, -2).any(0).nonzero().flatten().tolist():  # adding zeros changes nothing
            total += x[..., k : k + 1] * weight[..., k]
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        to_x = torch.matmul(gradients[0].unsqueeze(-2), weight).squeeze(-2)
        return to_x, torch.einsum("n...o,n...i->...oi", gradients[0], x)


def ordered_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Pads,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Cross-correlation with a defined sum: ascending input channel, then kernel row, then column, bias last.

    x [N, C_in, *space], weight [C_out, C_in / groups, *kernel], one or two axes of space.
    """
    padded = pad(x, pads)
    apply: Callable[..., Tensor] = _OrderedConv.apply
    result = apply(padded, weight, tuple(stride), tuple(dilation), groups)
    return result if bias is None else result + bias.reshape(-1, *[1] * (x.dim() - 2))


def pad(x: Tensor, pads: Pads) -> Tensor:
    """x with zeros around its spatial axes."""
    if not any(before or after for before, after in pads):
        return x
    return functional.pad(x, [zeros for axis in reversed(pads) for zeros in axis])


class _OrderedConv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...], groups: int) -> Tensor:
        kernel = weight.shape[2:]
        extents = [gap * (k - 1) for k, gap in zip(kernel, dilation, strict=True)]
        sizes = [(n - e - 1) // s + 1 for n, e, s in zip(x.shape[2:], extents, stride, strict=True)]
        per_group = weight.shape[0] // groups
        weights = weight.reshape(groups, per_group, weight.shape[1], *kernel, 1)
        frames = x.movedim(0, -1).contiguous()  # frames last, so that every sum runs over neighbours in memory
        channels = frames.reshape(groups, 1, weight.shape[1], *frames.shape[1:])
        total = x.new_zeros(groups, per_group, *sizes, x.shape[0])
        for channel in range(weight.shape[1]):
            for at in itertools.product(*map(range, kernel)):
                window: Any = [
                    slice(k * gap, k * gap + (n - 1) * s + 1, s)
                    for k, gap, n, s in zip(at, dilation, sizes, stride, strict=True)
                ]
                tap: Any = (slice(None), slice(None), channel, *at)
                taps = weights[tap].reshape(groups, per_group, *[1] * (len(kernel) + 1))
                total += channels[:, :, channel][(slice(None), slice(None), *window)] * taps
        return total.flatten(0, 1).movedim(-1, 0).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.stride, ctx.dilation, ctx.groups = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        planar = x.dim() == 4
        to_input: Callable[..., Tensor] = grad.conv2d_input if planar else grad.conv1d_input
        settings = (ctx.stride, 0, ctx.dilation, ctx.groups)
        return (
            to_input(x.shape, weight, gradients[0], *settings),
            weight_gradient(x, weight.shape, gradients[0], ctx.stride, ctx.dilation, ctx.groups),
            None,
            None,
            None,
        )
