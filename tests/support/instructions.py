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


def environment(level: str) -> dict[str, str]:
    """The variables that ask for a level. Ends the program where the processor does not have it."""
    needs, asks = LEVELS[level]
    found = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    missing = needs - set(found[1].split() if found else ())
    if missing:
        sys.exit(f"instructions: this processor has no {', '.join(sorted(missing))}: nothing is run at {level!r}")
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())
    return {**asks, "NEUROCUDA_INSTRUCTIONS": level, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor-{level}"}


if __name__ == "__main__":
    os.execvpe(sys.argv[2], sys.argv[2:], os.environ | environment(sys.argv[1]))
