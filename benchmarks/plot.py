"""The plot of a CSV of results: one panel for each row, one line for each candidate, from the floor to it.

python -m benchmarks.plot benchmarks/results/peers-1-threads.csv
"""

import argparse
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.results import Result, read

COLOURS = {"ours": "#d1495b", "torch": "#8d99ae", "compiled": "#5c946e", "peer": "#30638e"}
FLOOR = "#222222"
COLUMNS = 2


def draw(path: Path) -> Path:
    """Draw the CSV at `path`; the plot is written next to it, and its path returned."""
    results, machine = read(path)
    timed = [r for r in results if r.median is not None and r.kind != "again"]
    rows = [list(group) for _, group in groupby(timed, key=lambda r: r.row)]
    heights = [max(len(row) for row in rows[i : i + COLUMNS]) for i in range(0, len(rows), COLUMNS)]
    figure, axes = plt.subplots(
        len(heights),
        COLUMNS,
        figsize=(12, 1.1 + sum(0.21 * height + 0.75 for height in heights)),
        height_ratios=[height + 1 for height in heights],
        squeeze=False,
        layout="constrained",
    )
    for axis, row in zip(axes.flat, rows, strict=False):
        _panel(axis, row)
    for axis in list(axes.flat)[len(rows) :]:
        axis.axis("off")
    threads = "1 thread" if machine["threads"] == "1" else f"{machine['threads']} threads"
    commit = f", commit {machine['commit']}" if machine["commit"] else ""
    figure.suptitle(
        f"From the floor to each candidate: medians, fastest and slowest run; (×): times NeuroCUDA's; {threads}\n"
        f"{machine['cpu']}, {machine['cores']} cores, {_torch(machine)}, {machine['date']}{commit}",
        fontsize=10,
    )
    handles = [Line2D([], [], color=colour, marker="o", linewidth=3) for colour in COLOURS.values()]
    handles.append(Line2D([], [], color=FLOOR, linestyle="--"))
    labels = ["NeuroCUDA", "PyTorch alone", "torch.compile", "peers", "floor: work that cannot be avoided"]
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return target


def _panel(axis: Axes, row: list[Result]) -> None:
    """One line for each candidate, fastest on top: from the floor to its median, with its fastest and slowest run."""
    shown = sorted((r for r in row if r.kind != "floor"), key=lambda r: r.median or 0.0)
    floor = min((r.median for r in row if r.kind == "floor" and r.median is not None), default=None)
    unit = shown[0].unit.replace("us", "µs")
    largest = max(r.slowest or 0.0 for r in shown)
    smallest = min(r.fastest or largest for r in shown)
    start = smallest / 1.5 if floor is None else floor
    axis.set_xscale("log")
    axis.set_xlim(min(start, smallest) / 1.3, largest * (largest / min(start, smallest)) ** 0.45 * 1.3)
    for position, r in enumerate(shown):
        median, fastest, slowest = r.median or 0.0, r.fastest or 0.0, r.slowest or 0.0
        colour = COLOURS[r.kind]
        axis.plot([start, median], [position, position], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axis.plot([fastest, slowest], [position, position], color=colour, linewidth=1.2)
        axis.plot(median, position, marker="o", markersize=6, color=colour)
        text = f"{_short(median)} {unit}"
        if r.kind != "ours" and r.times_ours is not None:
            text += f"  ({_short(r.times_ours)}×)"
        weight = "bold" if r.kind == "ours" else "normal"
        axis.annotate(
            text, (slowest, position), (6, 0), textcoords="offset points", va="center", fontsize=8, fontweight=weight
        )
    if floor is not None:
        axis.axvline(floor, color=FLOOR, linestyle="--", linewidth=1)
    axis.set_yticks(range(len(shown)), [r.candidate for r in shown], fontsize=8)
    for label, r in zip(axis.get_yticklabels(), shown, strict=True):
        label.set_fontweight("bold" if r.kind == "ours" else "normal")
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if largest > 30 * start else (1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_title(row[0].title, fontsize=9, loc="left", fontweight="bold")
    axis.set_xlabel("µs a step" if row[0].unit == "us" else "ms", fontsize=8, loc="left", labelpad=1)
    axis.spines[["top", "right"]].set_visible(False)


def _torch(machine: Mapping[str, str]) -> str:
    return next(package for package in machine["versions"].split(", ") if package.startswith("torch "))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a CSV of results.")
    parser.add_argument("csv", type=Path)
    print(draw(parser.parse_args().csv))


if __name__ == "__main__":
    main()
