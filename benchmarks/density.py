"""Convolutions in the defined order against the vendor library's, over the share of inputs that spike.

python -m benchmarks.density [--threads 1] [--repeats 7]

The 3x3 convolutions of the comparison's ResNet-18, over 32 frames. The library's takes frames with the channels last or
first, whichever is faster; its time does not depend on the spikes. Prints ratios; nothing is written.
"""

import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from benchmarks import machine
from benchmarks.timing import side_by_side
from benchmarks.workloads import seeded
from neurocuda.ops import native

LAYERS = ((64, 64, 32, 1), (64, 128, 32, 2), (128, 128, 16, 1), (256, 256, 8, 1), (512, 512, 4, 1))
"""Channels in and out, size, stride."""
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
FRAMES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console(highlight=False, width=None if Console().is_terminal else 120)
    for name, value in machine.describe(arguments.threads).items():
        console.print(f"[dim]{name}: {value}[/dim]")
    title = "time in the defined order, of the library's, by the share of inputs that spike"
    table = Table("convolution", "library, ms", *(f"{density:.0%}" for density in DENSITIES), title=title)
    for layer in LAYERS:
        into, out, size, stride = layer
        library, ratios = _ratios(*layer, arguments.repeats)
        label = f"{into} to {out}, {size}x{size}" + (f", stride {stride}" if stride > 1 else "")
        table.add_row(label, f"{library:.2f}", *(f"{ratio:.2f}" for ratio in ratios))
    console.print(table)


@torch.no_grad()
def _ratios(into: int, out: int, size: int, stride: int, repeats: int) -> tuple[float, list[float]]:
    """Milliseconds of the vendor library, and times in the defined order by density, relative to it."""
    draw = seeded()
    weight, bias = torch.randn(out, into, 3, 3, generator=draw), torch.zeros(out)
    uniform = torch.rand(FRAMES, into, size, size, generator=draw)
    first, last = torch.contiguous_format, torch.channels_last

    def library(layout: torch.memory_format) -> Callable[[], object]:
        x, w = (tensor.contiguous(memory_format=layout) for tensor in (uniform, weight))
        return lambda: functional.conv2d(x, w, bias, stride, 1)

    def ordered(density: float) -> Callable[[], object]:
        x = (uniform < density).float()
        return lambda: native.ordered_conv(x, weight, bias, (stride, stride), ((1, 1), (1, 1)), (1, 1), 1)

    candidates = {"first": library(first), "last": library(last)} | {str(d): ordered(d) for d in DENSITIES}
    times = side_by_side(candidates, repeats)
    fastest = min(times["first"].median, times["last"].median)
    return fastest, [times[str(density)].median / fastest for density in DENSITIES]


if __name__ == "__main__":
    main()
