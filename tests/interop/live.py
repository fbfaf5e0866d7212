"""Runs the recorded networks through `neurocuda.from_module`: `python live.py FOLDER [SIMULATOR]` after `record`.

Runs in the environment of `make interop-env` with NeuroCUDA's folder on the path.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record.case import Case

import neurocuda

TOOLS = ("snntorch", "norse", "sinabs", "spikingjelly")


def live(case: Case, folder: Path) -> None:
    """Writes `<case>.live.npz`: outputs and membrane potentials of `from_module`, or its refusal."""
    recorded = np.load(folder / f"{case.file_name}.npz")
    x = torch.from_numpy(recorded["x"])
    assert case.module is not None
    found: dict[str, Any] = {}
    try:
        net = neurocuda.from_module(case.module([recorded["weights 0"], recorded["weights 1"]]), x[0])
        outputs: list[Any] = []
        membranes: dict[str, list[Any]] = {}
        state = None
        with torch.no_grad():
            for now in x:
                y, state = net(now[None], state)
                outputs.append(y[0].numpy().copy())
                for key, value in state.tensors.items():
                    if key.endswith(".v"):
                        membranes.setdefault(key, []).append(value.numpy().copy())
        found["spikes"] = np.stack(outputs)
        found |= {f"membranes {i}": np.stack(v) for i, v in enumerate(membranes.values())}
    except neurocuda.NeuroCUDAError as error:
        found["refusal"] = str(error)
    np.savez_compressed(folder / f"{case.file_name}.live.npz", **found)


def main(folder: Path, tools: tuple[str, ...]) -> None:
    """Writes the file of each network into the folder."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for tool in tools:
        for case in importlib.import_module(f"record.{tool}_cases").CASES:
            if case.module is not None:
                live(case, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or TOOLS)
