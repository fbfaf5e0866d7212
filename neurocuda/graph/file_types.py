"""Names the type of a file from its first bytes, for messages about a file that is not of the expected type."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

_FIRST_BYTES = 512
_EVENT_BYTES = 5
"""The size of one event in the .bin files of N-MNIST and N-Caltech101."""

_NPY, _NPZ, _DAMAGED_ZIP = "a NumPy array (.npy)", "NumPy arrays (.npz)", "a zip archive that is truncated or damaged"

NUMPY_TYPES = frozenset({_NPY, _NPZ, _DAMAGED_ZIP})
"""The types of file that numpy.load may read, or that are damaged files of NumPy."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the file; `git lfs pull` fetches the file"),
    (b"#!AER-DAT", "an AEDAT recording of events"),
    (b"#!AER-DVS", "an AEDAT recording of events"),
    (b"% ", "a recording of events (Prophesee) or another file that starts with '%'"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", _NPY),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x80\x02\x8a\nl\xfc\x9c\x46\xf9\x20", "a PyTorch file (torch.save before 1.6)"),
    (b"\x80", "a Python pickle"),
    (b"<!doctype html", "an HTML page, probably of a download that failed"),
    (b"<html", "an HTML page, probably of a download that failed"),
)


def file_type(path: str | os.PathLike[str]) -> str:
    """The type of a file that exists, such as "a PyTorch archive (torch.save)"; else "another type of file"."""
    try:
        with open(path, "rb") as file:
            start = file.read(_FIRST_BYTES)
        size = os.path.getsize(path)
    except OSError as error:
        return f"a file that cannot be read ({error.strerror or error})"
    if not start:
        return "an empty file"
    for signature, name in _STARTS:
        if start[: len(signature)].lower() == signature.lower():
            return name
    if start.startswith(b"PK"):
        return _archive(path)
    suffix = Path(path).suffix.lower()
    if suffix in (".bin", ".dat", ".raw"):
        events = f", perhaps {size // _EVENT_BYTES} events as in N-MNIST" if size % _EVENT_BYTES == 0 else ""
        return f"a file of raw bytes ({suffix}{events})"
    if suffix.startswith(".aedat"):
        return f"an {suffix} file of events without the AEDAT header"
    if suffix in (".pt", ".pth", ".ckpt"):
        return f"a {suffix} file that is no PyTorch archive"
    return "another type of file"


def hdf5_type(groups: set[str]) -> str:
    """The type of an HDF5 file without a NIR graph, from the names at its root."""
    if "layer" in groups:
        return "a network of Lava (lava-dl's .net); its NIR export is another file"
    if "model_weights" in groups or "layers" in groups:
        return "a Keras model"
    if "events" in groups:
        return "a recording of events"
    return ", ".join(sorted(groups)) or "an empty file"


def _archive(path: str | os.PathLike[str]) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return _DAMAGED_ZIP
    files = {name.split("/", 1)[-1] for name in names}
    if "constants.pkl" in files and any(name.startswith("code/") for name in files):
        return "a TorchScript model"
    if "data.pkl" in files:
        return "a PyTorch archive (torch.save)"
    if any(name.startswith("models/") for name in files) or "archive_format" in files:
        return "an exported PyTorch program (torch.export)"
    if names and all(name.endswith(".npy") for name in names):
        return _NPZ
    return "a zip archive"
