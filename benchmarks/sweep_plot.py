"""The plot of a CSV of sweeps: a panel for each, time for one unit of work over the number that grows.

python -m benchmarks.sweep_plot benchmarks/results/sweeps.csv
"""

import csv
import sys
from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = 2
_OURS = ("#d1495b", "#ed9a7a", "#8c2f39", "#f2c14e")
_OTHERS = ("#30638e", "#8d99ae", "#5c946e", "#7a6c9d")


def draw(path: Path) -> Path:
    """Draw the CSV at `path`; the plot is written next to it, and its path returned."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    panels = [(title, list(group)) for title, group in groupby(lines, key=lambda line: line["title"])]
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(15, 3.6 * rows), squeeze=False, layout="constrained")
    for axis, (title, group) in zip(axes.flat, panels, strict=False):
        names = list(dict.fromkeys(line["candidate"] for line in group))
        ours = iter(_OURS * len(names))
        others = iter(_OTHERS * len(names))
        for name in names:
            colour = next(ours) if name.startswith("neurocuda") else next(others)
            for threads, style in (("1", "-"), ("2", "--")):
                mine = [g for g in group if g["candidate"] == name and g["used_threads"] == threads]
                if mine:
                    x, y = [float(g["value"]) for g in mine], [float(g["ns_per_unit"]) for g in mine]
                    label = name if threads == "1" else None
                    axis.plot(x, y, style, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=label)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel(group[0]["number"])
        axis.set_ylabel(f"ns for a {group[0]['unit']}")
        axis.grid(alpha=0.25, which="both", linewidth=0.4)
        axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis("off")
    first = lines[0]
    figure.suptitle(
        "Cost of a unit of work as the work grows: a level line grows as the work does; dashed: two threads\n"
        f"{first['cpu']}, {first['cores']} cores, {first['date']}, commit {first['commit']}",
        fontsize=10,
    )
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
