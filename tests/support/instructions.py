"""Runs a command as on a processor with fewer instructions: `python instructions.py avx2 COMMAND ...`.

torch, oneDNN and our own kernels choose by the processor, and take less if asked for it. Asked for more than there is,
torch ends in an illegal instruction: here the processor is asked first. What torch.compile keeps on disk is code for
one width of vectors, and torch 2.13.0 reads it back at another: each level has a cache of its own.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

LEVELS: dict[str, tuple[set[str], dict[str, str]]] = {
    "avx2": ({"avx2", "fma"}, {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "baseline": (set(), {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
}
"""What a level needs, in the words of /proc/cpuinfo, and what asks the libraries for it."""


def missing(level: str) -> set[str]:
    """What the processor would have to have more."""
    found = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return LEVELS[level][0] - set(found[1].split() if found else ())


def environment(level: str) -> dict[str, str]:
    """The variables that ask for a level."""
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())
    return {**LEVELS[level][1], "NEUROCUDA_INSTRUCTIONS": level, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor-{level}"}


if __name__ == "__main__":
    asked, *command = sys.argv[1:]
    if lacks := missing(asked):
        print(f"instructions: not run at {asked!r}, as this processor has no {', '.join(sorted(lacks))}")
    else:
        os.execvpe(command[0], command, os.environ | environment(asked))
