"""Files that a call of a network enters, its Python calls, and its moves between files, from a profile.

    python -m benchmarks.call_path [--sequence]

Counts are of code in the package, comprehensions included (before Python 3.12 they are calls). A move is a call in
another file than the call before it. Without a GPU, the tests' simulated one captures on the CPU. An older checkout is
measured in its folder: `PYTHONPATH=. python <this file>`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from itertools import groupby, pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import neurocuda

PACKAGE = Path(neurocuda.__file__).parent
FILE = Path(__file__).parents[1] / "examples" / "digits" / "digits.nir"

Trace = list[tuple[str, str]]
"""File and function of each call, in order."""


def traced(function: Callable[[], object]) -> Trace:
    """The calls of functions of the package while `function` runs."""
    found: Trace = []

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            found.append((str(path.relative_to(PACKAGE)), frame.f_code.co_name))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def counts(trace: Trace) -> tuple[int, int, int]:
    """Files entered, calls, and moves between files."""
    moves = bool(trace) + sum(a[0] != b[0] for a, b in pairwise(trace))
    return len({file for file, _ in trace}), len(trace), moves


def measured(device: str) -> dict[str, Trace]:
    """Traces of the first call of the digits network and of a replayed one, without gradients.

    device: "cpu", "cuda" or "simulated cuda".
    """
    with warnings.catch_warnings(), torch.no_grad(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        net = neurocuda.load(FILE).to("cuda" if device == "cuda" else "cpu")
        x = (torch.rand(8, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        x = x.cuda() if device == "cuda" else x
        if device == "simulated cuda":
            simulate_cuda(net, stack.enter_context(importlib.import_module("pytest").MonkeyPatch.context()))
        first = traced(lambda: net(x))
        for _ in range(3):
            net(x)
        return {f"first call, {device}": first, f"replayed call, {device}": traced(lambda: net(x))}


def simulate_cuda(net: neurocuda.Executor, patch: Any) -> None:
    """Lets the network capture its calls on the CPU, as the tests of the measured checkout do."""
    tests = PACKAGE.parent / "tests"
    for folder in (tests / "support", tests):  # the latter until 0.1
        patch.syspath_prepend(folder)
    captured = importlib.import_module("captured").captured
    options = {"cached": True} if "cached" in inspect.signature(captured).parameters else {}
    captured(net, patch, **options)


def main() -> None:
    traces = measured("cpu") | measured("cuda" if torch.cuda.is_available() else "simulated cuda")
    print(f"{'digits, T = 8, B = 4':30}{'files':>6}{'calls':>7}{'moves':>7}")
    for name, trace in traces.items():
        print(f"{name:30}{counts(trace)[0]:6}{counts(trace)[1]:7}{counts(trace)[2]:7}")
        for file, calls in groupby(trace, lambda call: call[0]) if "--sequence" in sys.argv else ():
            print(f"    {file}: {' '.join(function for _, function in calls)}")


if __name__ == "__main__":
    main()
