"""Neurons of snnTorch, Norse, sinabs and SpikingJelly as NIR neurons, with the meaning that they have in their tool.

Read in the sources of snnTorch 1.0.0, Norse 1.1.0, sinabs 3.1.3 and SpikingJelly 2.0.0. A tool is recognized by the
package of the class; nothing of it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neurocuda import nn as ours
from neurocuda.discretization.settings import Discretization

Make = Callable[[Discretization], ours.Neuron]


class Unsupported(Exception):
    """A neuron whose options no Discretization expresses: what it has, what is supported."""

    def __init__(self, found: str, supported: str) -> None:
        super().__init__(found, supported)
        self.found, self.supported = found, supported


@dataclass(frozen=True)
class Translated:
    """A neuron of a tool.

    make: the neuron for a Discretization. changes: fields of the tool's native preset that it needs otherwise, by class
    where a field has classes. recurrent: the layer from its spikes to its input. before: a layer in front of it.
    """

    make: Make
    changes: Mapping[str, Any] = field(default_factory=dict)
    recurrent: nn.Linear | None = None
    before: nn.Linear | None = None


def tool_of(module: nn.Module) -> str | None:
    """The tool that a module belongs to: a key of `NEURONS`; None for others."""
    package = type(module).__module__.split(".")[0]
    return package if package in NEURONS else None


def translated(module: nn.Module) -> Translated | None:
    """A neuron of a tool, translated; None for other modules. Raises `Unsupported`."""
    rule = NEURONS.get(type(module).__module__.split(".")[0], {}).get(type(module).__name__)
    return None if rule is None else rule(module)


def _require(holds: bool, found: str, supported: str) -> None:
    if not holds:
        raise Unsupported(found, supported)


def _exact(value: Any) -> Tensor:
    """A parameter as float64, a single value without axes."""
    tensor = torch.as_tensor(value).detach().cpu().double()
    return tensor.reshape(()) if tensor.numel() == 1 else tensor


def _decay(value: Any) -> Tensor:
    """A decay of snnTorch, which clamps it to [0, 1] in each step; dt / (1 - decay) is the time constant of Euler."""
    decay = _exact(value).clamp(0, 1)
    _require(bool((decay < 1).all()), "a decay of 1", "a decay below 1")
    return decay


def _snntorch(module: Any, zero_keeps_the_input: bool) -> Mapping[str, Any]:
    """The fields for the reset of a snnTorch neuron."""
    _require(not module.inhibition, "inhibition", "inhibition=False")
    _require(not module.state_quant, "state_quant", "state_quant=False")
    _require(float(torch.as_tensor(module.graded_spikes_factor)) == 1, "graded spikes", "graded_spikes_factor=1")
    reset, late = module._reset_mechanism, bool(getattr(module, "reset_delay", True))
    if reset == "zero" and (not late or zero_keeps_the_input):
        return {"reset": "to-value", "reset_delay": int(late)}
    _require(reset == "subtract" and late, f"reset_mechanism={reset!r} with reset_delay={late}", "the default reset")
    return {"reset": "subtract", "reset_delay": 1}


def _leaky(module: Any) -> Translated:
    beta, threshold = _decay(module.beta), _exact(module.threshold)

    def make(d: Discretization) -> ours.Neuron:
        tau = d.dt / (1 - beta)
        return ours.LIF(tau=tau, r=tau / d.dt, v_threshold=threshold, discretization=d)

    return Translated(make, _snntorch(module, zero_keeps_the_input=True))


def _synaptic(module: Any) -> Translated:
    alpha, beta, threshold = _decay(module.alpha), _decay(module.beta), _exact(module.threshold)

    def make(d: Discretization) -> ours.Neuron:
        syn, mem = d.dt / (1 - alpha), d.dt / (1 - beta)
        return ours.CubaLIF(syn, mem, w_in=syn / d.dt, r=mem / d.dt, v_threshold=threshold, discretization=d)

    return Translated(make, _snntorch(module, zero_keeps_the_input=False))


def _rleaky(module: Any) -> Translated:
    plain, recurrent = _leaky(module), module.recurrent
    if type(recurrent).__name__ == "RecurrentOneToOne":
        own = torch.as_tensor(recurrent.V).detach().reshape(-1)
        _require(own.numel() > 1, "all_to_all=False with one V for all neurons", "V with one value for each neuron")
        recurrent = nn.Linear(len(own), len(own), bias=False)
        recurrent.weight.data = torch.diag(own)
    _require(isinstance(recurrent, nn.Linear), f"a recurrent {type(recurrent).__name__}", "a recurrent Linear")
    return Translated(plain.make, _snntorch(module, zero_keeps_the_input=False), recurrent)


def _norse_reset(module: Any) -> None:
    method = getattr(module.p, "reset_method", None)
    name = getattr(method, "__name__", "reset_value")
    _require(name == "reset_value", f"reset_method={name}", "reset_value")


def _lif_box(module: Any) -> Translated:
    p, dt = module.p, module.dt
    _norse_reset(module)
    tau, leak = 1 / _exact(p.tau_mem_inv), _exact(p.v_leak)
    level, reset = _exact(p.v_th), _exact(p.v_reset)
    return Translated(lambda d: ours.LIF(tau, 1.0, leak, level, reset, discretization=d), {"dt": dt})


def _iaf(module: Any) -> Translated:
    level, reset = _exact(module.p.v_th), _exact(module.p.v_reset)
    return Translated(lambda d: ours.IF(1.0, level, reset, discretization=d), {"dt": module.dt})


def _li_box(module: Any) -> Translated:
    tau, leak = 1 / _exact(module.p.tau_mem_inv), _exact(module.p.v_leak)
    return Translated(lambda d: ours.LI(tau, v_leak=leak, discretization=d), {"dt": module.dt})


def _lif_cell(module: Any) -> Translated:
    p = module.p
    _norse_reset(module)
    syn, mem = 1 / _exact(p.tau_syn_inv), 1 / _exact(p.tau_mem_inv)
    leak, level, reset = _exact(p.v_leak), _exact(p.v_th), _exact(p.v_reset)

    def make(d: Discretization) -> ours.Neuron:
        return ours.CubaLIF(syn, mem, v_leak=leak, v_threshold=level, v_reset=reset, discretization=d)

    return Translated(make, {"dt": module.dt})


def _lif_recurrent_cell(module: Any) -> Translated:
    into, back = module.input_weights.detach(), module.recurrent_weights.detach().clone()
    if not module.autapses:
        back.fill_diagonal_(0)
    return Translated(_lif_cell(module).make, {"dt": module.dt}, _linear(back), _linear(into))


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    return layer


def _sinabs_fields(module: Any, kind: str) -> dict[str, Any]:
    spikes, reset = _name(module.spike_fn), _name(module.reset_fn)
    _require(spikes in ("MultiSpike", "SingleSpike"), f"spike_fn={spikes}", "MultiSpike or SingleSpike")
    _require(
        reset == "MembraneSubtract" and module.reset_fn.subtract_value is None,
        f"reset_fn={module.reset_fn}",
        "MembraneSubtract() with the threshold",
    )
    fields: dict[str, Any] = {"spikes_per_step": "many" if spikes == "MultiSpike" else "one"}
    least, threshold = module.min_v_mem, _exact(module.spike_threshold)
    if least is None:
        return fields | {"clamp": f"{kind}:none"}
    below = "zero" if not _exact(least).any() else "-threshold"
    fits = below == "zero" or bool((_exact(least) == -threshold).all())
    _require(fits, f"min_v_mem={least}", "None, 0 or minus the threshold")
    return fields | {"clamp": f"{kind}:{below}"}


def _name(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)


def _sinabs_iaf(module: Any) -> Translated:
    threshold = _exact(module.spike_threshold)
    _require(module.tau_syn is None, "tau_syn", "tau_syn=None")
    return Translated(lambda d: ours.IF(1.0, threshold, discretization=d), _sinabs_fields(module, "IF"))


def _tau_of_exponential(alpha: Any) -> Tensor:
    """The time constant in steps whose decay, exp(-1 / tau), has these float32 bits."""
    return -1 / torch.log(_exact(alpha))


def _sinabs_lif(module: Any) -> Translated:
    tau, threshold = _tau_of_exponential(module.alpha_mem_calculated), _exact(module.spike_threshold)
    gain, kind = ("g" if module.norm_input else "1"), "LIF" if module.tau_syn is None else "CubaLIF"
    fields = {**_sinabs_fields(module, kind), "gain": f"{kind}:{gain}"}
    if module.tau_syn is None:
        return Translated(lambda d: ours.LIF(tau, v_threshold=threshold, discretization=d), fields)
    syn = _tau_of_exponential(module.alpha_syn_calculated)
    return Translated(lambda d: ours.CubaLIF(syn, tau, v_threshold=threshold, discretization=d), fields)


def _sinabs_leak(module: Any) -> Translated:
    tau = _tau_of_exponential(module.alpha_mem_calculated)
    _require(module.tau_syn is None and module.min_v_mem is None, "tau_syn or min_v_mem", "neither")
    gain = "g" if module.norm_input else "1"
    return Translated(lambda d: ours.LI(tau, discretization=d), {"gain": f"LIF:{gain}"})


def _sinabs_recurrent(rule: Callable[[Any], Translated]) -> Callable[[Any], Translated]:
    def recurrent(module: Any) -> Translated:
        back = module.rec_connect
        _require(isinstance(back, nn.Linear), f"rec_connect={type(back).__name__}", "a Linear")
        plain = rule(module)
        return Translated(plain.make, plain.changes, back)

    return recurrent


def _jelly(module: Any) -> tuple[dict[str, Any], float]:
    """The fields for the reset of a SpikingJelly neuron, and its v_reset."""
    if module.v_reset is None:
        return {"reset": "subtract", "initial_state": "zero"}, 0.0
    return {"reset": "to-value", "initial_state": "v_reset"}, float(module.v_reset)


def _if_node(module: Any) -> Translated:
    fields, reset = _jelly(module)
    threshold = float(module.v_threshold)
    return Translated(lambda d: ours.IF(1 / d.dt, threshold, reset, discretization=d), fields)


def _lif_node(module: Any) -> Translated:
    fields, reset = _jelly(module)
    tau, threshold = float(module.tau), float(module.v_threshold)
    r = 1.0 if module.decay_input else tau
    return Translated(lambda d: ours.LIF(tau * d.dt, r, reset, threshold, reset, discretization=d), fields)


NEURONS: Mapping[str, Mapping[str, Callable[[Any], Translated]]] = {
    "snntorch": {"Leaky": _leaky, "RLeaky": _rleaky, "Synaptic": _synaptic},
    "norse": {
        "LIFBoxCell": _lif_box,
        "IAFCell": _iaf,
        "LIBoxCell": _li_box,
        "LIFCell": _lif_cell,
        "LIFRecurrentCell": _lif_recurrent_cell,
    },
    "sinabs": {
        **dict.fromkeys(("IAF", "IAFSqueeze"), _sinabs_iaf),
        **dict.fromkeys(("LIF", "LIFSqueeze"), _sinabs_lif),
        **dict.fromkeys(("ExpLeak", "ExpLeakSqueeze"), _sinabs_leak),
        **dict.fromkeys(("IAFRecurrent",), _sinabs_recurrent(_sinabs_iaf)),
        **dict.fromkeys(("LIFRecurrent",), _sinabs_recurrent(_sinabs_lif)),
    },
    "spikingjelly": {"IFNode": _if_node, "LIFNode": _lif_node},
}
"""The neurons of each tool by the name of their class."""
