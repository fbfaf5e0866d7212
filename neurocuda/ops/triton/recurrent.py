"""`recurrent_neuron`: the loop over time of a population and its recurrent weight in one kernel launch."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from neurocuda.errors import ArgumentError
from neurocuda.ops import reference
from neurocuda.ops.coefficients import NeuronCoefficients, NeuronState, schema_arguments
from neurocuda.ops.surrogate import Surrogate
from neurocuda.ops.triton.addressing import coefficients_at, even, launch, odd, order_of, read
from neurocuda.ops.triton.neuron_args import ARGUMENTS, COEFFICIENTS, COUNT, TENSORS, NeuronArgs
from neurocuda.ops.triton.neuron_update import NO_SYNAPSE, update_neuron

_SIZES = ["neurons", "groups", "size", "steps"]


@triton.jit(do_not_specialize=_SIZES)
def recurrent_kernel(
    branches, strides, weight, bias, v_before, i_before, previous, coefficients, inners, counts,
    output, v_after, i_after, trace_v, trace_i, trace_recurrent, neurons: tl.int64, groups: tl.int64, size: tl.int64,
    steps, PLACE: tl.constexpr, SYNAPSE: tl.constexpr, FIRES: tl.constexpr, RESET: tl.constexpr, LATE: tl.constexpr,
    BOUNDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program runs all time steps of one sample and one group of neurons. weight [groups, in, out].

    The spikes of step t are row t + 1 of `output` [steps + 1, size]; row 0 holds `previous`.
    """
    program = tl.program_id(0).to(tl.int64)
    neurons = neurons.to(tl.int64)
    group = program % groups
    o = tl.arange(0, BLOCK).to(tl.int64)
    mask = o < neurons
    first = program * neurons
    n = first + o
    c = coefficients_at(coefficients, inners, counts, n, mask)
    v = tl.load(v_before + n, mask=mask, other=0)
    i = v
    if SYNAPSE != NO_SYNAPSE:
        i = tl.load(i_before + n, mask=mask, other=0)
    tl.store(output + n, tl.load(previous + n, mask=mask, other=0), mask=mask)
    for step in range(steps):
        t = tl.cast(step, tl.int64)
        tl.debug_barrier()  # spikes of the step before were stored by other threads
        current = tl.zeros((BLOCK,), tl.float32)
        for k in range(neurons):
            spike = tl.load(output + t * size + first + k)
            if spike != 0:
                at = weight + (group * neurons + k) * neurons + o
                current = current + spike * tl.load(at, mask=mask, other=0)
        if bias is not None:
            current = current + tl.load(bias + group * neurons + o, mask=mask, other=0)
        x = current
        for branch in tl.static_range(len(branches)):
            at = branches[branch] + t * even(strides[branch]) + n
            value = read(at, mask)
            if branch < PLACE:
                x = value if branch == 0 else x + value
                if branch == PLACE - 1:
                    x = x + current
            else:
                x = x + value
        emitted, v, i, _u = update_neuron(x, v, i, c, SYNAPSE, FIRES, RESET, LATE, BOUNDED)
        at = t * size + n
        tl.store(output + size + at, emitted, mask=mask)
        if trace_v is not None:
            tl.store(trace_v + at, v, mask=mask)
        if trace_i is not None:
            tl.store(trace_i + at, i, mask=mask)
        if trace_recurrent is not None:
            tl.store(trace_recurrent + at, current, mask=mask)
    tl.store(v_after + n, v, mask=mask)
    if SYNAPSE != NO_SYNAPSE:
        tl.store(i_after + n, i, mask=mask)


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
    """As `reference.recurrent_neuron`, which also computes the gradients, with a second forward run."""
    output, v, i, spikes, trace_v, trace_i, trace_recurrent = torch.ops.neurocuda_triton.recurrent_neuron.default(
        list(branches),
        place,
        weight,
        bias,
        previous,
        *schema_arguments(c, state),
        "v" in record,
        "i" in record,
        "recurrent" in record,
        surrogate.kind,
        surrogate.slope,
    )
    traces = {"v": trace_v, "i": trace_i, "recurrent": trace_recurrent}
    after = NeuronState(v, i if c.decay_i is not None else None)
    return output, after, spikes, {name: traces[name] for name in record}


@torch.library.custom_op(
    "neurocuda_triton::recurrent_neuron",
    mutates_args=(),
    schema=f"(Tensor[] branches, int place, Tensor weight, Tensor? bias, Tensor previous_spikes, {ARGUMENTS}, "
    "bool trace_v, bool trace_i, bool trace_recurrent, str surrogate, float slope) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _recurrent(
    branches: Sequence[Tensor], place: int, weight: Tensor, bias: Tensor | None, previous: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    p, traced = NeuronArgs(*rest[:COUNT]), rest[COUNT : COUNT + 3]
    output, v, i, spikes, *traces = results = _shapes(branches, place, weight, bias, previous, *rest)
    order = order_of(branches, contiguous=True)
    steps, size, neurons = branches[0].shape[0], math.prod(order.sizes), weight.shape[-1]
    if steps == 0 or size == 0:
        v.copy_(p.v)
        if p.i is not None:
            i.copy_(p.i)
        spikes.copy_(previous)
        return results
    groups = math.prod(weight.shape[:-2])
    signals, strides = zip(*map(order.signal, branches), strict=True)
    all_spikes = output.new_empty(steps + 1, *output.shape[1:])
    operands = (
        weight.mT.reshape(groups, neurons, neurons).contiguous(),
        None if bias is None else bias.expand(weight.shape[:-1]).contiguous(),
        order.step(p.v),
        None if p.i is None else order.step(p.i),
        order.step(previous.float()),
        *p.coefficients(order),
    )
    into = (trace if requested and trace.numel() else None for trace, requested in zip(traces, traced, strict=True))
    constants = {"PLACE": place, **p.constants, "BLOCK": triton.next_power_of_2(neurons)}
    launch(
        recurrent_kernel, size // neurons, p.v.device, signals, odd(strides), *operands,
        all_spikes, v, i if p.i is not None else None, *into, neurons, groups, size, steps, **constants,
    )  # fmt: skip
    output.copy_(all_spikes[1:])
    spikes.copy_(all_spikes[-1])
    return results


@_recurrent.register_fake
def _shapes(
    branches: Sequence[Tensor], place: int, weight: Tensor, bias: Tensor | None, previous: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    p, traced = NeuronArgs(*rest[:COUNT]), rest[COUNT : COUNT + 3]
    p.check("recurrent_neuron", branches)
    if p.feeds_back:
        raise ArgumentError("recurrent_neuron: expected v_reset, found none")
    if not 0 <= place <= len(branches):
        raise ArgumentError(f"recurrent_neuron: expected place from 0 to {len(branches)}, found {place}")
    shape = branches[0].shape[1:]
    square = [*shape[1:], shape[-1]]
    if weight.dtype != torch.float32 or list(weight.shape) != square:
        raise ArgumentError(
            f"recurrent_neuron: expected weight in float32 of shape {square}, found {weight.dtype} {list(weight.shape)}"
        )
    if previous.shape != shape:
        raise ArgumentError(f"recurrent_neuron: expected spikes of shape {list(shape)}, found {list(previous.shape)}")
    synapse = p.gain_i is not None
    return (
        p.v.new_empty(branches[0].shape),
        p.v.new_empty(shape),
        p.v.new_empty(shape if synapse else 0),
        p.v.new_empty(shape),
        *(p.v.new_empty(branches[0].shape if trace else 0) for trace in (traced[0], traced[1] and synapse, traced[2])),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    branches, place, weight, bias, previous, *rest = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*branches, weight, bias, previous, *rest[:TENSORS])
    ctx.place, ctx.flags, ctx.surrogate = place, rest[TENSORS:COUNT], Surrogate(*rest[COUNT + 3 :])
    ctx.branches = len(branches)


def _gradients(ctx: Any, *of: Tensor | None) -> tuple[Any, ...]:
    """Gradients of the reference: through the weight, a step needs the gradients of all later steps."""
    tensors = ctx.saved_tensors
    needed = [*_per_branch(ctx.needs_input_grad[0], ctx.branches), *ctx.needs_input_grad[2 : 5 + TENSORS]]
    reaching, subtract, previous_current, many, late = ctx.flags
    with torch.enable_grad():
        leaves = [
            None if t is None else t.detach().float().requires_grad_(bool(need))
            for t, need in zip(tensors, needed, strict=True)
        ]
        branches: Any = leaves[: ctx.branches]
        others: Any = leaves[ctx.branches :]
        weight, bias, spikes, v, i, *coefficients = others
        c = NeuronCoefficients(
            **dict(zip(COEFFICIENTS, coefficients, strict=True)),
            spike_when="reaching" if reaching else "above",
            reset="subtract" if subtract else "to-value",
            synapse="previous" if previous_current else "updated",
            spikes_per_step="many" if many else "one",
            reset_delay=1 if late else 0,
        )
        record = [name for name, g in zip(("v", "i", "recurrent"), of[4:], strict=True) if g is not None]
        output, after, last, traces = reference.recurrent_neuron(
            branches, ctx.place, weight, bias, c, NeuronState(v, i), spikes, ctx.surrogate, record
        )
        results = [output, after.v, after.i, last, *(traces.get(name) for name in ("v", "i", "recurrent"))]
        pairs = [
            (r, g) for r, g in zip(results, of, strict=True) if r is not None and g is not None and r.requires_grad
        ]
        inputs = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
        computed = iter(torch.autograd.grad([r for r, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True))
    gradients: list[Tensor | None] = []
    for tensor, leaf in zip(tensors, leaves, strict=True):
        gradient = next(computed) if leaf is not None and leaf.requires_grad else None
        gradients.append(None if gradient is None else gradient.to(tensor.dtype))
    count = ctx.branches
    return gradients[:count], None, *gradients[count:], *[None] * (len(ctx.needs_input_grad) - 5 - TENSORS)


def _per_branch(needed: bool | Sequence[bool], count: int) -> list[bool]:
    return [needed] * count if isinstance(needed, bool) else list(needed)


_recurrent.register_autograd(_gradients, setup_context=_save)
