"""Fine-tuning on Fashion-MNIST: the ResNet of `benchmarks.convert`, in few steps and without a read-out delay.

python -m benchmarks.finetune [--data FOLDER] [--timesteps 4] [--epochs 2] [--quantized-epochs 3] [--no-labels]
    [--threads 2]

Trains the network first if it is not kept from before (`benchmarks.conversion.networks`). Prints the accuracy on the
10,000 test images of the original, of the network converted without training, and of the one that was trained on the
60,000 training images as they are, with the time that this took: of a clock, and of the processor in seconds for each
thread.
"""

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import neurocuda
from benchmarks import machine
from benchmarks.conversion import data, networks
from neurocuda.convert.calibrate import convert

CALIBRATION = 400


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    console = Console(highlight=False)
    for name, value in machine.describe(arguments.threads).items():
        console.print(f"[dim]{name}: {value}[/dim]")
    original = networks.trained(arguments.network, arguments.data, console)
    images, labels = data.read(arguments.data, "train")
    test, answers = data.read(arguments.data, "test")
    steps = arguments.timesteps
    accuracy = _accuracy(networks.scores(original, test), answers)
    # Calibrated on the same images as all networks are, without labels.
    converted = convert(original, images[:CALIBRATION], timesteps=steps, readout_delay=0, report=False)
    clock, processor = time.perf_counter(), time.process_time()
    tuned = neurocuda.finetune(
        converted,
        images if arguments.no_labels else (images, labels),
        arguments.epochs,
        steps,
        quantized_epochs=arguments.quantized_epochs,
        rate=arguments.rate,
        dtype=getattr(torch, arguments.dtype),
        report=False,
    )
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    title = f"{arguments.network}, T = {steps}, no read-out delay: accuracy on {len(test)} test images"
    table = Table("network", "accuracy %", "gap", title=title, title_justify="left")
    table.add_row("original", f"{accuracy:.2f}", "")
    for name, network in (("converted", converted), ("fine-tuned", tuned)):
        found = _accuracy(networks.scores(network, test), answers)
        table.add_row(name, f"{found:.2f}", f"{accuracy - found:.2f}")
    console.print(table)
    of_each = processor / arguments.threads
    console.print(
        f"fine-tuned in {clock:.0f} s; {of_each:.0f} s of the processor for each of {arguments.threads} threads"
    )


def _accuracy(scores: Tensor, answers: Tensor) -> float:
    return float((scores.argmax(1) == answers).double().mean()) * 100


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", choices=list(networks.BUILDERS), default="resnet18")
    parser.add_argument("--data", type=Path, default=data.FOLDER)
    parser.add_argument("--timesteps", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--quantized-epochs", type=int, default=3)
    parser.add_argument("--no-labels", action="store_true", help="learn from the original alone")
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
