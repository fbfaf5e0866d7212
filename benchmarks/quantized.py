"""The cost of few-bit weights for a converted network, on Fashion-MNIST: accuracy with and without `weight_bits`.

python -m benchmarks.quantized [--data FOLDER] [--networks resnet18 vgg] [--bits 8] [--timesteps 16 32] [--delay 8]
    [--images 10000] [--threads 2]

The networks of `benchmarks.convert`, trained first where they are not kept from before, are converted from the same
400 training images without labels, twice for each number of steps: with float weights, and with weights of so many
bits. Printed are the accuracies on the same test images, and what of the quantised network is certified.
"""

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.conversion import data, networks
from neurocuda.convert.calibrate import convert
from neurocuda.convert.snn import SNN

CALIBRATION = 400
BATCH = 50


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    console = Console(highlight=False, width=None if Console().is_terminal else 120)
    for name, value in machine.describe(arguments.threads).items():
        console.print(f"[dim]{name}: {value}[/dim]")
    calibration = data.read(arguments.data, "train")[0][:CALIBRATION]
    images, labels = (part[: arguments.images] for part in data.read(arguments.data, "test"))
    table = Table(*("network", "T", "weights", "thresholds", "input", "exact", "accuracy", "lost", "same class"))
    for name in arguments.networks:
        network = networks.trained(name, arguments.data, console)
        accuracy = _percent(networks.scores(network, images).argmax(1) == labels)
        table.add_row(name, "", "original", "", "", "", f"{accuracy:.2f}", "", "")
        for timesteps in arguments.timesteps:
            plain: Tensor | None = None
            for bits in [None, *arguments.bits]:
                snn = _converted(network, calibration, timesteps, arguments.delay, bits)
                found = _classes(snn, images)
                plain = found if plain is None else plain
                lost = _percent(plain == labels) - _percent(found == labels)
                row = [name, str(timesteps), "float" if bits is None else f"{bits} bits", f"{snn.percentile:g} %"]
                row += ["float" if snn.input_grid is None else f"steps of {snn.input_grid.step:g}", _exact(snn)]
                row += [f"{_percent(found == labels):.2f}"]
                row += ["", ""] if bits is None else [f"{lost:.2f}", f"{_percent(found == plain):.2f}"]
                table.add_row(*row)
                console.print(", ".join(row), style="dim")
    console.print(table)


def _converted(network: nn.Module, calibration: Tensor, timesteps: int, delay: int, bits: int | None) -> SNN:
    how = {"timesteps": timesteps, "readout_delay": delay, "weight_bits": bits}
    return convert(network, calibration, samples=None, report=False, **how)


def _classes(snn: SNN, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([snn(x).argmax(1) for x in images.split(BATCH)])


def _exact(snn: SNN) -> str:
    """How many of the layers and pools are certified."""
    if snn.quantized is None:
        return ""
    proofs = snn.quantized.certificate.proofs
    return f"{sum(proof.exact for proof in proofs)} of {len(proofs)}"


def _percent(hits: Tensor) -> float:
    return 100 * float(hits.double().mean())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data.FOLDER, help="a folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--networks", nargs="+", choices=list(networks.BUILDERS), default=list(networks.BUILDERS))
    parser.add_argument("--bits", nargs="+", type=int, default=[8])
    parser.add_argument("--timesteps", nargs="+", type=int, default=[16, 32])
    parser.add_argument("--delay", type=int, default=8)
    parser.add_argument("--images", type=int, default=10_000, help="of the test images")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{(time.perf_counter() - started) / 60:.1f} min")
