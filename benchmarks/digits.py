"""The digits network: the executor against the same network stepped in plain PyTorch, and against the floor.

The floor is the work that cannot be avoided, measured in the same run: the layers alone, as dense library calls
over all T·B frames at once, and a copy of as many bytes as the neurons must read and write.

python -m benchmarks.digits [--batch 64] [--repeats 7] [--threads 1]
"""

import argparse
from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

import neurocuda
from benchmarks.timing import side_by_side
from examples.digits.network import FILE, SHAPES, TIMESTEPS, DigitsNetwork, constant_current, digits, from_nir

BRANCHES = {"lif1": 1, "lif2": 2, "lif3": 1, "lif4": 2, "li": 1}


def layers_alone(network: DigitsNetwork, x: Tensor, spikes: dict[str, Tensor]) -> Callable[[], object]:
    """The convolutions and the read-out of every step, each in one library call, fed the true spikes."""
    frames = {name: s.flatten(0, 1) for name, s in {"input": x, **spikes}.items()}
    pooled = F.avg_pool2d(frames["lif4"], 2, divisor_override=1).flatten(1)

    def run() -> None:
        F.conv2d(frames["input"], *network.weights("conv1"), padding=1)
        F.conv2d(frames["lif1"], *network.weights("conv2"), padding=1)
        F.conv2d(frames["lif2"], *network.weights("conv3"), padding=1, stride=2)
        F.conv2d(frames["lif3"], *network.weights("conv4"), padding=1)
        F.linear(pooled, *network.weights("affine"))

    return run


def neuron_bytes(batch: int) -> int:
    """Bytes that the neurons of all steps read (each branch once) and write (one value), in float32."""
    return sum(4 * (BRANCHES[name] + 1) * prod(shape) for name, shape in SHAPES.items()) * TIMESTEPS * batch


def main() -> None:
    parser = argparse.ArgumentParser(description="The digits network, side by side with plain PyTorch.")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    images, _ = digits(held_out=True)
    x = constant_current(images[: arguments.batch]).to(device)
    stepped, net = from_nir().to(device), neurocuda.load(FILE).to(device)
    moved = neuron_bytes(x.shape[1])
    source = torch.empty(moved // 8, device=device)
    target = torch.empty_like(source)
    with torch.no_grad():
        expected, spikes = stepped(x)
        if not torch.equal(net(x)[0], expected):
            raise SystemExit("the executor and the stepped network differ: no point in timing them")
        times = side_by_side(
            {
                "plain PyTorch, stepped": lambda: stepped(x),
                "neurocuda executor": lambda: net(x),
                "floor: layers alone": layers_alone(stepped, x, spikes),
                f"floor: neurons' {moved / 1e6:.1f} MB": lambda: target.copy_(source),
            },
            arguments.repeats,
        )

    plain = times["plain PyTorch, stepped"].median
    title = f"digits.nir, T = {TIMESTEPS}, B = {x.shape[1]}, {device}, {arguments.threads} thread(s), equal bits"
    table = Table("", "median ms", "fastest", "slowest", "against plain", title=title)
    for name, t in times.items():
        ratio = f"{plain / t.median:.3g}×"
        table.add_row(name, f"{t.median:.2f}", f"{t.fastest:.2f}", f"{t.slowest:.2f}", ratio)
    Console().print(table)


if __name__ == "__main__":
    main()
