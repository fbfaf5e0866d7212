"""Conversion without training, on Fashion-MNIST: accuracy over time beside the original and SpikingJelly's `ann2snn`.

python -m benchmarks.convert [--data FOLDER] [--networks resnet18 vgg] [--methods neurocuda spikingjelly]
    [--images 10000] [--threads 2] [--quick]

Trains the networks first where they are not kept from before (minutes). All methods get the same trained network and
the same 400 training images without labels, and are measured on the same test images, the first so many. Writes a CSV
and a plot; of a CSV that is there, the lines of networks, methods and numbers of images that are not asked for stay.
"""

import argparse
import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.conversion import data, networks, ours, table
from benchmarks.conversion.table import Row

CALIBRATION = 400
READ = (4, 8, 16, 32)
TOTAL = (8, 16, 32)
DELAY = 8
METHODS = ("neurocuda", "spikingjelly")
RESULTS = Path(__file__).parent / "results" / "convert.csv"


class Judge:
    """Compares sums of outputs with the labels and with the outputs of the original."""

    def __init__(self, name: str, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.name, self.labels, self.images = name, labels, len(images)
        self.classes = networks.scores(network, images).argmax(1)
        self.accuracy = self._percent(self.classes == labels)

    def row(self, method: str, sums: Tensor, delay: int, total: int, thresholds: str) -> Row:
        read = sums[total - 1] - (sums[delay - 1] if delay else 0)
        found = read.argmax(1)
        accuracy, agreement = self._percent(found == self.labels), self._percent(found == self.classes)
        gap = self.accuracy - accuracy
        return Row(self.name, self.images, method, thresholds, total - delay, delay, total, accuracy, gap, agreement)

    def original(self) -> Row:
        return Row(self.name, self.images, "original", "", 0, 0, 0, self.accuracy, 0.0, 100.0)

    @staticmethod
    def _percent(hits: Tensor) -> float:
        return 100 * float(hits.double().mean())


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    console = Console(highlight=False, width=None if Console().is_terminal else 120)
    described = machine.describe(arguments.threads)
    for name, value in described.items():
        console.print(f"[dim]{name}: {value}[/dim]")
    calibration = data.read(arguments.data, "train")[0][:CALIBRATION]
    images, labels = (
        part[: 200 if arguments.quick else arguments.images] for part in data.read(arguments.data, "test")
    )
    kept = [line for line in table.lines(arguments.output) if not _is_asked(line, arguments)]
    rows: list[Row] = []
    for name in arguments.networks:
        network = networks.trained(name, arguments.data, console)
        judge = Judge(name, network, images, labels)
        if "neurocuda" in arguments.methods:
            rows.append(judge.original())
        for row in _all(arguments.methods, network, calibration, images, judge, console):
            console.print(f"{name}, {row.method}: {row.accuracy:.2f} % in {row.total} steps", style="dim")
            rows.append(row)
            if not arguments.quick:
                table.write(arguments.output, rows, described, kept)
        table.show(console, judge.original(), [row for row in rows if row.network == name and row.total])
        if "neurocuda" in arguments.methods:
            _show_divergence(console, network, calibration, images)
    if not arguments.quick:
        console.print(f"{arguments.output}, {table.draw(arguments.output)}")


def _is_asked(line: Mapping[str, str], arguments: argparse.Namespace) -> bool:
    method = "spikingjelly" if line["method"].startswith("SpikingJelly") else "neurocuda"
    same = int(line["images"]) == arguments.images
    return same and line["network"] in arguments.networks and method in arguments.methods


def _all(
    methods: Sequence[str], network: nn.Module, calibration: Tensor, images: Tensor, judge: Judge, console: Console
) -> Iterator[Row]:
    if "neurocuda" in methods:
        yield from _ours(network, calibration, images, judge)
    if "spikingjelly" not in methods:
        return
    if importlib.util.find_spec("spikingjelly") is None:
        console.print("SpikingJelly is left out: it is not installed here (make bench-env has it).")
        return
    yield from _spikingjelly(network, calibration, images, judge)


def _ours(network: nn.Module, calibration: Tensor, images: Tensor, judge: Judge) -> Iterator[Row]:
    outputs = ours.Outputs(images, DELAY + READ[-1])
    for timesteps in READ:
        snn = ours.converted(network, calibration, timesteps=timesteps, readout_delay=DELAY)
        chosen = f"{snn.percentile:g} %, chosen"
        yield judge.row("neurocuda", outputs.of(snn), DELAY, DELAY + timesteps, chosen)
    for total in TOTAL:
        snn = ours.converted(network, calibration, total_steps=total)
        chosen = f"{snn.percentile:g} %, chosen with the delay"
        yield judge.row("neurocuda", outputs.of(snn), snn.readout_delay, total, chosen)


def _spikingjelly(network: nn.Module, calibration: Tensor, images: Tensor, judge: Judge) -> Iterator[Row]:
    from benchmarks.conversion import spikingjelly

    for recipe in spikingjelly.RECIPES:
        snn = spikingjelly.converted(recipe, network, calibration)
        sums = spikingjelly.outputs(snn, images, TOTAL[-1])
        for total in TOTAL:
            for delay in sorted({0, spikingjelly.delay(snn, calibration, total)}):
                yield judge.row(f"SpikingJelly, {recipe}", sums, delay, total, "")


def _show_divergence(console: Console, network: nn.Module, calibration: Tensor, images: Tensor) -> None:
    """The effect of another order of summation on a network with float32 weights that are on no grid."""
    snn = ours.converted(network, calibration, timesteps=16, percentile=99.5)
    x, steps = images[:50], DELAY + 16
    with torch.no_grad():
        mine = snn.steps(x, steps)
        for dtype in (torch.float32, torch.float64):
            other = ours.by_hand(snn, x, steps, dtype)
            differs = (mine != other).flatten(2).any(2)
            first = int(differs.any(1).int().argmax()) if bool(differs.any()) else None
            means = [y[DELAY:].double().mean(0) for y in (mine, other)]
            same = float((means[0].argmax(1) == means[1].argmax(1)).double().mean())
            console.print(
                f"Stepped in plain torch, {dtype}: outputs first differ at step {first}, the mean by at most "
                f"{float((means[0] - means[1]).abs().max()):.2g} of scores up to {float(means[0].abs().max()):.3g}; "
                f"{100 * same:g} % of {len(x)} samples are of the same class"
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data.FOLDER, help="a folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--networks", nargs="+", choices=list(networks.BUILDERS), default=list(networks.BUILDERS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--images", type=int, default=10_000, help="of the test images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="200 images, nothing written")
    return parser.parse_args()


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{(time.perf_counter() - started) / 60:.1f} min")
