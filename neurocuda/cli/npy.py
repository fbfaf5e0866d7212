"""Signals in NumPy files: inputs read and fitted to a graph, results written whole or not at all."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neurocuda.errors import ArgumentError, FileError, nearest
from neurocuda.graph import Graph, Shape

_AS_THEY_ARE = ("bool", "uint8", "int8", "float16", "float32")


def read_inputs(path: str | os.PathLike[str], graph: Graph) -> tuple[dict[str, Tensor], list[str]]:
    """The signals of a graph's Inputs, [T, B, *shape], by name; and a note for each that had to be rounded.

    An .npy file holds the signal of the only Input, an .npz file one by name of each. What float32 does not
    hold exactly is rounded to it. Raises `FileError` for a file that is not NumPy's, `ArgumentError` naming
    file and Input for signals that do not fit.
    """
    name = os.fspath(path)
    arrays = load_arrays(name)
    if isinstance(arrays, np.ndarray):
        if len(graph.inputs) != 1:
            raise ArgumentError(f"{name}: expected an .npz file with the inputs {_list(graph)}, found one array")
        arrays = {graph.inputs[0]: arrays}
    for key in arrays:
        if key not in graph.inputs:
            close = nearest(key, graph.inputs)
            raise ArgumentError(f"{name}: expected the inputs {_list(graph)}, found {key!r} ({close})")
    missing = [key for key in graph.inputs if key not in arrays]
    if missing:
        raise ArgumentError(f"{name}: expected the inputs {_list(graph)}, found none for {missing}")
    signals, notes = {}, []
    for key in graph.inputs:
        where = f"{name}, input {key!r}"
        _check_shape(where, arrays[key], graph.nodes[key].output_shape, arrays[graph.inputs[0]])
        signals[key], note = _as_float32(where, arrays[key])
        notes += [note] if note else []
    return signals, notes


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as an .npz file, whole or not at all. Raises `FileError`."""
    target = check_target(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(temporary, "xb") as file:
            # not numpy.savez, which cannot hold an array named "file"
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except (OSError, ValueError) as error:
        raise FileError(f"{target}: expected to write {len(arrays)} arrays, found {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_target(path: str | os.PathLike[str]) -> Path:
    """The file that `path` means, refused with `FileError` where it cannot be written as a file."""
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
        raise FileError(f"{name}: expected an .npy or .npz file, found one that cannot be read ({error})") from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise FileError(f"{name}: expected arrays, found {key!r}, another kind of data")
    return arrays


def _list(graph: Graph) -> str:
    return str(list(graph.inputs))


def _check_shape(where: str, array: np.ndarray, shape: Shape, first: np.ndarray) -> None:
    wanted = f"[T, B{''.join(f', {size}' for size in shape)}]"
    if array.dtype.kind not in "biuf":
        raise ArgumentError(f"{where}: expected real numbers {wanted}, found {array.dtype}")
    if array.ndim != 2 + len(shape) or array.shape[2:] != shape:
        hint = "; one sample without a batch axis needs x[:, None]" if array.shape[1:] == shape else ""
        raise ArgumentError(f"{where}: expected {wanted}, found shape {array.shape}{hint}")
    if array.shape[:2] != first.shape[:2]:
        raise ArgumentError(
            f"{where}: expected T, B = {first.shape[:2]} as in the first input, found {array.shape[:2]}"
        )


def _as_float32(where: str, array: np.ndarray) -> tuple[Tensor, str | None]:
    """The signal as a tensor of float32, or of a type exact in it; and what rounding changed."""
    note = None
    if array.dtype.name in _AS_THEY_ARE:
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
