"""Time constants and delays that do not fit dt: counted in steps, multiplied by dt, too short, or between two steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurocuda.discretization.exporters import exporter_dt
from neurocuda.discretization.settings import PRESETS, Discretization
from neurocuda.graph import Graph

_MANY_STEPS = 1000.0
"""Time steps in a time constant or a delay of 1 s or more, from which on it probably counts steps."""

_OFF = 0.01
"""The relative error from which on a rounded delay is another delay."""

_FLOAT32 = 1e-6
"""The relative rounding error of a time that is stored as float32, with some margin."""

_NO_DELAY = 1e-6
"""The part of a step below which a delay is taken for zero with a rounding error."""

_NORSE_DT = 1e-6
"""The dt that fits files of Norse 1.1.0: its exporter multiplies time constants by its dt, 1e-3 by default."""


@dataclass(frozen=True)
class Doubt:
    """A probable mistake of a graph under a discretization, and the discretization that was probably meant."""

    text: str
    remedy: Discretization | None = None


@dataclass(frozen=True)
class _Times:
    """The finite time constants of a neuron: its field with the least one, the least, the largest."""

    name: str
    field: str
    least: float
    largest: float
    is_spiking: bool


def time_doubts(graph: Graph, d: Discretization, exporter: str | None) -> Iterator[Doubt]:
    """At most one warning of time constants, and one of delays."""
    times = list(_time_constants(graph))
    delays = {
        node.name: np.unique(node.array("delay").astype(np.float64))
        for node in graph.nodes.values()
        if node.primitive.is_delay
    }
    counted = list(_counted(times, list(delays.values()), d, exporter))
    yield from counted or [*_short(times, graph, d, exporter), *_between_steps(delays, d)]


def _time_constants(graph: Graph) -> Iterator[_Times]:
    for node in graph.nodes.values():
        fields = {name: node.array(name) for name in ("tau", "tau_mem", "tau_syn") if name in node.parameters}
        finite = {name: array[np.isfinite(array)] for name, array in fields.items()}
        least = {name: float(array.min()) for name, array in finite.items() if array.size}
        if least:
            field = min(least, key=lambda name: least[name])
            largest = max(float(array.max()) for array in finite.values() if array.size)
            yield _Times(node.name, field, least[field], largest, node.primitive.is_spiking)


def _counted(
    times: Sequence[_Times], delays: Sequence[np.ndarray], d: Discretization, exporter: str | None
) -> Iterator[Doubt]:
    """Time constants and delays in steps, or in milliseconds, where dt is in seconds."""
    parts = []
    if any(time.is_spiking for time in times) and all(_is_count(time.least, d) for time in times):
        parts.append(f"time constants of {_span([t for time in times for t in (time.least, time.largest)])} s")
    positive = [float(delay) for array in delays for delay in array if delay > 0]
    if positive and all(_is_count(delay, d) and delay == round(delay) for delay in positive):
        parts.append(f"delays of {_span(positive)} s")
    if not parts or (times and not parts[0].startswith("time")):
        return  # with time constants in seconds, a delay of seconds is one
    request, remedy = "as sinabs, Spyx and SpiNNaker2 write them: request dt=1.0", replace(d, dt=1.0)
    if exporter is not None and exporter in PRESETS and PRESETS[exporter].dt == 1.0:
        request, remedy = f"as {exporter} writes them: request Discretization.{exporter}()", PRESETS[exporter]
    yield Doubt(
        f"{' and '.join(parts)} are {_MANY_STEPS:.0f} or more steps of dt = {d.dt:g} s; they probably count time "
        f"steps, {request}",
        remedy,
    )


def _is_count(time: float, d: Discretization) -> bool:
    return time >= 1 and time / d.dt >= _MANY_STEPS


def _span(values: Iterable[float]) -> str:
    low, high = min(values := list(values)), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _short(times: Sequence[_Times], graph: Graph, d: Discretization, exporter: str | None) -> Iterator[Doubt]:
    """Time constants shorter than a step."""
    euler = d.integrator == "euler"
    limit = (d.dt if euler else d.dt / 10) * (1 - _FLOAT32)
    short = [time for time in times if time.least < limit]
    if not short:
        return
    consequence = (
        "with integrator='euler' its decay is negative and it oscillates" if euler else "it decays fully in each step"
    )
    text = (
        f"node {short[0].name!r}: {short[0].field} = {short[0].least:.6g} s is shorter than dt = {d.dt:g} s; "
        f"{consequence}{_others(len(short))}"
    )
    if exporter == "norse" and max(time.largest for time in times) <= 200 * _NORSE_DT:
        request = "Norse's exporter multiplies time constants by its dt (1e-3 by default): request "
        yield Doubt(f"{text}; {request}Discretization.norse(dt={_NORSE_DT:g})", Discretization.norse(dt=_NORSE_DT))
        return
    written = exporter_dt(graph, exporter)
    shortest = min(time.least for time in short)
    dt = written if written is not None and written < d.dt else 10.0 ** math.floor(math.log10(shortest))
    preset = PRESETS.get(exporter or "")
    request = f"dt={dt:g}" if preset is None else f"Discretization.{exporter}(dt={dt:g})"
    yield Doubt(f"{text}; request {request}", replace(d if preset is None else preset, dt=dt))


def _between_steps(delays: dict[str, np.ndarray], d: Discretization) -> Iterator[Doubt]:
    """Delays that rounding to steps changes."""
    changed: dict[str, float] = {}
    for name, array in delays.items():
        steps = array / d.dt
        off = np.abs(steps - np.rint(steps)) / np.maximum(steps, 1e-30)
        off[steps < _NO_DELAY] = 0
        if (off > _OFF).any():
            changed[name] = float(array[np.argmax(off)])
    if not changed:
        return
    name, delay = next(iter(changed.items()))
    all_delays = np.unique(np.concatenate(list(delays.values())))
    dt = _common_step(d.dt, [float(t) for t in all_delays if t >= _NO_DELAY * d.dt])
    request = "" if dt is None else f"; request dt={dt:g}, which divides all delays"
    yield Doubt(
        f"node {name!r}: a delay of {delay:.6g} s is {delay / d.dt:.6g} steps of dt = {d.dt:g} s and is rounded to "
        f"{np.rint(delay / d.dt):.0f}{_others(len(changed))}{request}",
        None if dt is None else replace(d, dt=dt),
    )


def _common_step(dt: float, delays: Sequence[float]) -> float | None:
    """The greatest common divisor of dt and delays, up to float32's precision; None below a hundredth of the least."""
    common, least = dt, min(dt, *delays)
    for delay in delays:
        rest = delay
        while rest > 1e-3 * least:
            common, rest = rest, abs(common - rest * round(common / rest))
        if common < max(least, dt) / 100:
            return None
    return float(f"{common:.6g}")


def _others(count: int) -> str:
    return f" ({count - 1} more such nodes)" if count > 1 else ""
