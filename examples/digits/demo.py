"""`make demo`: runs the held-out digits through digits.nir, with the command and with the Python API.

Checks that both give the same bits, and the same as the network stepped in plain PyTorch; prints accuracy, firing
rates and times; draws the spikes of one digit.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import neurocuda
from benchmarks.timing import side_by_side
from examples.digits.network import FILE, TIMESTEPS, constant_current, digits, from_nir
from examples.digits.raster import draw

COMMAND = Path(sys.executable).with_name("neurocuda")
RASTER = Path(__file__).with_name("out") / "raster.png"
SHOWN = 3  # which of the held-out digits is drawn
TIMED, REPEATS = 64, 5

console = Console()


def neurocuda_command(*arguments: str | Path) -> None:
    """Runs the `neurocuda` command as a user would, and shows it."""
    shown = (a if isinstance(a, str) else a.name for a in arguments)
    console.print("\n$ neurocuda", *shown, style="bold", highlight=False)
    subprocess.run([COMMAND, *arguments], check=True)


def with_the_command(x: Tensor) -> Tensor:
    """The output for x [T, B, 1, 8, 8], from `neurocuda run`."""
    neurocuda_command("info", FILE)
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "x.npy", Path(folder) / "y.npz"
        np.save(given, x.numpy())
        neurocuda_command("run", FILE, "--input", given, "--output", result)
        return torch.from_numpy(np.load(result)["output"])


def check(what: str, equal: bool) -> None:
    """Prints the result of a comparison; ends the demo if it failed."""
    console.print(f"{what}: {'equal, every bit' if equal else '[bold red]different'}")
    if not equal:
        raise SystemExit(1)


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = digits(held_out=True)
    x = constant_current(images)
    stepped, net = from_nir().to(device), neurocuda.load(FILE).to(device)

    from_command = with_the_command(x)
    with torch.no_grad():
        result = net.run(x.to(device), record={f"lif{n}": "spikes" for n in range(1, 5)})
        expected, expected_spikes = stepped(x.to(device))
    assert isinstance(result.output, Tensor)
    spikes = {name: recorded["spikes"] for name, recorded in result.recordings.items()}
    console.print()
    check("command and Python API", torch.equal(from_command, result.output.cpu()))
    check("Python API and the network stepped in plain PyTorch", torch.equal(result.output, expected))
    check("the spikes of every layer", all(torch.equal(spikes[n], expected_spikes[n]) for n in spikes))

    right = int((result.output[-1].argmax(1).cpu() == labels).sum())
    console.print(f"[bold]accuracy {right / len(labels):.2%}[/] ({right} of {len(labels)} held-out digits, {device})")
    rates = Table("layer", "neurons", "spikes per neuron and step")
    for name, s in spikes.items():
        rates.add_row(name, "×".join(map(str, s.shape[2:])), f"{s.double().mean():.4f}")
    console.print(rates)

    some = x[:, :TIMED].to(device)
    with torch.no_grad():
        times = side_by_side({"plain PyTorch, stepped": lambda: stepped(some), "neurocuda": lambda: net(some)}, REPEATS)
    console.print(f"time for {TIMED} digits and {TIMESTEPS} steps, in turns, {torch.get_num_threads()} thread(s):")
    table = Table("network", "median ms", "fastest", "slowest", "of plain PyTorch")
    plain = next(iter(times.values())).median
    for name, t in times.items():
        table.add_row(name, f"{t.median:.1f}", f"{t.fastest:.1f}", f"{t.slowest:.1f}", f"{t.median / plain:.3g}×")
    console.print(table)

    one = {name: s[:, SHOWN].flatten(1).cpu().numpy() for name, s in spikes.items()}
    draw(RASTER, images[SHOWN, 0].numpy(), one, result.output[:, SHOWN].cpu().numpy(), int(labels[SHOWN]))
    console.print(f"spikes of one digit: {RASTER.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
