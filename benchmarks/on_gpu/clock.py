"""Time on a GPU, by events in its stream, and the copy that every case is measured against, in the same rounds."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.timing import WALL, Clock, Times, side_by_side

COPY = "copy"
FLUSHED = 2**28
"""Bytes written before each run, more than any cache holds: every run finds its inputs in memory."""

COPIED = 2**30
"""Bytes that the copy reads, and again that it writes."""

AHEAD = 2_500_000
"""Cycles for which the device is kept waiting, 1.3 ms on an H100, so that all of a run is queued before it starts."""


class Events:
    """CUDA events around a run. `ahead`: the device's time alone, of what takes the host less than it is ahead;
    otherwise the device is idle when the run starts, and the host's time counts too.
    """

    def __init__(self, device: torch.device, ahead: bool) -> None:
        self.device, self.ahead = device, ahead
        self.flushed = torch.empty(FLUSHED, dtype=torch.uint8, device=device)

    def prepare(self) -> None:
        self.flushed.zero_()
        if self.ahead:
            torch.cuda._sleep(AHEAD)
        else:
            torch.cuda.synchronize(self.device)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def milliseconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        milliseconds: float = begin.elapsed_time(end)
        return milliseconds


class Bench:
    """Times candidates beside a plain copy on one device."""

    def __init__(self, device: torch.device, repeats: int, copied: int = COPIED) -> None:
        self.device, self.repeats = device, repeats
        self.source = torch.zeros(copied, dtype=torch.uint8, device=device)
        self.target = torch.empty_like(self.source)

    def copy(self) -> Tensor:
        return self.target.copy_(self.source)

    def clock(self, ahead: bool) -> Clock:
        return Events(self.device, ahead) if self.device.type == "cuda" else WALL

    def time(
        self, candidates: Mapping[str, Callable[[], object]], ahead: bool = False
    ) -> tuple[dict[str, Times], float]:
        """The times of the candidates, and the bytes a second of a copy that took turns with them.

        ahead: what the device takes, and not what the host takes to ask for it.
        """
        times = side_by_side({COPY: self.copy, **candidates}, self.repeats, self.clock(ahead))
        copy = times.pop(COPY)
        return times, 2 * self.source.nbytes / (copy.median * 1e-3)

    def peak_mib(self, run: Callable[[], object]) -> float | None:
        """What a run takes at its peak, on top of what stood before the first, and so with what is kept between runs,
        such as the memory of a graph; None where nobody counts.
        """
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()  # in which libraries try what they know, in memory that they give back
        torch.cuda.reset_peak_memory_stats(self.device)
        for _ in range(2):
            run()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20
