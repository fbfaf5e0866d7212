"""The update of one neuron by one time step in Triton, the same arithmetic as csrc/neuron_update.h:

    i = i * decay_i + x * gain_i                  neurons with a synapse; otherwise i = x
    u = v * decay_v + (i * gain_v + bias_v)
    s = u > threshold                             or >=; many: max(0, floor(u / threshold))
    v = s ? v_reset : u                           or u - s * threshold
    v = v < v_min ? v_min : v                     BOUNDED

With LATE the spikes s0 of v, those of the step before, reset before the decay (to a value) or after it (subtract):

    v0 = s0 ? v_reset : v
    u = v0 * decay_v + (i * gain_v + bias_v)
    u = u - s0 * threshold
    v = u < v_min ? v_min : u

or, with reset "feedback", v = u and i = s.

float32, each operation rounded separately: every launch sets enable_fp_fusion=False, and the division is IEEE's.
"""

from __future__ import annotations

import triton
import triton.language as tl

NO_SYNAPSE = tl.constexpr(0)
UPDATED = tl.constexpr(1)
PREVIOUS = tl.constexpr(2)  # u uses the i of the step before

NEVER = tl.constexpr(0)  # the membrane potential is the output
ABOVE = tl.constexpr(1)
REACHING = tl.constexpr(2)
MANY = tl.constexpr(3)

TO_VALUE = tl.constexpr(0)
SUBTRACT = tl.constexpr(1)
FEEDBACK = tl.constexpr(2)  # with UPDATED: the spikes are the next i


@triton.jit
def spikes_of(u, threshold, FIRES: tl.constexpr):
    """The spikes of membrane potential u; with MANY, NaN stays NaN."""
    if FIRES == MANY:
        ratio = tl.div_rn(u, threshold)
        # tl.floor flushes subnormals. Adding 2^23 rounds to an integer; from 2^23 on every float32 is one.
        rounded = (ratio + 8388608.0) - 8388608.0
        floor = tl.where(rounded > ratio, rounded - 1.0, rounded)
        floor = tl.where(ratio < 8388608.0, floor, ratio)
        spikes = tl.where(ratio < 0.0, 0.0, tl.where(ratio == 0.0, ratio, floor))  # zeros keep their sign
    elif FIRES == REACHING:
        spikes = tl.where(u >= threshold, 1.0, 0.0)
    else:
        spikes = tl.where(u > threshold, 1.0, 0.0)
    return spikes


@triton.jit
def by_reset(u, spikes, threshold, v_reset, FIRES: tl.constexpr, RESET: tl.constexpr):
    """The membrane potential u after the reset by these spikes."""
    if FIRES == NEVER or RESET == FEEDBACK:
        v = u
    elif RESET == SUBTRACT:
        v = u - spikes * threshold
    else:
        v = tl.where(spikes > 0.0, v_reset, u)
    return v


@triton.jit
def after_reset(
    u, spikes, threshold, v_reset, v_min,
    FIRES: tl.constexpr, RESET: tl.constexpr, LATE: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """The state v after a step with the membrane potential u and these spikes."""
    v = u
    if not LATE:
        v = by_reset(u, spikes, threshold, v_reset, FIRES, RESET)
    if BOUNDED:
        v = tl.where(v < v_min, v_min, v)
    return v


@triton.jit
def update_neuron(
    x, v, i, c,
    SYNAPSE: tl.constexpr, FIRES: tl.constexpr, RESET: tl.constexpr, LATE: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """One time step: returns the output, the state v and i, and u, the membrane potential before the reset.

    `c` are the coefficients in the order of `NeuronCoefficients`.
    """
    decay_v, gain_v, bias_v, decay_i, gain_i, threshold, v_reset, v_min = c
    current = x
    after = i
    if SYNAPSE != NO_SYNAPSE:
        after = i * decay_i + x * gain_i
        current = after if SYNAPSE == UPDATED else i
    before = v
    if LATE and RESET == TO_VALUE:
        before = by_reset(v, spikes_of(v, threshold, FIRES), threshold, v_reset, FIRES, RESET)
    u = before * decay_v + (current * gain_v + bias_v)
    if LATE and RESET == SUBTRACT:
        u = by_reset(u, spikes_of(v, threshold, FIRES), threshold, v_reset, FIRES, RESET)
    emitted = u if FIRES == NEVER else spikes_of(u, threshold, FIRES)
    if RESET == FEEDBACK:
        after = emitted
    return emitted, after_reset(u, emitted, threshold, v_reset, v_min, FIRES, RESET, LATE, BOUNDED), after, u
