"""Gradients of residual networks with strided 1x1 shortcuts, in each of our ways.

For a memory checker, as a program, which takes the number of channels: `make memcheck`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from make_nir import conv2d, graph, input_, neuron, output
from torch import Tensor, nn

import neurocuda
from neurocuda.graph import build
from neurocuda.ops import backends

INTO, OUT, SIZE = 16, 32, 6  # with so many, torch's own way is safe as well


def of_executor(how: str, backend: str) -> None:
    """Of a loaded network, its layers summed by the library or in the defined order."""
    raw = graph(
        "in>a a>n n>b b>m n>down down>m m>out",
        **{"in": input_(INTO, SIZE, SIZE), "out": output(OUT, 3, 3)},
        a=conv2d(INTO, INTO, (3, 3), padding=1),
        n=neuron("LIF", INTO, SIZE, SIZE),
        b=conv2d(OUT, INTO, (3, 3), padding=1, stride=2),
        down=conv2d(OUT, INTO, (1, 1), stride=2),
        m=neuron("LIF", OUT, 3, 3),
    )
    built, _ = build(raw, "a residual network", None)
    assert built is not None
    net = neurocuda.Executor(built, force=dict.fromkeys(("a", "b", "down"), how))
    x = torch.rand(4, 16, INTO, SIZE, SIZE, requires_grad=True)
    with neurocuda.use_backend(backend):
        net(x)[0].sum().backward()


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(INTO, OUT, 3, 2, 1)
        self.down = nn.Conv2d(INTO, OUT, 1, 2)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.conv(x) + self.down(x))
        return y


def of_finetune(backend: str) -> None:
    model = nn.Sequential(Residual(), nn.Flatten(), nn.Linear(OUT * 9, 4)).to(memory_format=torch.channels_last)
    x = torch.rand(80, INTO, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    with warnings.catch_warnings(), neurocuda.use_backend(backend):
        warnings.simplefilter("ignore")
        neurocuda.finetune(model, (x, torch.arange(80) % 4), 1, 2, quantized_epochs=1, report=False)


def of_modules(backend: str, keep: Callable[[Any], Any] = lambda model: model) -> None:
    """Of neurons between torch's own layers."""
    layers = neurocuda.nn.PerStep(Residual().to(memory_format=torch.channels_last))
    model = keep(nn.Sequential(layers, neurocuda.nn.LIF(tau=3e-4, r=3.0)))
    x = torch.rand(4, 16, SIZE, SIZE, INTO).permute(0, 1, 4, 2, 3).requires_grad_()  # the channels last in memory
    with neurocuda.use_backend(backend):
        model(x).sum().backward()


def served() -> list[str]:
    known = backends.backends()
    return [name for name in ("cpu", "reference") if backends.is_usable(known[name])]


def runs() -> dict[str, Callable[[], None]]:
    """All of them, by name."""
    found: dict[str, Callable[[], None]] = {}
    for backend in served():
        for how in ("library", "ordered"):
            found[f"executor, {how}, {backend}"] = lambda how=how, backend=backend: of_executor(how, backend)
        found[f"finetune, {backend}"] = lambda backend=backend: of_finetune(backend)
        found[f"modules, {backend}"] = lambda backend=backend: of_modules(backend)
    return found


if __name__ == "__main__":
    INTO = int(sys.argv[1])
    torch.set_num_threads(1)
    for name, run in runs().items():
        run()
        print(name, file=sys.stderr, flush=True)
    os._exit(0)  # what the interpreter leaves is not looked at
