"""Side-by-side timing: the candidates take turns, so that what disturbs the machine disturbs all of them."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Times:
    """Milliseconds of the runs of one candidate."""

    median: float
    fastest: float
    slowest: float


def side_by_side(candidates: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Times]:
    """Wall-clock times of `repeats` rounds, each running every candidate once; a first round is not counted.

    Each round begins with another candidate, for what ran just before leaves its traces in the caches. Python's cyclic
    garbage is collected between rounds, never inside a run.
    """
    runs: dict[str, list[float]] = {name: [] for name in candidates}
    collecting = gc.isenabled()
    gc.disable()
    try:
        names = list(candidates)
        for number in range(repeats + 1):
            gc.collect()
            first = number % max(1, len(names))
            for name in names[first:] + names[:first]:
                begin = _now()
                result = candidates[name]()
                runs[name].append((_now() - begin) * 1e3)
                del result
    finally:
        if collecting:
            gc.enable()
    return {name: Times(statistics.median(ms[1:]), min(ms[1:]), max(ms[1:])) for name, ms in runs.items()}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
