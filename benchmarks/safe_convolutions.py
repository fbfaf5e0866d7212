"""Cost of the safe implementation of strided 1x1 convolutions in training: `python -m benchmarks.safe_convolutions`.

A step of stochastic gradient descent of the ResNet-18 of `benchmarks.conversion.networks`, in turns with and without
`nn.safe_convolutions()`. Its shortcuts have 16 channels and more, with which torch's own implementation is in bounds.
"""

from __future__ import annotations

import contextlib
import statistics
import time

import torch
from torch import nn

from benchmarks.conversion.networks import resnet18
from neurocuda.nn import safe_convolutions

ROUNDS, WARM_UP = 12, 2


def main() -> None:
    torch.manual_seed(0)
    network = resnet18().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    x = torch.rand(64, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    y = torch.arange(64) % 10
    times: dict[str, list[float]] = {"safe": [], "torch": []}
    for number in range(WARM_UP + ROUNDS):
        for name, way in sorted(
            {"safe": safe_convolutions, "torch": contextlib.nullcontext}.items(), reverse=bool(number % 2)
        ):
            start = time.perf_counter()
            with way():
                loss = nn.functional.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    ratios = [safe / plain for safe, plain in zip(times["safe"], times["torch"], strict=True)]
    own, plain = (1e3 * statistics.median(times[name]) for name in ("safe", "torch"))
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    print(f"{capability}, {threads} threads: safe {own:.1f} ms, torch's own {plain:.1f} ms", end=", ")
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {ROUNDS} pairs)")


if __name__ == "__main__":
    main()
