"""Records the networks of all simulators, or of one: `python -m record FOLDER [SIMULATOR]`.

Runs in the environment of `make interop-env`, which does not contain NeuroCUDA.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from pathlib import Path

from record.case import record

TOOLS = ("snntorch", "norse", "sinabs", "spikingjelly", "spyx", "rockpool")


def main(folder: Path, tools: tuple[str, ...]) -> None:
    """Writes the files of each network into the folder."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    for tool in tools:
        for case in importlib.import_module(f"record.{tool}_cases").CASES:
            record(case, folder)
            print(case.tool, case.name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or TOOLS)
