"""Fields of a `Discretization` that may differ by class of neuron, as text: "r", or "IF:r, LIF:g"."""

from __future__ import annotations

from collections.abc import Mapping

from neurocuda.errors import ArgumentError

MEMBRANES = ("IF", "LIF", "CubaLIF")
"""Classes of neurons: integrators (I, IF), leaky ones (LI, LIF), and those with a synapse (CubaLI, CubaLIF)."""

Choices = Mapping[str, tuple[str, ...]]
"""The values of each class, the default first."""

GAINS: Choices = {
    **dict.fromkeys(MEMBRANES, ("r*g", "g", "r", "1")),
    "synapse": ("w_in*g", "g", "w_in", "1", "decay"),
}
INITIAL_STATES: Choices = dict.fromkeys(MEMBRANES, ("zero", "v_reset", "v_leak"))
RESET_DELAYS: Choices = dict.fromkeys(MEMBRANES, ("0", "1"))
CLAMPS: Choices = dict.fromkeys(MEMBRANES, ("none", "zero", "-threshold"))


def canonical(field: str, value: object, choices: Choices) -> str:
    """The text of a field: of the classes that differ from the default, or one value for all neurons.

    value: such a text, in any order, or a mapping by class. Raises `ArgumentError` for an unknown class or value.
    """
    if isinstance(value, Mapping):
        by_class = dict(value)
    elif isinstance(value, str) and ":" in value:
        pairs = [part.split(":", 1) for part in value.split(",")]
        by_class = {pair[0].strip(): pair[-1].strip() for pair in pairs}
    else:
        by_class = dict.fromkeys(MEMBRANES, value)
    for name, chosen in by_class.items():
        if name not in choices:
            _refuse(field, "one of the classes", choices, name)
        if isinstance(chosen, bool) or str(chosen) not in choices[name] or not isinstance(chosen, str | int):
            _refuse(field, f"for {name} one of", choices[name], chosen)
    found = {name: str(by_class.get(name, values[0])) for name, values in choices.items()}
    membranes = {found[name] for name in MEMBRANES}
    if len(membranes) == 1 and all(found[name] == choices[name][0] for name in found if name not in MEMBRANES):
        return membranes.pop()
    return ", ".join(f"{name}:{chosen}" for name, chosen in found.items() if chosen != choices[name][0])


def value_of(text: str, name: str, choices: Choices) -> str:
    """The value of a class, from canonical text."""
    default = choices[name][0]
    if ":" not in text:
        return text if name in MEMBRANES else default
    return dict(part.split(":") for part in text.split(", ")).get(name, default)


def _refuse(field: str, expected: str, known: object, found: object) -> None:
    listed = ", ".join(map(repr, known)) if isinstance(known, tuple | Mapping) else ""
    raise ArgumentError(f"discretization, field {field!r}: expected {expected} {listed}, found {found!r}")
