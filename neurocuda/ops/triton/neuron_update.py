"""The update of one neuron by one time step in Triton, the same arithmetic as csrc/neuron_update.h:

    i = i * decay_i + x * gain_i                  neurons with a synapse; otherwise i = x
    u = v * decay_v + (i * gain_v + bias_v)
    s = u > threshold                             or >=; many: max(0, floor(u / threshold))
    v = s ? v_reset : u                           or u - s * threshold

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
def after_reset(u, spikes, threshold, v_reset, FIRES: tl.constexpr, RESET: tl.constexpr):
    """The membrane potential after the reset."""
    if FIRES == NEVER or RESET == FEEDBACK:
        v = u
    elif RESET == SUBTRACT:
        v = u - spikes * threshold
    else:
        v = tl.where(spikes > 0.0, v_reset, u)
    return v


@triton.jit
def update_neuron(x, v, i, c, SYNAPSE: tl.constexpr, FIRES: tl.constexpr, RESET: tl.constexpr):
    """One time step: returns the output, the state v and i, and u, the membrane potential before the reset.

    `c` are the coefficients in the order of `NeuronCoefficients`.
    """
    decay_v, gain_v, bias_v, decay_i, gain_i, threshold, v_reset = c
    current = x
    after = i
    if SYNAPSE != NO_SYNAPSE:
        after = i * decay_i + x * gain_i
        current = after if SYNAPSE == UPDATED else i
    u = v * decay_v + (current * gain_v + bias_v)
    emitted = u if FIRES == NEVER else spikes_of(u, threshold, FIRES)
    if RESET == FEEDBACK:
        after = emitted
    return emitted, after_reset(u, emitted, threshold, v_reset, FIRES, RESET), after, u
