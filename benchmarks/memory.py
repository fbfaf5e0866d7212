"""Peak memory of a run, as the operating system counts it, each measured in a separate process.

Allocators keep what was freed, so a second candidate measured in the same process would look smaller than it is.
"""

import ctypes
import importlib
import multiprocessing
import os
import re
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from neurocuda.ops.backends import AVAILABLE, backends

MiB = 2**20

Build = Callable[[], Callable[[], object]]


def measurable() -> bool:
    """Whether this system reports the peak of a process and can reset it: Linux, with a writable clear_refs."""
    return sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)


def peak_of(build: Build, threads: int, compiles: bool) -> float | None:
    """Bytes of memory that one run takes at its peak, on top of what stood before the first run.

    `build` makes the run, inputs and weights included, which are not counted. Counted is what a run allocates, what
    it returns, and what is kept between runs, such as pools. With `compiles`, what is kept is not counted, for the
    compiler is part of it. None where the child did not answer; call it before any thread of this process ran.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(build, threads, compiles, sender), daemon=False)
    child.start()
    sender.close()
    try:
        answer: float = receiver.recv()
    except EOFError:
        return None
    finally:
        child.join()
    return answer


def _measure(build: Build, threads: int, compiles: bool, sender: Connection) -> None:
    try:
        sender.send(_peak(build, threads, compiles))
    except Exception:  # what fails here fails again where it is timed, and is named there
        sender.close()


def _peak(build: Build, threads: int, compiles: bool) -> float:
    torch.set_num_threads(threads)
    with torch.no_grad():
        run = build()
        _touch_common_code()
        _empty_pool()
        _trim()
        before = _anonymous()
        run()
        run()
        _trim()
        if compiles:
            before = _anonymous()
        Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM anew
        run()
        memory = _status()
    return 1024.0 * (memory["VmHWM"] - memory["RssFile"] - memory["RssShmem"]) - before


def _touch_common_code() -> None:
    """Starts threads and the libraries of convolutions and matrices, which every candidate loads at its first run."""
    x = torch.rand(4, 8, 16, 16)
    torch.relu(torch.nn.functional.conv2d(x, torch.rand(8, 8, 3, 3)))
    (x.flatten(1) @ torch.rand(2048, 16)).sum()


def _empty_pool() -> None:
    """Frees the memory pool, which a fork inherits from its parent."""
    if backends()["cpu"] == AVAILABLE:
        importlib.import_module("neurocuda._C").release_memory()


def _trim() -> None:
    ctypes.CDLL(None).malloc_trim(0)


def _anonymous() -> float:
    """Bytes of this process that no file backs."""
    return 1024.0 * _status()["RssAnon"]


def _status() -> dict[str, int]:
    text = Path("/proc/self/status").read_text()
    return {name: int(kib) for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
