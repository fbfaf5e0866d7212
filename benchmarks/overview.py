"""The speed table and the speed plot of the README, from the committed results: `python -m benchmarks.overview`.

Prints the rows of the table, and writes docs/speed.png.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks import results
from benchmarks.machine import ROOT
from benchmarks.on_gpu import measurements
from benchmarks.plot import COLOURS

CPU = ROOT / "benchmarks/results/peers-1-threads.csv"
GPU = ROOT / "benchmarks/results/gpu-nvidia-h100-80gb-hbm3.json"
PICTURE = ROOT / "docs/speed.png"
OURS = {CPU: "neurocuda", GPU: "neurocuda, CUDA graph"}
KINDS = {"peer": "fastest other simulator", "torch": "fastest plain PyTorch", "compiled": "fastest torch.compile"}
NETWORKS = {
    CPU: {
        "ResNet-18, T = 8, B = 4, 10.2% firing": "ResNet-18, 8-bit weights, T = 8, B = 4",
        "N-MNIST CNN of the paper, T = 300, B = 4, 1.2% firing": "N-MNIST CNN, T = 300, B = 4",
        "Braille RSNN, T = 256, B = 64, 0.8% firing": "Braille RSNN, T = 256, B = 64",
        "One step of the digits network, T = 64, B = 1, 4.9% firing": "digits, one step, B = 1",
        "LIF alone, N = 100000, T = 100, B = 1, 13.2% firing": "100,000 LIF neurons, T = 100",
    },
    GPU: {
        "ResNet-18 of 8 bits, T = 8, B = 32, 10.2% firing": "ResNet-18, 8-bit weights, T = 8, B = 32",
        "ResNet-18 of float32, T = 8, B = 32, 11.3% firing": "ResNet-18, float32, T = 8, B = 32",
        "N-MNIST CNN of the paper, T = 300, B = 32, 1.2% firing": "N-MNIST CNN, T = 300, B = 32",
        "Braille RSNN, T = 256, B = 256, 0.8% firing": "Braille RSNN, T = 256, B = 256",
        "Digits network, T = 64, B = 256, 5.4% firing": "digits, T = 64, B = 256",
    },
}
"""The networks shown, by file and by their title in it."""


@dataclass(frozen=True)
class Row:
    """Median milliseconds of NeuroCUDA on one network, and the fastest candidate of each other kind, with its name."""

    network: str
    ours: float
    others: dict[str, tuple[float, str]]

    def markdown(self) -> str:
        """A row of the table: milliseconds, and the times of the others as multiples of NeuroCUDA's."""
        cells = [f"{self.network} | {_short(self.ours)} ms"]
        for kind, (ms, name) in self.others.items():
            cells.append(f"{_short(ms / self.ours)}×" + (f" ({name.partition(',')[0]})" if kind == "peer" else ""))
        return f"| {' | '.join(cells)} |"


def rows(path: Path) -> list[Row]:
    """The rows of one file of results, in the order of `NETWORKS`."""
    return [_row(path, title, name) for title, name in NETWORKS[path].items()]


def _row(path: Path, title: str, name: str) -> Row:
    found = [(ms, kind, candidate) for case, ms, kind, candidate in _timed(path) if case == title]
    ours = next(ms for ms, _, candidate in found if candidate == OURS[path])
    others = {
        kind: min((ms, c) for ms, k, c in found if k == kind) for kind in KINDS if kind in {k for _, k, _ in found}
    }
    return Row(name, ours, others)


def _timed(path: Path) -> Iterable[tuple[str, float, str, str]]:
    """Title, milliseconds, kind and name of every candidate with a time."""
    if path.suffix == ".json":
        for m in measurements.read(path)[0]:
            if m.group == "network" and m.median_ms is not None:
                yield m.case, m.median_ms, m.kind, m.candidate
    else:
        for r in results.read(path)[0]:
            if r.median is not None:
                yield r.title, r.median * (1e-3 if r.unit == "us" else 1), r.kind, r.candidate


def draw(target: Path = PICTURE) -> Path:
    """Draws the rows of both files: bars of the other kinds, in multiples of NeuroCUDA's time."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for axis, path, title in zip(axes, (CPU, GPU), ("CPU, one thread", "NVIDIA H100"), strict=True):
        _panel(axis, rows(path), title)
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[kind]) for kind in ("ours", *KINDS)]
    figure.legend(handles, ["NeuroCUDA", *KINDS.values()], loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("Time as a multiple of NeuroCUDA's, log scale (shorter is faster)", fontsize=11)
    figure.savefig(target, dpi=110)
    plt.close(figure)
    return target


def _panel(axis: Axes, shown: list[Row], title: str) -> None:
    for place, row in enumerate(shown):
        bars = [("ours", 1.0), *((kind, row.others[kind][0] / row.ours) for kind in KINDS if kind in row.others)]
        for number, (kind, ratio) in enumerate(bars):
            y = place + 0.2 * (number - (len(bars) - 1) / 2)
            axis.barh(y, ratio - 0.5, 0.18, left=0.5, color=COLOURS[kind])
            text = f"{_short(row.ours)} ms" if kind == "ours" else f"{_short(ratio)}×"
            axis.annotate(text, (ratio, y), (4, 0), textcoords="offset points", va="center", fontsize=7)
    axis.set_xscale("log")
    axis.set_xlim(0.5, 2.2 * max(ms / row.ours for row in shown for ms, _ in row.others.values()))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks(range(len(shown)), [row.network for row in shown], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(1, color=COLOURS["ours"], linewidth=1, linestyle="--")
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def _short(value: float) -> str:
    return (
        f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2g}"
        if value < 0.1
        else f"{value:.2f}"
    )


def main() -> None:
    for path in NETWORKS:
        for row in rows(path):
            print(row.markdown())
    print(draw())


if __name__ == "__main__":
    main()
