"""The operators in plain PyTorch: the definition that every kernel equals bit for bit.

float32, each operation rounded separately. Signals are [T, B, *shape], one time step of them [B, *shape].
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
from neurocuda.ops.surrogate import Surrogate, spike, spikes_of

Pads = tuple[tuple[int, int], ...]
"""Number of zeros before and after each spatial axis."""


def all_finite(x: Tensor) -> bool:
    """Whether every element is finite. Minimum and maximum need no copy of x."""
    return all(math.isfinite(extreme.item()) for extreme in x.aminmax())


def start_finite_check(signals: Sequence[Tensor]) -> Callable[[], bool]:
    """Starts to check that every element is finite. Returns a function that waits for the result."""
    finite = all(all_finite(x) for x in signals if x.numel())
    return lambda: finite


def empty_float32(sizes: Sequence[int], device: torch.device) -> Tensor:
    """An uninitialized float32 tensor."""
    return torch.empty(list(sizes), dtype=torch.float32, device=device)


def branch_sum(branches: Sequence[Tensor]) -> Tensor:
    """The sum of one or more branches [T, B, *shape], a left fold in the order of the list."""
    total = branches[0]
    for branch in branches[1:]:
        total = total + branch
    return total


def neuron_step(
    x: Tensor, c: NeuronCoefficients, state: NeuronState, surrogate: Surrogate
) -> tuple[Tensor, NeuronState]:
    """Updates a population by one time step with the equations of `NeuronCoefficients`.

    x is the summed input [B, *shape]. Returns the output [B, *shape] (spikes, or u without a threshold) and the state
    after the step.
    """
    current, synapse = x, None
    if c.decay_i is not None and c.gain_i is not None:
        assert state.i is not None
        synapse = state.i * c.decay_i + x * c.gain_i
        current = synapse if c.synapse == "updated" else state.i
    v, before = state.v, None
    if c.reset_delay and c.threshold is not None:
        before = spikes_of(v, c.threshold, c.spike_when, c.spikes_per_step)
        if c.reset == "to-value":
            v = _after_reset(v, before, c)
    u = v * c.decay_v + (current * c.gain_v + c.bias_v)
    if c.threshold is None:
        return u, NeuronState(u, synapse)
    if before is not None and c.reset == "subtract":
        u = _after_reset(u, before, c)
    s = spike(u, c.threshold, c.spike_when, c.spikes_per_step, surrogate)
    if c.v_reset is None:
        return s, NeuronState(u, s)
    v = u if c.reset_delay else _after_reset(u, s.detach(), c)
    if c.v_min is not None:
        v = torch.where(v < c.v_min, c.v_min, v)
    return s, NeuronState(v, synapse)


def _after_reset(u: Tensor, spikes: Tensor, c: NeuronCoefficients) -> Tensor:
    """The membrane potential `u` [B, *shape] after the reset by `spikes`, which carry no gradient."""
    assert c.threshold is not None
    assert c.v_reset is not None
    return torch.where(spikes > 0, c.v_reset, u) if c.reset == "to-value" else u - spikes * c.threshold


def neuron(
    branches: Sequence[Tensor],
    c: NeuronCoefficients,
    state: NeuronState,
    surrogate: Surrogate,
    record: Collection[str] = (),
) -> tuple[Tensor, NeuronState, dict[str, Tensor]]:
    """Sums the branches [T, B, *shape] and updates the population over T steps.

    Returns the output [T, B, *shape], the state after the last step, and the traces [T, B, *shape] of the quantities
    in `record` ("v", "i") after each step.
    """
    outputs: list[Tensor] = []
    traces: dict[str, list[Tensor]] = {name: [] for name in record}
    for step in range(branches[0].shape[0]):
        output, state = neuron_step(branch_sum([branch[step] for branch in branches]), c, state, surrogate)
        outputs.append(output)
        for name, values in traces.items():
            values.append(getattr(state, name))
    if not outputs:
        no_steps = branch_sum(branches)
        return no_steps, state, dict.fromkeys(record, no_steps)
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
    """`neuron` with a recurrent weight: each step receives the spikes of the step before through `weight` and `bias`.

    The recurrent current, `ordered_linear(previous, weight, bias)`, is inserted at index `place` of the branches.
    `previous` [B, *shape] are the spikes of the step before the first. Returns the output, the state and the spikes
    after the last step, and the traces of the quantities in `record` ("v", "i", "recurrent").
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
    """1 where x > level (`when` "reaching": x >= level), else 0, with the surrogate gradient."""
    return spike(x, level, when, "one", surrogate)


def delay(x: Tensor, steps: Tensor | int, history: Tensor) -> tuple[Tensor, Tensor]:
    """Delays x [T, B, *shape] by `steps` time steps: one int, or int64 [*shape] for each element.

    `history` [B, D, *shape] are the last D >= max(steps) inputs, oldest first. Returns the delayed signal and the
    history after the last step.
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
    """Sums over windows of x [N, C, H, W], row by row; padding adds zeros."""
    x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    return functional.avg_pool2d(x, list(kernel), list(stride), divisor_override=1)


def avg_pool2d(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """`sum_pool2d` divided by the kernel area, padding included."""
    return sum_pool2d(x, kernel, stride, padding) / float(kernel[0] * kernel[1])


def ordered_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b, summed in a defined order: ascending input feature, products and sums rounded separately, bias last.

    x [N, *batch, in], weight [*batch, out, in], bias [*batch, out]; the batch axes are optional.
    """
    apply: Callable[..., Tensor] = _OrderedLinear.apply
    result = apply(x, weight)
    return result if bias is None else result + bias


class _OrderedLinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        total = x.new_zeros(*x.shape[:-1], weight.shape[-2])
        for k in x.flatten(0, -2).any(0).nonzero().flatten().tolist():  # adding the product of a zero changes nothing
            total += x[..., k : k + 1] * weight[..., k]
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        return linear_gradients(x, weight, gradients[0], ctx.needs_input_grad)


def linear_gradients(
    x: Tensor, weight: Tensor, gradient: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and weight of `ordered_linear`, summed by the vendor library; None where not needed."""
    to_x = torch.matmul(gradient.unsqueeze(-2), weight).squeeze(-2) if needed[0] else None
    return to_x, torch.einsum("n...o,n...i->...oi", gradient, x.to(weight.dtype)) if needed[1] else None


def ordered_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Pads,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Cross-correlation, summed in a defined order: ascending input channel, kernel row, kernel column, bias last.

    x [N, C_in, *space], weight [C_out, C_in / groups, *kernel], bias [C_out]; one or two spatial axes.
    """
    padded = pad(x, pads)
    apply: Callable[..., Tensor] = _OrderedConv.apply
    result = apply(padded, weight, tuple(stride), tuple(dilation), groups)
    return result if bias is None else result + bias.reshape(-1, *[1] * (x.dim() - 2))


def pad(x: Tensor, pads: Pads) -> Tensor:
    """Pads the spatial axes of x [N, C, *space] with zeros."""
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
        frames = x.movedim(0, -1).contiguous()  # frames last: sums read contiguous memory
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
        settings = ctx.stride, ctx.dilation, ctx.groups
        return *conv_gradients(x, weight, gradients[0], *settings, ctx.needs_input_grad), None, None, None


def conv_gradients(
    padded: Tensor,
    weight: Tensor,
    gradient: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needed: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the padded input and the weight of `ordered_conv`, by the vendor library; None if not needed."""
    to_x = to_weight = None
    if needed[0]:
        to_input: Callable[..., Tensor] = grad.conv2d_input if padded.dim() == 4 else grad.conv1d_input
        to_x = to_input(padded.shape, weight, gradient, stride, 0, dilation, groups)
    if needed[1]:
        to_weight = weight_gradient(padded, weight.shape, gradient, stride, dilation, groups)
    return to_x, to_weight
