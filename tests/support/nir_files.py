"""Writes raw graphs, nested dicts with the layout of a NIR file, as HDF5 files like the nir package's."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def write_raw(raw: dict[str, Any], file: str | Path | BytesIO, version: str = "1.0.8") -> None:
    """Writes `raw` to a path or a BytesIO; leaves out fields that are None; '/' in a name is a ValueError."""
    with h5py.File(file, "w") as root:
        root.create_dataset("version", data=version, dtype=h5py.string_dtype())
        _write_group(root.create_group("node"), raw)


def _write_group(group: h5py.Group, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if "/" in name:
            raise ValueError(f"an HDF5 group cannot be named {name!r}")
        if value is None:
            continue
        if isinstance(value, dict):
            _write_group(group.create_group(name), value)
        elif isinstance(value, str):
            group.create_dataset(name, data=value, dtype=h5py.string_dtype())
        elif name == "edges":
            edges = np.array([list(edge) for edge in value], dtype=object).reshape(len(value), 2)
            group.create_dataset(name, shape=edges.shape, data=edges, dtype=h5py.string_dtype())
        else:
            group.create_dataset(name, data=value)
