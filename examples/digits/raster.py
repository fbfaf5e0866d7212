"""Draws the spikes of one digit: the image, a raster of each layer with its firing rate, and the read-out."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

INK, GREY, FAINT = "#1b2330", "#8a94a3", "#d9dee5"
COLOURS = ("#2a6fbb", "#d1602b", "#2b8a5a", "#7b4fb5")
STYLE = {
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def draw(path: Path, image: np.ndarray, spikes: Mapping[str, np.ndarray], readout: np.ndarray, label: int) -> None:
    """Writes a PNG: image [8, 8], spikes by layer [T, N] and read-out [T, 10] of one digit, and the label."""
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(12, 6.4), layout="constrained")
        grid = figure.add_gridspec(2, 1 + len(spikes), height_ratios=(1, 3.2), width_ratios=(1.5, *(1 for _ in spikes)))
        digit, membrane = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
        digit.imshow(image, cmap="Greys", vmin=0, vmax=16)
        digit.set(title=f"input: a {label}", xticks=[], yticks=[])
        digit.spines[:].set_visible(False)
        draw_readout(membrane, readout)
        rate_axes: Axes | None = None
        for column, ((name, fired), colour) in enumerate(zip(spikes.items(), COLOURS, strict=False), 1):
            rate_axes = figure.add_subplot(grid[0, column], sharey=rate_axes)
            draw_rate(rate_axes, fired, colour, name, first=column == 1)
            draw_raster(figure.add_subplot(grid[1, column]), fired, colour, first=column == 1)
        figure.suptitle(f"One held-out digit through digits.nir: the spikes of {len(readout)} time steps", fontsize=12)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def steps_axis(axes: Axes, steps: int) -> None:
    axes.set_xlim(-0.5, steps - 0.5)
    axes.xaxis.set_major_locator(MultipleLocator(5))


def draw_rate(axes: Axes, fired: np.ndarray, colour: str, name: str, first: bool) -> None:
    steps, neurons = fired.shape
    axes.bar(range(steps), 100 * fired.mean(1), width=0.8, color=colour, alpha=0.85)
    axes.set_title(f"{name}\n{neurons} neurons, {int(fired.sum())} spikes", color=colour)
    axes.tick_params(labelbottom=False, labelleft=first)
    if first:
        axes.set_ylabel("firing, %")
    steps_axis(axes, steps)


def draw_raster(axes: Axes, fired: np.ndarray, colour: str, first: bool) -> None:
    steps, neurons = fired.shape
    step, neuron = np.nonzero(fired)
    axes.hlines(neuron, step - 0.4, step + 0.4, color=colour, linewidth=1.4)
    axes.set_ylim(neurons, -1)
    axes.yaxis.set_major_locator(MultipleLocator(neurons // 8))
    axes.set_xlabel("time step")
    if first:
        axes.set_ylabel("neuron (channel by channel)")
    steps_axis(axes, steps)


def draw_readout(axes: Axes, readout: np.ndarray) -> None:
    steps = len(readout)
    answer = int(readout[-1].argmax())
    for number, v in enumerate(readout.T):
        wins = number == answer
        axes.plot(v, color=INK if wins else FAINT, linewidth=2.2 if wins else 1.2, zorder=3 if wins else 2)
    for number in np.argsort(readout[-1])[[0, -3, -2, -1]]:
        axes.annotate(
            str(number),
            (steps - 1, readout[-1, number]),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK if number == answer else GREY,
            weight="bold" if number == answer else "normal",
        )
    axes.set(xlabel="time step", ylabel="membrane potential v", title=f"read-out: predicts {answer}")
    steps_axis(axes, steps + 1)
