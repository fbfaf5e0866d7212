"""The latency between cores, which limits the speedup of a second thread and may change while a machine runs.

A virtual machine's cores may share a cache at one time and none at another, where its host moves them.
"""

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

_VALUES = 2**17
"""Of a pass, float32: half a MiB, which every core's own cache holds."""

_PASSES = 200


def crossing() -> float:
    """The time of a pass over memory of which another thread wrote half last, in passes over what each wrote itself.

    About 1 where the cores share a cache.
    """
    memory = torch.zeros(_VALUES + _VALUES // 2)
    first, second = memory[:_VALUES], memory[_VALUES // 2 :]  # threads share a pass by halves
    return _pass([first, second]) / _pass([first])


def _pass(parts: Sequence[Tensor]) -> float:
    times = []
    for number in range(_PASSES):
        part = parts[number % len(parts)]
        start = time.perf_counter()
        part.add_(1)
        times.append(time.perf_counter() - start)
    return statistics.median(times[_PASSES // 4 :])
