"""Rewrites a NIR file in a random order of nodes, fields and edges."""

from __future__ import annotations

import os

import h5py
import numpy as np


def rewrite_in_other_order(file: str | os.PathLike[str], target: str | os.PathLike[str], seed: int) -> None:
    """Copies a NIR file with nodes, fields and edges in a random order, in nested graphs too."""
    generator = np.random.default_rng(seed)
    with h5py.File(file, "r") as old, h5py.File(target, "w", track_order=True) as new:
        _copy_in_other_order(old, new, generator)


def _copy_in_other_order(old: h5py.Group, new: h5py.Group, generator: np.random.Generator) -> None:
    for key in generator.permutation(np.array(sorted(old), dtype=object)):
        item = old[key]
        if isinstance(item, h5py.Group):
            _copy_in_other_order(item, new.create_group(key, track_order=True), generator)
        elif key == "edges" and item.shape:
            new.create_dataset(key, data=generator.permutation(item[()]), dtype=item.dtype)
        else:
            old.copy(key, new)
