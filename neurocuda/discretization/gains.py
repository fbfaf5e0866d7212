"""The gains of a `Discretization`: the factor of the input, by class of neuron."""

from __future__ import annotations

from collections.abc import Mapping

from neurocuda.errors import ArgumentError

MEMBRANES = ("IF", "LIF", "CubaLIF")
"""Classes of neurons: integrators (I, IF), leaky ones (LI, LIF), and those with a synapse (CubaLI, CubaLIF)."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(MEMBRANES, ("r*g", "g", "r", "1")),
    "synapse": ("w_in*g", "g", "w_in", "1", "decay"),
}
"""The gains of each class, the one of NIR first."""


def canonical(gain: str | Mapping[str, str]) -> str:
    """The gains that differ from NIR's as text: "IF:r, LIF:g", or one for all membranes: "r".

    Raises `ArgumentError` for an unknown class or gain.
    """
    if isinstance(gain, Mapping):
        by_class = dict(gain)
    elif isinstance(gain, str) and ":" not in gain:
        by_class = dict.fromkeys(MEMBRANES, gain)
    elif isinstance(gain, str):
        pairs = [part.split(":", 1) for part in gain.split(",")]
        by_class = {pair[0].strip(): pair[-1].strip() for pair in pairs}
    else:
        raise ArgumentError(f"discretization, field 'gain': expected a string or a mapping by class, found {gain!r}")
    for name, value in by_class.items():
        if name not in _CHOICES:
            known = ", ".join(map(repr, _CHOICES))
            raise ArgumentError(f"discretization, field 'gain': expected one of the classes {known}, found {name!r}")
        _check("gain", name, value)
    gains = {name: by_class.get(name, choices[0]) for name, choices in _CHOICES.items()}
    membranes = {gains[name] for name in MEMBRANES}
    if len(membranes) == 1 and gains["synapse"] == _CHOICES["synapse"][0]:
        return membranes.pop()
    return ", ".join(f"{name}:{value}" for name, value in gains.items() if value != _CHOICES[name][0])


def gain_of(gain: str, name: str) -> str:
    """The gain of a class, from canonical text."""
    if ":" not in gain:
        return gain if name in MEMBRANES else _CHOICES[name][0]
    return dict(part.split(":") for part in gain.split(", ")).get(name, _CHOICES[name][0])


def with_gain(gain: str, name: str, value: str, field: str) -> str:
    """Canonical text with another gain of one class; `field` names it in an error."""
    _check(field, name, value)
    return canonical({key: gain_of(gain, key) for key in _CHOICES} | {name: value})


def _check(field: str, name: str, value: str) -> None:
    choices = [*_CHOICES[name], *(("r*dt",) if field == "if_gain" else ())]
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        where = "" if field == "if_gain" else f" of {name}"
        raise ArgumentError(f"discretization, field {field!r}: expected one of {listed}{where}, found {value!r}")
