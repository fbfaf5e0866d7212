"""Registers `neuron`, its gradients and `branch_sum` as torch operators."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from neurocuda.errors import ArgumentError
from neurocuda.ops.coefficients import NeuronCoefficients, NeuronState, schema_arguments
from neurocuda.ops.surrogate import Surrogate
from neurocuda.ops.triton import neuron_kernels as kernels
from neurocuda.ops.triton.addressing import Order, as_bytes, block_for, launch, odd, order_of, units
from neurocuda.ops.triton.neuron_args import ARGUMENTS, COEFFICIENTS, COUNT, TENSORS, NeuronArgs, check_branches

_SURROGATES = {"fast-sigmoid": kernels.FAST_SIGMOID, "arctan": kernels.ARCTAN, "triangle": kernels.TRIANGLE}


def neuron(
    branches: Sequence[Tensor],
    c: NeuronCoefficients,
    state: NeuronState,
    surrogate: Surrogate,
    record: Collection[str] = (),
    *,
    dtype: torch.dtype | None = torch.float32,
    packed: bool = False,
) -> tuple[Tensor, NeuronState, dict[str, Tensor]]:
    """As `native.neuron`, of any number of branches."""
    output, v, i, trace_v, trace_i = torch.ops.neurocuda_triton.neuron.default(
        list(branches),
        *schema_arguments(c, state),
        dtype,
        packed,
        "v" in record,
        "i" in record,
        surrogate.kind,
        surrogate.slope,
    )
    traces = {"v": trace_v, "i": trace_i}
    return output, NeuronState(v, i if c.decay_i is not None else None), {name: traces[name] for name in record}


def branch_sum(branches: Sequence[Tensor]) -> Tensor:
    """As `reference.branch_sum`; the result is float32."""
    if len(branches) == 1 and branches[0].dtype == torch.float32:
        return branches[0]
    total: Tensor = torch.ops.neurocuda_triton.branch_sum.default(list(branches))
    return total


def signals_of(branches: Sequence[Tensor], order: Order) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The branches in memory order, and their strides between time steps."""
    signals, strides = zip(*map(order.signal, branches), strict=True)
    return signals, strides


def output_type(branches: Sequence[Tensor], p: NeuronArgs, dtype: torch.dtype | None, packed: bool) -> torch.dtype:
    """The dtype of the output; `dtype` None: that of the branches. Raises `ArgumentError` if it does not hold it."""
    if packed:
        if not p.fires or p.many:
            raise ArgumentError("neuron: packed bits hold spikes, at most one in a step")
        return torch.uint8
    common = branches[0].dtype
    for branch in branches:
        common = torch.promote_types(common, branch.dtype)
    if dtype is None:
        dtype = common if p.fires or common.is_floating_point else torch.float32
    if not p.fires and not dtype.is_floating_point:
        raise ArgumentError(f"neuron: a membrane potential does not fit in {dtype}")
    if p.many and dtype == torch.bool:
        raise ArgumentError(f"neuron: a count of spikes does not fit in {dtype}")
    if dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.bool):
        raise ArgumentError(f"neuron: expected an output of float32, float16, bfloat16, uint8 or bool, found {dtype}")
    return dtype


def _results(
    branches: Sequence[Tensor], p: NeuronArgs, order: Order, dtype: torch.dtype | None, packed: bool, *traced: bool
) -> list[Tensor]:
    """Uninitialized results of `neuron`; those that are not requested are empty."""
    p.check("neuron", branches)
    dtype = output_type(branches, p, dtype, packed)
    steps = branches[0].shape[0]
    if packed:
        neurons = math.prod(branches[0].shape[1:])
        output = p.v.new_empty((steps, (neurons + 7) // 8), dtype=torch.uint8)
    else:
        output = order.empty(steps, p.v, dtype)
    return [
        output,
        order.empty(None, p.v, torch.float32),
        p.v.new_empty(0) if p.gain_i is None else order.empty(None, p.v, torch.float32),
        *(
            order.empty(steps, p.v, torch.float32) if requested else p.v.new_empty(0)
            for requested in (traced[0], traced[1] and p.gain_i is not None)
        ),
    ]


@torch.library.custom_op(
    "neurocuda_triton::neuron",
    mutates_args=(),
    schema=f"(Tensor[] branches, {ARGUMENTS}, ScalarType? dtype, bool packed, bool trace_v, bool trace_i, "
    "str surrogate, float slope) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _neuron(branches: Sequence[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    p, (dtype, packed, trace_v, trace_i) = NeuronArgs(*rest[:COUNT]), rest[COUNT : COUNT + 4]
    order = order_of(branches, contiguous=packed)
    results = _results(branches, p, order, dtype, packed, trace_v, trace_i)
    run_neuron(branches, p, order, [r if r.numel() else None for r in results], packed)
    return tuple(results)


@_neuron.register_fake
def _neuron_shapes(branches: Sequence[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    p, (dtype, packed, trace_v, trace_i) = NeuronArgs(*rest[:COUNT]), rest[COUNT : COUNT + 4]
    return tuple(_results(branches, p, order_of(branches, contiguous=packed), dtype, packed, trace_v, trace_i))


def run_neuron(
    branches: Sequence[Tensor],
    p: NeuronArgs,
    order: Order,
    into: Sequence[Tensor | None],
    packed: bool = False,
    trace_u: Tensor | None = None,
) -> None:
    """Launches the kernel, which writes `into` (output, v, i, traces of v and i) and `trace_u`, each unless None."""
    steps, size = branches[0].shape[0], math.prod(order.sizes)
    output, v, i, trace_v, trace_i = into
    if steps == 0:
        for after, before in ((v, p.v), (i, p.i)):
            if after is not None and before is not None:
                after.copy_(before)
    if steps == 0 or size == 0:
        return
    signals, strides = signals_of(branches, order)
    mode = kernels.VALUES
    if output is not None and not output.is_floating_point():
        mode = kernels.BITS if packed else kernels.FLAGS if output.dtype == torch.bool else kernels.COUNTS
    unit, (count, *multiples) = units(size, *strides)
    block = block_for(p.v, *signals, *([] if output is None else [output]))
    inputs = signals, odd(multiples), order.step(p.v), None if p.i is None else order.step(p.i), *p.coefficients(order)
    results = None if output is None else as_bytes(output), v, i, trace_v, trace_i, trace_u
    constants = {**p.constants, "OUTPUT": mode.value, "UNIT": unit, "BLOCK": block}
    launch(kernels.neuron_kernel, -(-size // block), p.v.device, *inputs, *results, count, steps, **constants)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    branches, *rest = inputs
    if NeuronArgs(*rest[:COUNT]).feeds_back:
        raise NotImplementedError("neuron: spikes that come back as current have no gradient here; run the cycle")
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*branches, *rest[:TENSORS])
    ctx.branches, ctx.flags, ctx.surrogate = len(branches), rest[TENSORS:COUNT], rest[COUNT + 4 :]


def _gradients(ctx: Any, *of: Tensor | None) -> tuple[Any, ...]:
    branches, tensors = ctx.saved_tensors[: ctx.branches], ctx.saved_tensors[ctx.branches :]
    needed = ctx.needs_input_grad
    needed_branches = needed[0] if isinstance(needed[0], list | tuple) else [needed[0]] * ctx.branches
    to_branches, *to_tensors = torch.ops.neurocuda_triton.neuron_backward.default(
        branches, *tensors, *ctx.flags, *ctx.surrogate, *of, any(needed_branches), any(needed[3 : 1 + TENSORS])
    )
    branch_gradients = [
        to_branches.to(branch.dtype) if need and branch.is_floating_point() else None
        for branch, need in zip(branches, needed_branches, strict=True)
    ]
    gradients = [
        gradient if need and tensor is not None else None
        for gradient, need, tensor in zip(to_tensors, needed[1 : 1 + TENSORS], tensors, strict=True)
    ]
    return branch_gradients, *gradients, *[None] * (len(needed) - 1 - TENSORS)


_neuron.register_autograd(_gradients, setup_context=_save)


@torch.library.custom_op(
    "neurocuda_triton::neuron_backward",
    mutates_args=(),
    schema=f"(Tensor[] branches, {ARGUMENTS}, str surrogate, float slope, Tensor? of_output, Tensor? of_v, "
    "Tensor? of_i, Tensor? of_trace_v, Tensor? of_trace_i, bool need_branches, bool need_coefficients) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _neuron_backward(branches: Sequence[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    """Recomputes the membrane potentials with a second forward run, so that the first does not store them."""
    p, (surrogate, slope, *others) = NeuronArgs(*rest[:COUNT]), rest[COUNT:]
    of, (need_branches, need_coefficients) = others[:5], others[5:]
    order = order_of(branches)
    synapse = p.gain_i is not None
    steps, size = branches[0].shape[0], math.prod(order.sizes)
    to_branches, to_v, to_i, *to_coefficients = _backward_results(branches, p, order, need_branches)
    sums = torch.zeros(len(COEFFICIENTS), *order.sizes, device=p.v.device) if need_coefficients else None
    zeros = torch.zeros((), device=p.v.device)
    of_v, of_i = (zeros.expand(p.v.shape) if gradient is None else gradient for gradient in of[1:3])
    if steps == 0 or size == 0:
        to_v.copy_(of_v)
        if synapse:
            to_i.copy_(of_i)
        return to_branches, to_v, to_i, *[c.zero_() for c in to_coefficients]
    us = order.empty(steps, p.v, torch.float32)
    currents = order.empty(steps, p.v, torch.float32) if synapse else None
    run_neuron(branches, p, order, [None, None, None, None, currents], trace_u=us)
    signals, strides = signals_of(branches, order)
    no_gradient = zeros.expand(branches[0].shape)
    over_time = [order.signal(no_gradient if gradient is None else gradient) for gradient in (of[0], *of[3:])]
    unit, (count, *multiples) = units(size, *strides, *(stride for _, stride in over_time))
    block = 512
    branch_strides, strides_over_time = odd(multiples[: len(signals)]), odd(multiples[len(signals) :])
    (of_output, _), (of_trace_v, _), (of_trace_i, _) = over_time
    inputs = signals, branch_strides, order.step(p.v), None if p.i is None else order.step(p.i), *p.coefficients(order)
    of_results = None if of[0] is None else of_output, order.step(of_v), order.step(of_i), of_trace_v, of_trace_i
    results = to_branches if need_branches else None, to_v, to_i if synapse else None, sums
    scale = math.pi / 2 * slope if surrogate == "arctan" else slope
    constants = {**p.constants, "SURROGATE": _SURROGATES[surrogate].value, "UNIT": unit, "BLOCK": block}
    launch(
        kernels.neuron_backward_kernel, -(-size // block), p.v.device, *inputs, us, currents,
        *of_results, strides_over_time, *results, count, steps, scale, **constants,
    )  # fmt: skip
    if sums is not None:
        for coefficient, gradient, total in zip(p.tensors[2:], to_coefficients, sums, strict=True):
            if coefficient is not None:  # summed in float64, which hides the order of summation
                gradient.copy_(total.permute(order.inverse).double().sum_to_size(gradient.shape))
    return to_branches, to_v, to_i, *to_coefficients


def _backward_results(
    branches: Sequence[Tensor], p: NeuronArgs, order: Order, need_branches: bool
) -> tuple[Tensor, ...]:
    """Uninitialized gradients of branches, v, i and the coefficients; those of absent operands are empty."""
    steps = branches[0].shape[0]
    return (
        order.empty(steps, p.v, torch.float32) if need_branches else p.v.new_empty(0),
        order.empty(None, p.v, torch.float32),
        order.empty(None, p.v, torch.float32) if p.gain_i is not None else p.v.new_empty(0),
        *(p.v.new_empty(0 if c is None else c.shape) for c in p.tensors[2:]),
    )


@_neuron_backward.register_fake
def _backward_shapes(branches: Sequence[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    return _backward_results(branches, NeuronArgs(*rest[:COUNT]), order_of(branches), rest[-2])


@torch.library.custom_op("neurocuda_triton::branch_sum", mutates_args=(), schema="(Tensor[] branches) -> Tensor")
def _branch_sum(branches: Sequence[Tensor]) -> Tensor:
    check_branches("branch_sum", branches)
    order = order_of(branches)
    steps, size = branches[0].shape[0], math.prod(order.sizes)
    total = order.empty(steps, branches[0], torch.float32)
    if total.numel():
        signals, strides = signals_of(branches, order)
        unit, (count, *multiples) = units(size, *strides)
        block = block_for(total, *signals)
        programs = steps * -(-size // block)
        launch(
            kernels.branch_sum_kernel, programs, total.device, signals, odd(multiples), total, count,
            UNIT=unit, BLOCK=block,
        )  # fmt: skip
    return total


@_branch_sum.register_fake
def _sum_shape(branches: Sequence[Tensor]) -> Tensor:
    check_branches("branch_sum", branches)
    return order_of(branches).empty(branches[0].shape[0], branches[0], torch.float32)


def _save_dtypes(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.dtypes = [branch.dtype for branch in inputs[0]]


def _sum_gradients(ctx: Any, gradient: Tensor) -> list[Tensor | None]:
    return [gradient.to(dtype) if dtype.is_floating_point else None for dtype in ctx.dtypes]


_branch_sum.register_autograd(_sum_gradients, setup_context=_save_dtypes)
