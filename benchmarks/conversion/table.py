"""The results of a conversion: one line for each network, method and time, on the screen, as a CSV and as a plot."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One result in percent, on so many test images; of `total` steps the last `timesteps` are read, after `delay`."""

    network: str
    images: int
    method: str
    thresholds: str
    timesteps: int
    delay: int
    total: int
    accuracy: float
    gap: float
    agreement: float


def show(console: Console, original: Row, rows: Sequence[Row]) -> None:
    """A table of one network."""
    title = f"{original.network}, {original.images} test images: original {original.accuracy:.2f} %"
    table = Table(title=title, title_justify="left")
    for name in ("method", "thresholds"):
        table.add_column(name)
    for name in ("total", "delay", "read", "accuracy %", "gap", "agreement %"):
        table.add_column(name, justify="right")
    for row in rows:
        numbers = [str(n) for n in (row.total, row.delay, row.timesteps)]
        figures = [f"{value:.2f}" for value in (row.accuracy, row.gap, row.agreement)]
        style = "bold" if row.method == "neurocuda" else None
        table.add_row(row.method, row.thresholds, *numbers, *figures, style=style)
    console.print(table)


Lines = list[dict[str, str]]


def lines(path: Path) -> Lines:
    """The lines of an earlier run as they stand, with the machine that each was taken on; none without a file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Iterable[Row], machine: Mapping[str, str], kept: Lines | None = None) -> None:
    """All rows as a CSV, the machine repeated on each line, after the lines that are kept from an earlier run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        names = [field.name for field in fields(Row)]
        writer = csv.DictWriter(file, [*names, *machine], lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept or [])
        for row in rows:
            values = {k: f"{v:.2f}" if isinstance(v, float) else v for k, v in asdict(row).items()}
            writer.writerow({**values, **machine})


def read(path: Path) -> list[Row]:
    """Reads a file of `write`."""
    with path.open(newline="") as file:
        return [
            Row(
                line["network"],
                int(line["images"]),
                *(line[name] for name in ("method", "thresholds")),
                *(int(line[name]) for name in ("timesteps", "delay", "total")),
                *(float(line[name]) for name in ("accuracy", "gap", "agreement")),
            )
            for line in csv.DictReader(file)
        ]


def draw(path: Path) -> Path:
    """Accuracy over the steps in all, one panel for each network; the plot is written next to the CSV.

    All lines of a panel are on the same images: as many as the most methods were measured on.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read(path)
    names = list(dict.fromkeys(row.network for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(5.6 * len(names), 5.0), squeeze=False, layout="constrained")
    palette = ("#30638e", "#5c946e", "#8d99ae", "#edae49", "#9d4edd", "#6b705c")
    others = dict.fromkeys(row.method for row in rows if row.total and row.method != "neurocuda")
    colours = dict(zip(others, palette * len(others), strict=False))
    legend: dict[str, Any] = {}
    for axis, name in zip(axes.flat, names, strict=True):
        own = comparable([row for row in rows if row.network == name])
        original = next(row.accuracy for row in own if row.method == "original")
        own = sorted((row for row in own if row.total), key=lambda row: row.method != "neurocuda")
        legend["original"] = axis.axhline(original, color="0.4", linestyle="--", linewidth=1)
        methods = list(dict.fromkeys(row.method for row in own))
        for method in methods:
            ours = method == "neurocuda"
            best: dict[int, float] = {}
            for row in own:
                if row.method == method and (not ours or "with the delay" in row.thresholds):
                    best[row.total] = max(best.get(row.total, 0.0), row.accuracy)
            style = {"color": "#d1495b", "linewidth": 2.5} if ours else {"color": colours[method]}
            label = f"{method}, delay chosen" if ours else method
            (legend[label],) = axis.plot(list(best), list(best.values()), marker="o", markersize=4, **style)
        totals = sorted({row.total for row in own if row.method != "neurocuda"} or {8, 16, 32})
        axis.set_xscale("log", base=2)
        axis.set_xticks(totals, [str(total) for total in totals])
        axis.set_title(f"{name}, {own[0].images} test images of Fashion-MNIST")
        axis.set_xlabel("steps in all, the delay of read-out counted")
        axis.set_ylim(70, original + 1.5)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("accuracy %")
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    picture = path.with_suffix(".png")
    figure.savefig(picture, dpi=120)
    return picture


def comparable(rows: Sequence[Row]) -> list[Row]:
    """Those on the number of images that most methods have, the larger one in doubt."""
    methods = {images: len({row.method for row in rows if row.images == images}) for images in {r.images for r in rows}}
    most = max(methods, key=lambda images: (methods[images], images))
    return [row for row in rows if row.images == most]
