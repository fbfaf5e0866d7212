"""Kernels of `neuron`, `neuron_backward` and `branch_sum`: a program runs BLOCK neurons over all time steps."""

from __future__ import annotations

import triton
import triton.language as tl

from neurocuda.ops.triton.addressing import coefficients_at, even, read, sum_at, write
from neurocuda.ops.triton.neuron_update import (
    MANY,
    NEVER,
    NO_SYNAPSE,
    SUBTRACT,
    TO_VALUE,
    UPDATED,
    after_reset,
    by_reset,
    spikes_of,
    update_neuron,
)

STAGES = tl.constexpr(4)
"""Time steps loaded before the first of them is used."""

VALUES = tl.constexpr(0)  # in the dtype of the output
COUNTS = tl.constexpr(1)  # uint8, saturated at 255; NaN becomes 0
FLAGS = tl.constexpr(2)  # bool
BITS = tl.constexpr(3)  # 8 spikes per byte

FAST_SIGMOID = tl.constexpr(0)
ARCTAN = tl.constexpr(1)
TRIANGLE = tl.constexpr(2)

_SIZES = ["units", "steps"]


@triton.jit
def emit(output, emitted, t, n, size, first, mask, OUTPUT: tl.constexpr, BLOCK: tl.constexpr):
    """Stores the output of neurons n = first .. at time step t."""
    if OUTPUT == BITS:
        lanes = tl.arange(0, 8)[None, :]
        spikes = tl.reshape(((emitted != 0) & mask).to(tl.int32), (BLOCK // 8, 8))
        byte = first // 8 + tl.arange(0, BLOCK // 8)
        row = (size + 7) // 8
        tl.store(output + t * row + byte, tl.sum(spikes << lanes, axis=1).to(tl.uint8), mask=byte < row)
    else:
        if OUTPUT == COUNTS:
            emitted = tl.where(emitted > 0, emitted, 0.0)
            emitted = tl.where(emitted < 255, emitted, 255.0)
        if OUTPUT == FLAGS:
            emitted = tl.where(emitted != 0, 1.0, 0.0)
        write(output + t * size + n, emitted, mask)


@triton.jit
def step(
    x, v, i, c, t, n, size, first, mask, output, trace_v, trace_i, trace_u,
    SYNAPSE: tl.constexpr, FIRES: tl.constexpr, RESET: tl.constexpr, LATE: tl.constexpr, BOUNDED: tl.constexpr,
    OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Updates neurons n by time step t and stores the requested results. Returns their state v and i."""
    emitted, v, i, u = update_neuron(x, v, i, c, SYNAPSE, FIRES, RESET, LATE, BOUNDED)
    at = t * size + n
    if output is not None:
        emit(output, emitted, t, n, size, first, mask, OUTPUT, BLOCK)
    if trace_v is not None:
        tl.store(trace_v + at, v, mask=mask)
    if trace_i is not None:
        tl.store(trace_i + at, i, mask=mask)
    if trace_u is not None:
        tl.store(trace_u + at, u, mask=mask)
    return v, i


@triton.jit(do_not_specialize=_SIZES)
def neuron_kernel(
    branches, strides, v_before, i_before, coefficients, inners, counts,
    output, v_after, i_after, trace_v, trace_i, trace_u, units: tl.int64, steps,
    SYNAPSE: tl.constexpr, FIRES: tl.constexpr, RESET: tl.constexpr, LATE: tl.constexpr, BOUNDED: tl.constexpr,
    OUTPUT: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK neurons over all time steps. None: an absent operand, or a result that is not requested."""
    size = units.to(tl.int64) * UNIT
    first = tl.program_id(0).to(tl.int64) * BLOCK
    n = first + tl.arange(0, BLOCK)
    mask = n < size
    c = coefficients_at(coefficients, inners, counts, n, mask)
    v = tl.load(v_before + n, mask=mask, other=0)
    i = v
    if SYNAPSE != NO_SYNAPSE:
        i = tl.load(i_before + n, mask=mask, other=0)
    staged = steps - steps % STAGES
    for start in range(0, staged, STAGES):
        xs = ()
        for k in tl.static_range(STAGES):  # all loads before the first store: their latencies overlap
            xs = xs + (sum_at(branches, strides, start + k, n, mask, UNIT),)  # type: ignore[assignment] # noqa: RUF005
        for k in tl.static_range(STAGES):
            v, i = step(xs[k], v, i, c, start + k, n, size, first, mask, output, trace_v, trace_i, trace_u,
                        SYNAPSE, FIRES, RESET, LATE, BOUNDED, OUTPUT, BLOCK)  # fmt: skip
    for t in range(staged, steps):
        x = sum_at(branches, strides, t, n, mask, UNIT)
        v, i = step(x, v, i, c, t, n, size, first, mask, output, trace_v, trace_i, trace_u,
                    SYNAPSE, FIRES, RESET, LATE, BOUNDED, OUTPUT, BLOCK)  # fmt: skip
    if v_after is not None:
        tl.store(v_after + n, v, mask=mask)
    if i_after is not None:
        tl.store(i_after + n, i, mask=mask)


@triton.jit
def derivative(distance, scale, SURROGATE: tl.constexpr):
    """The surrogate derivative at a distance from the threshold; `scale` is the slope (arctan: pi / 2 * slope)."""
    if SURROGATE == FAST_SIGMOID:
        root = 1.0 + scale * tl.abs(distance)
        value = tl.div_rn(tl.full(root.shape, 1.0, tl.float32), root * root)
    elif SURROGATE == ARCTAN:
        root = scale * distance
        value = tl.div_rn(tl.full(root.shape, 1.0, tl.float32), 1.0 + root * root)
    else:
        height = 1.0 - scale * tl.abs(distance)
        value = tl.where(height < 0.0, 0.0, height)
    return value


@triton.jit
def nearest_threshold(u, threshold, FIRES: tl.constexpr):
    """The threshold, or with MANY its positive multiple nearest to u."""
    nearest = threshold
    if FIRES == MANY:
        ratio = tl.div_rn(u, threshold)
        # Adding 2^23 rounds to an integer, half to even; from 2^23 on every float32 is one.
        multiple = tl.where(ratio < 8388608.0, (ratio + 8388608.0) - 8388608.0, ratio)
        nearest = threshold * tl.where(multiple < 1.0, 1.0, multiple)
    return nearest


@triton.jit(do_not_specialize=_SIZES)
def neuron_backward_kernel(
    branches, strides, v_before, i_before, coefficients, inners, counts, us, currents,
    of_output, of_v, of_i, of_trace_v, of_trace_i, of_strides, to_branches, to_v, to_i, to_coefficients,
    units: tl.int64, steps, scale,
    SYNAPSE: tl.constexpr, FIRES: tl.constexpr, RESET: tl.constexpr, LATE: tl.constexpr, BOUNDED: tl.constexpr,
    SURROGATE: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of BLOCK neurons, from the last time step to the first, summed in the order of autograd.

    `us` are the membrane potentials before the reset and `currents` the synaptic currents after each step, from a
    second forward run. `to_coefficients` [8, size] receives the gradients of each neuron's coefficients.
    """
    size = units.to(tl.int64) * UNIT
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = n < size
    c = coefficients_at(coefficients, inners, counts, n, mask)
    decay_v, gain_v, _bias_v, decay_i, gain_i, threshold, v_reset, v_min = c
    dv = tl.load(of_v + n, mask=mask, other=0)
    zero = tl.zeros((BLOCK,), tl.float32)
    di = zero
    di_current = zero  # gradient of i through u, with PREVIOUS
    if SYNAPSE != NO_SYNAPSE:
        di = tl.load(of_i + n, mask=mask, other=0)
    to_decay_v = zero
    to_gain_v = zero
    to_bias_v = zero
    to_decay_i = zero
    to_gain_i = zero
    to_threshold = zero
    to_v_reset = zero
    to_v_min = zero
    for back in range(steps):
        t = tl.cast(steps - 1 - back, tl.int64)
        at = t * size + n
        if t > 0:
            u_then = tl.load(us + at - size, mask=mask, other=0)
            spikes_then = u_then
            if FIRES != NEVER:
                spikes_then = spikes_of(u_then, threshold, FIRES)
            v = after_reset(u_then, spikes_then, threshold, v_reset, v_min, FIRES, RESET, LATE, BOUNDED)
        else:
            v = tl.load(v_before + n, mask=mask, other=0)
        arriving = zero
        if of_output is not None:
            arriving = read(of_output + t * (even(of_strides[0]) * UNIT) + n, mask)
        to_trace_v = tl.load(of_trace_v + t * (even(of_strides[1]) * UNIT) + n, mask=mask, other=0)
        x = sum_at(branches, strides, t, n, mask, UNIT)
        late = zero  # spikes of the step before whose reset this step brings
        decaying = v
        if LATE:
            late = spikes_of(v, threshold, FIRES)
            if RESET == TO_VALUE:
                decaying = by_reset(v, late, threshold, v_reset, FIRES, RESET)
        if FIRES == NEVER:
            last = t == steps - 1  # autograd adds the gradient of the last state first
            du = (to_trace_v + tl.where(last, dv, arriving)) + tl.where(last, arriving, dv)
        else:
            u = tl.load(us + at, mask=mask, other=0)
            spikes = spikes_of(u, threshold, FIRES)
            slope = zero
            if of_output is not None:  # 0 * NaN is not 0
                slope = arriving * derivative(u - nearest_threshold(u, threshold, FIRES), scale, SURROGATE)
            through = to_trace_v + dv
            if BOUNDED:
                below = u < v_min
                if not LATE:
                    below = by_reset(u, spikes, threshold, v_reset, FIRES, RESET) < v_min
                to_v_min += tl.where(below, through, 0.0)
                through = tl.where(below, 0.0, through)
            if LATE:
                du = slope + through
            elif RESET == SUBTRACT:
                du = slope + through
                to_threshold += -through * spikes
            else:
                fired = spikes > 0.0
                du = slope + tl.where(fired, 0.0, through)
                to_v_reset += tl.where(fired, through, 0.0)
            to_threshold += -slope
            if LATE and RESET == SUBTRACT:
                to_threshold += -du * late
        dcurrent = du * gain_v
        current = x
        dx = dcurrent
        if SYNAPSE != NO_SYNAPSE:
            if t > 0:
                i = tl.load(currents + at - size, mask=mask, other=0)
            else:
                i = tl.load(i_before + n, mask=mask, other=0)
            to_trace_i = tl.load(of_trace_i + t * (even(of_strides[2]) * UNIT) + n, mask=mask, other=0)
            if SYNAPSE == UPDATED:
                current = tl.load(currents + at, mask=mask, other=0)
                after = (to_trace_i + di) + dcurrent
            else:
                current = i
                after = (to_trace_i + di_current) + di
                di_current = dcurrent
            to_decay_i += after * i
            to_gain_i += after * x
            dx = after * gain_i
            di = after * decay_i
        to_decay_v += du * decaying
        to_gain_v += du * current
        to_bias_v += du
        dv = du * decay_v
        if LATE and RESET == TO_VALUE:
            to_v_reset += tl.where(late > 0.0, dv, 0.0)
            dv = tl.where(late > 0.0, 0.0, dv)
        if to_branches is not None:
            tl.store(to_branches + at, dx, mask=mask)
    tl.store(to_v + n, dv, mask=mask)
    if SYNAPSE != NO_SYNAPSE:
        tl.store(to_i + n, di + di_current, mask=mask)
    if to_coefficients is not None:
        tl.store(to_coefficients + n, to_decay_v, mask=mask)
        tl.store(to_coefficients + size + n, to_gain_v, mask=mask)
        tl.store(to_coefficients + 2 * size + n, to_bias_v, mask=mask)
        tl.store(to_coefficients + 3 * size + n, to_decay_i, mask=mask)
        tl.store(to_coefficients + 4 * size + n, to_gain_i, mask=mask)
        tl.store(to_coefficients + 5 * size + n, to_threshold, mask=mask)
        tl.store(to_coefficients + 6 * size + n, to_v_reset, mask=mask)
        tl.store(to_coefficients + 7 * size + n, to_v_min, mask=mask)


@triton.jit(do_not_specialize=["units"])
def branch_sum_kernel(branches, strides, output, units: tl.int64, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of the branches of BLOCK neurons at one time step."""
    size = units.to(tl.int64) * UNIT
    blocks = (size + BLOCK - 1) // BLOCK
    program = tl.program_id(0).to(tl.int64)
    t = program // blocks
    n = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = n < size
    tl.store(output + t * size + n, sum_at(branches, strides, t, n, mask, UNIT), mask=mask)
