"""The plot of a JSON of measurements: bandwidth relative to a plain copy of the same run.

python -m benchmarks.on_gpu.roofline results.json
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.on_gpu.measurements import Measurement, read
from benchmarks.plot import COLOURS, FLOOR

MARKERS = "os^Dv*PX<>hp8d"


def draw(path: Path) -> Path:
    """Draw the JSON at `path`; the plot is written next to it, and its path returned."""
    measurements, machine = read(path)
    timed = [m for m in measurements if m.median_ms is not None]
    networks = [m for m in timed if m.group == "network"]
    small = [
        (panel, [m for m in timed if m.group in groups])
        for panel, groups in ((_roof, ("neuron", "residual")), (_sizes, ("neuron",)), (_recurrent, ("recurrent",)))
    ]
    small = [(panel, found) for panel, found in small if found]
    heights = [5.0] * bool(small) + [1 + 0.14 * (len(networks) + len({m.case for m in networks}))] * bool(networks)
    figure = plt.figure(figsize=(14 if small else 8, sum(heights) + 0.5), layout="constrained")
    rows = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    if small:
        columns = rows[0].subgridspec(1, len(small))
        for place, (panel, found) in enumerate(small):
            panel(figure.add_subplot(columns[place]), found)
    if networks:
        _networks(figure.add_subplot(rows[-1]), networks)
    commit = f", commit {machine['commit']}" if machine.get("commit") else ""
    versions = f"driver {machine.get('driver', '?')}, CUDA {machine.get('cuda', '?')}"
    figure.suptitle(f"{machine.get('gpu', '?')}, {versions}, {machine.get('date', '?')}{commit}", fontsize=10)
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=130)
    plt.close(figure)
    return target


def _roof(axis: Axes, found: Sequence[Measurement]) -> None:
    """Neuron-steps a second over bytes of each: the line is what a copy of the same run allows."""
    axis.set_title("The roof: a copy's bandwidth over the bytes of a neuron-step", fontsize=9, loc="left")
    axis.set_xlabel("bytes a neuron-step", fontsize=8)
    axis.set_ylabel("G neuron-steps/s, the fastest size", fontsize=8)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    copies = [m.copy for m in found if m.copy is not None]
    if not copies:
        return
    widths = sorted({m.bytes_per_step for m in found if m.bytes_per_step is not None})
    line = [min(widths) / 1.3, max(widths) * 1.3]
    axis.plot(line, [median(copies) / width / 1e9 for width in line], color=FLOOR, linestyle="--", linewidth=1)
    best: dict[tuple[str, str, str, float], float] = {}
    for m in found:
        speed = m.steps_per_second
        if speed is not None and m.bytes_per_step is not None:
            key = (m.candidate, m.input, m.output, m.bytes_per_step)
            best[key] = max(best.get(key, 0.0), speed / 1e9)
    for place, candidate in enumerate(dict.fromkeys(key[0] for key in best)):
        x, y = zip(*((key[3], speed) for key, speed in best.items() if key[0] == candidate), strict=True)
        axis.plot(x, y, MARKERS[place % len(MARKERS)], label=candidate, markersize=6, alpha=0.8)
    for width in widths:
        kinds = dict.fromkeys(f"{m.input} to {m.output}" for m in found if m.bytes_per_step == width)
        roof = (width, median(copies) / width / 1e9)
        axis.annotate("\n".join(kinds), roof, (3, 3), textcoords="offset points", fontsize=6)
    axis.legend(fontsize=7, frameon=False)
    axis.grid(color="#e6e6e6", linewidth=0.8)


def _sizes(axis: Axes, found: Sequence[Measurement]) -> None:
    """Percent of the copy over the number of neurons, float32, a line for each number of steps."""
    axis.set_title("Percent of the copy bandwidth, fp32 to fp32", fontsize=9, loc="left")
    axis.set_xlabel("neurons", fontsize=8)
    axis.set_xscale("log", base=2)
    axis.axhline(100, color=FLOOR, linestyle="--", linewidth=1)
    chosen = [m for m in found if (m.input, m.output) == ("fp32", "fp32")]
    keys = sorted({(m.candidate, m.steps) for m in chosen})
    for place, (candidate, steps) in enumerate(keys):
        line = sorted((m.neurons, m.percent_of_copy) for m in chosen if (m.candidate, m.steps) == (candidate, steps))
        x, y = zip(*line, strict=True)
        axis.plot(x, y, marker=MARKERS[place % len(MARKERS)], markersize=4, label=f"{candidate}, T = {steps}")
    if keys:
        axis.legend(fontsize=7, frameon=False)
    axis.grid(color="#e6e6e6", linewidth=0.8)


def _recurrent(axis: Axes, found: Sequence[Measurement]) -> None:
    """Microseconds of a step over the number of neurons, for the smallest and the largest batch."""
    axis.set_title("Recurrent populations: µs a step", fontsize=9, loc="left")
    axis.set_xlabel("neurons", fontsize=8)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    batches = sorted({m.batch for m in found})
    ends = {batches[0], batches[-1]} if batches else set()
    keys = sorted({(m.candidate, m.batch) for m in found if m.batch in ends})
    for place, (candidate, batch) in enumerate(keys):
        line = sorted(
            (m.neurons, (m.median_ms or 0.0) * 1e3 / m.steps)
            for m in found
            if (m.candidate, m.batch) == (candidate, batch)
        )
        x, y = zip(*line, strict=True)
        axis.plot(x, y, marker=MARKERS[place % len(MARKERS)], markersize=4, label=f"{candidate}, B = {batch}")
    if keys:
        axis.legend(fontsize=7, frameon=False)
    axis.grid(color="#e6e6e6", linewidth=0.8)


def _networks(axis: Axes, found: Sequence[Measurement]) -> None:
    """Milliseconds of every candidate of every network, fastest first."""
    axis.set_title("Networks: ms a run", fontsize=9, loc="left")
    axis.set_xscale("log")
    names, place = [], 0
    for case, group in groupby(found, key=lambda m: m.case):
        names.append((place, case, True))
        for m in sorted(group, key=lambda m: m.median_ms or 0.0):
            place += 1
            axis.barh(place, m.median_ms or 0.0, color=_colour(m.kind))
            names.append((place, m.candidate, False))
        place += 1
    axis.set_yticks([at for at, _, _ in names], [name for _, name, _ in names], fontsize=6)
    for label, (_, _, heading) in zip(axis.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if heading else "normal")
    axis.set_ylim(place, -1)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _colour(kind: str, colours: Mapping[str, str] = COLOURS) -> str:
    return colours.get(kind, FLOOR)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a JSON of measurements.")
    parser.add_argument("json", type=Path)
    print(draw(parser.parse_args().json))


if __name__ == "__main__":
    main()
