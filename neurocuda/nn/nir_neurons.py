"""The neurons of NIR as torch modules: I, IF, LI, LIF, CubaLI, CubaLIF. Equations: Pedersen et al. 2024, Table 1."""

from __future__ import annotations

from typing import TypedDict, Unpack

from neurocuda.discretization.settings import Discretization
from neurocuda.nn.neuron import Learn, Neuron, Value
from neurocuda.ops import Surrogate


class NeuronOptions(TypedDict, total=False):
    """The keyword arguments that all neurons share; `Neuron` describes them."""

    discretization: Discretization | None
    surrogate: Surrogate | None
    learn: Learn
    keep_state: bool


class I(Neuron):  # noqa: E742
    """An integrator, v' = r x. Outputs its membrane potential v.

    Args:
        r: Input gain, membrane potential per second (with `if_gain="r"`: per time step). None (default): an input of 1
            adds 1 per time step.
        **options: The keyword arguments of `Neuron`.

    Raises:
        ArgumentError: An argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from neurocuda import nn
        >>> nn.I()(torch.ones(3, 1)).flatten()
        tensor([1., 2., 3.])
    """

    kind = "I"

    def __init__(self, r: Value | None = None, **options: Unpack[NeuronOptions]) -> None:
        super().__init__({"r": _unit_gain(r, options)}, **options)


class IF(Neuron):
    """An integrate-and-fire neuron, v' = r x. Outputs spikes where v > v_threshold; then v = v_reset.

    `Discretization(reset="subtract")` subtracts v_threshold instead.

    Args:
        r: Input gain, membrane potential per second (with `if_gain="r"`: per time step). None (default): an input of 1
            adds 1 per time step, as in most simulators.
        v_threshold: Firing threshold, default 1.
        v_reset: Membrane potential after a spike, default 0.
        **options: The keyword arguments of `Neuron`.

    Raises:
        ArgumentError: An argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from neurocuda import nn
        >>> nn.IF()(torch.full((6, 1), 0.5)).flatten()
        tensor([0., 0., 1., 0., 0., 1.])
    """

    kind = "IF"

    def __init__(
        self, r: Value | None = None, v_threshold: Value = 1.0, v_reset: Value = 0.0, **options: Unpack[NeuronOptions]
    ) -> None:
        super().__init__({"r": _unit_gain(r, options), "v_threshold": v_threshold, "v_reset": v_reset}, **options)


class LI(Neuron):
    """A leaky integrator, tau v' = (v_leak - v) + r x. Outputs its membrane potential v.

    Args:
        tau: Time constant of the membrane, seconds.
        r: Input gain, default 1.
        v_leak: Membrane potential at rest, default 0.
        **options: The keyword arguments of `Neuron`.

    Raises:
        ArgumentError: An argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from neurocuda import Discretization, nn
        >>> li = nn.LI(tau=2.0, r=2.0, discretization=Discretization(dt=1.0))
        >>> li(torch.ones(3, 1)).flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """

    kind = "LI"

    def __init__(self, tau: Value, r: Value = 1.0, v_leak: Value = 0.0, **options: Unpack[NeuronOptions]) -> None:
        super().__init__({"tau": tau, "r": r, "v_leak": v_leak}, **options)


class LIF(Neuron):
    """A leaky integrate-and-fire neuron, tau v' = (v_leak - v) + r x. Spikes where v > v_threshold; then v = v_reset.

    Args:
        tau: Time constant of the membrane, seconds.
        r: Input gain, default 1.
        v_leak: Membrane potential at rest, default 0.
        v_threshold: Firing threshold, default 1.
        v_reset: Membrane potential after a spike, default 0.
        **options: The keyword arguments of `Neuron`.

    Raises:
        ArgumentError: An argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from neurocuda import Discretization, nn
        >>> lif = nn.LIF(tau=2.0, r=2.0, discretization=Discretization(dt=1.0))
        >>> lif(torch.full((4, 1), 0.75)).flatten()
        tensor([0., 1., 0., 1.])
    """

    kind = "LIF"

    def __init__(
        self,
        tau: Value,
        r: Value = 1.0,
        v_leak: Value = 0.0,
        v_threshold: Value = 1.0,
        v_reset: Value = 0.0,
        **options: Unpack[NeuronOptions],
    ) -> None:
        firing = {"v_threshold": v_threshold, "v_reset": v_reset}
        super().__init__({"tau": tau, "r": r, "v_leak": v_leak, **firing}, **options)


class CubaLI(Neuron):
    """`LI` with a synapse: tau_syn i' = -i + w_in x, tau_mem v' = (v_leak - v) + r i. Outputs its membrane potential v.

    Args:
        tau_syn: Time constant of the synaptic current, seconds.
        tau_mem: Time constant of the membrane, seconds.
        r: Gain of the synaptic current, default 1.
        v_leak: Membrane potential at rest, default 0.
        w_in: Input gain of the synapse, default 1.
        **options: The keyword arguments of `Neuron`.

    Raises:
        ArgumentError: An argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from neurocuda import Discretization, nn
        >>> li = nn.CubaLI(tau_syn=2.0, tau_mem=2.0, r=2.0, w_in=2.0, discretization=Discretization(dt=1.0))
        >>> li(torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1)).flatten()
        tensor([1.0000, 1.0000, 0.7500])
    """

    kind = "CubaLI"

    def __init__(
        self,
        tau_syn: Value,
        tau_mem: Value,
        r: Value = 1.0,
        v_leak: Value = 0.0,
        w_in: Value = 1.0,
        **options: Unpack[NeuronOptions],
    ) -> None:
        super().__init__({"tau_syn": tau_syn, "tau_mem": tau_mem, "r": r, "v_leak": v_leak, "w_in": w_in}, **options)


class CubaLIF(Neuron):
    """`LIF` with a synapse: tau_syn i' = -i + w_in x, tau_mem v' = (v_leak - v) + r i.

    Args:
        tau_syn: Time constant of the synaptic current, seconds.
        tau_mem: Time constant of the membrane, seconds.
        r: Gain of the synaptic current, default 1.
        v_leak: Membrane potential at rest, default 0.
        v_threshold: Firing threshold, default 1.
        v_reset: Membrane potential after a spike, default 0.
        w_in: Input gain of the synapse, default 1.
        **options: The keyword arguments of `Neuron`.

    Raises:
        ArgumentError: An argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> from neurocuda import Discretization, nn
        >>> steps = Discretization(dt=1.0)
        >>> lif = nn.CubaLIF(tau_syn=2.0, tau_mem=2.0, r=2.0, w_in=2.0, v_threshold=0.75, discretization=steps)
        >>> lif(torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1)).flatten()
        tensor([1., 0., 1.])
    """

    kind = "CubaLIF"

    def __init__(
        self,
        tau_syn: Value,
        tau_mem: Value,
        r: Value = 1.0,
        v_leak: Value = 0.0,
        v_threshold: Value = 1.0,
        v_reset: Value = 0.0,
        w_in: Value = 1.0,
        **options: Unpack[NeuronOptions],
    ) -> None:
        membrane = {"tau_syn": tau_syn, "tau_mem": tau_mem, "r": r, "v_leak": v_leak}
        super().__init__({**membrane, "v_threshold": v_threshold, "v_reset": v_reset, "w_in": w_in}, **options)


def _unit_gain(r: Value | None, options: NeuronOptions) -> Value:
    """r; None: the r with which an input of 1 adds exactly 1 per time step."""
    if r is not None:
        return r
    d = options.get("discretization")
    d = d if isinstance(d, Discretization) else Discretization()  # Neuron refuses another type
    return 1 / d.dt if d.gain_of("IF") == "r*g" else 1.0
