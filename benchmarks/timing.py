"""Side-by-side timing: the candidates take turns, so that other load on the machine affects all of them."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class Times:
    """Milliseconds of the runs of one candidate."""

    median: float
    fastest: float
    slowest: float


class Clock(Protocol):
    """Records time marks, and returns the milliseconds between two of them after a round."""

    def prepare(self) -> None:
        """Bring the machine into the state in which every run starts."""

    def mark(self) -> Any: ...

    def milliseconds(self, begin: Any, end: Any) -> float: ...


class Wall:
    """Wall-clock time; waits for work on a GPU."""

    def prepare(self) -> None:
        pass

    def mark(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def milliseconds(self, begin: float, end: float) -> float:
        return (end - begin) * 1e3


WALL = Wall()


def side_by_side(
    candidates: Mapping[str, Callable[[], object]], repeats: int, clock: Clock = WALL, *, again: bool = False
) -> dict[str, Times]:
    """The times of `repeats` rounds, each running every candidate once; a first round is not counted. again: each run
    comes right after one of the same candidate, which finds caches, and threads, as it left them.

    Each round has an order of its own, the same ones each time, for what ran just before leaves its traces in the
    caches. Python's cyclic garbage is collected between rounds, never inside a run.
    """
    runs: dict[str, list[float]] = {name: [] for name in candidates}
    collecting = gc.isenabled()
    gc.disable()
    try:
        names = list(candidates)
        for number in range(repeats + 1):
            gc.collect()
            marks = {}
            for name in random.Random(number).sample(names, len(names)):
                if again:
                    candidates[name]()
                clock.prepare()
                begin = clock.mark()
                result = candidates[name]()
                marks[name] = (begin, clock.mark())
                del result
            for name, (begin, end) in marks.items():
                runs[name].append(clock.milliseconds(begin, end))
    finally:
        if collecting:
            gc.enable()
    return {name: Times(statistics.median(ms[1:]), min(ms[1:]), max(ms[1:])) for name, ms in runs.items()}
