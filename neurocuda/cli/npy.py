"""Signals in NumPy files: reads the inputs of a graph, and writes results as a complete file or not at all."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from neurocuda.cli.console import show
from neurocuda.errors import ArgumentError, FileError, nearest

if TYPE_CHECKING:
    from neurocuda.graph import Graph, Shape

_EXACT_IN_FLOAT32 = ("bool", "uint8", "int8", "float16", "float32")


def read_inputs(name: str, graph: Graph) -> dict[str, Tensor]:
    """The signals of a graph's Inputs, [T, B, *shape], by name of the Input.

    An .npy file holds the signal of the only Input, an .npz file one for each Input, by name. Values that float32
    cannot represent are rounded to it, with a note on stderr.

    Raises:
        FileError: The file cannot be read as a NumPy file.
        ArgumentError: A signal does not fit its Input; the message names the file and the Input.
    """
    from neurocuda.graph.added_terminals import explained

    arrays = load_arrays(name)
    if isinstance(arrays, np.ndarray):
        if len(graph.inputs) != 1:
            found = "; ".join(["one array", *explained(graph.inputs, graph.edges)])
            raise ArgumentError(f"{name}: expected an .npz file with the inputs {_list(graph)}, found {found}")
        arrays = {graph.inputs[0]: arrays}
    for key in arrays:
        if key not in graph.inputs:
            close = nearest(key, graph.inputs)
            raise ArgumentError(f"{name}: expected the inputs {_list(graph)}, found {key!r} ({close})")
    missing = [key for key in graph.inputs if key not in arrays]
    if missing:
        added = explained(graph.inputs, graph.edges)
        raise ArgumentError(
            "; ".join([f"{name}: expected the inputs {_list(graph)}, found none for {missing}", *added])
        )
    signals, notes = {}, []
    for key in graph.inputs:
        where = f"{name}, input {key!r}"
        _check_shape(where, arrays[key], graph.nodes[key].output_shape, arrays[graph.inputs[0]])
        signals[key], note = _as_float32(where, arrays[key])
        notes += [note] if note else []
    for note in notes:
        show(f"note: {note}", err=True)
    return signals


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as an .npz file: a complete file, or none. Raises `FileError`."""
    from neurocuda.graph.serialization import new_file

    temporary = new_file(check_target(path), f"{len(arrays)} arrays")
    with temporary as file, zipfile.ZipFile(file, "w") as archive:  # numpy.savez cannot write an array named "file"
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def check_target(path: str | os.PathLike[str]) -> Path:
    """The absolute path of the file to write. Raises `FileError` if no file can be written there."""
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise FileError(f"{target}: expected a folder to write in, found none at {target.parent}")
    if target.exists() and not target.is_file():
        raise FileError(f"{target}: expected a file to write, found {'a folder' if target.is_dir() else 'a device'}")
    return target


def load_arrays(name: str) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an .npy file, or those of an .npz file by name. Raises `FileError`."""
    if not Path(name).exists():
        raise FileError(f"{name}: expected an .npy or .npz file, found no such file")
    try:
        content = np.load(name, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            arrays = {key: content[key] for key in content.files}
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise FileError(f"{name}: expected an .npy or .npz file, found {_found(name, error)}") from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            found = _found(name, f"{key!r} is no array")
            raise FileError(f"{name}: expected an .npy or .npz file, found {found}")
    return arrays


def _found(name: str, problem: object) -> str:
    """The type of a file without arrays, or the problem of one of NumPy's own types."""
    from neurocuda.graph.file_types import NUMPY_TYPES, file_type

    found = file_type(name)
    if found in NUMPY_TYPES or isinstance(problem, OSError):
        return f"one that cannot be read ({problem})"
    return f"{found}; bin its events into frames [T, B, *shape] first" if "events" in found else found


def _list(graph: Graph) -> str:
    return str(list(graph.inputs))


def _check_shape(where: str, array: np.ndarray, shape: Shape, first: np.ndarray) -> None:
    expected = f"[T, B{''.join(f', {size}' for size in shape)}]"
    if array.dtype.names:
        found = f"a list of events with the fields {', '.join(array.dtype.names)}"
        raise ArgumentError(f"{where}: expected frames {expected}, found {found}; bin the events into frames first")
    if array.dtype.kind not in "biuf":
        raise ArgumentError(f"{where}: expected real numbers {expected}, found {array.dtype}")
    if array.ndim != 2 + len(shape) or array.shape[2:] != shape:
        hint = "; one sample without a batch axis needs x[:, None]" if array.shape[1:] == shape else ""
        raise ArgumentError(f"{where}: expected {expected}, found shape {array.shape}{hint}")
    if array.shape[:2] != first.shape[:2]:
        raise ArgumentError(
            f"{where}: expected T, B = {first.shape[:2]} as in the first input, found {array.shape[:2]}"
        )


def _as_float32(where: str, array: np.ndarray) -> tuple[Tensor, str | None]:
    """The signal as a tensor of float32 or of a dtype that is exact in float32, and a note if values were rounded."""
    note = None
    if array.dtype.name in _EXACT_IN_FLOAT32:
        signal = array.astype(array.dtype.newbyteorder("="), order="C")
    else:
        with np.errstate(over="ignore"):
            signal = array.astype(np.float32, order="C")
        changed = int((signal != array).sum())
        if changed:
            note = f"{where}: rounded from {array.dtype} to float32, which changes {changed} of {array.size} values"
    finite = np.isfinite(signal)
    if not finite.all():
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ArgumentError(f"{where}: expected finite float32 numbers, found {array[at]} at index {at}")
    return torch.from_numpy(signal), note
