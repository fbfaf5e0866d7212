"""Files that are not NIR, named for what they are."""

from __future__ import annotations

import gzip
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import neurocuda
from neurocuda import FileError


def bytes_of(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def hdf5(*groups: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for group in groups:
                file.create_group(group)

    return write


def archive(*names: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, b"")

    return write


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 26744\n"

# file name: (writes the file, words of the message)
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pointer.nir": (bytes_of(LFS), "a Git LFS pointer in place of the file; `git lfs pull` fetches the file"),
    "checkpoint.nir": (lambda path: torch.save({"w": torch.ones(3)}, path), "a PyTorch archive (torch.save)"),
    "checkpoint.pt": (lambda path: torch.save({"w": torch.ones(3)}, path), "a PyTorch archive (torch.save)"),
    "old.pt": (
        lambda path: torch.save({"w": 1}, path, _use_new_zipfile_serialization=False),
        "a PyTorch file (torch.save before 1.6)",
    ),
    "script.pt": (archive("m/data.pkl", "m/code/m.py", "m/constants.pkl"), "a TorchScript model"),
    "program.pt2": (
        lambda path: torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.ones(1),)), path),
        "an exported PyTorch program (torch.export)",
    ),
    "weights.pth": (bytes_of(b"abc"), "a .pth file that is no PyTorch archive"),
    "model.pkl": (lambda path: path.write_bytes(pickle.dumps([1])), "a Python pickle"),
    "sample.bin": (bytes_of(bytes(range(250)) * 2), "a file of raw bytes (.bin, perhaps 100 events as in N-MNIST)"),
    "other.bin": (bytes_of(bytes(range(9))), "a file of raw bytes (.bin)"),
    "rec.aedat": (bytes_of(b"#!AER-DAT2.0\r\n" + bytes(80)), "an AEDAT recording of events"),
    "rec.aedat4": (bytes_of(b"#!AER-DAT4.0\r\n" + bytes(80)), "an AEDAT recording of events"),
    "headless.aedat": (bytes_of(bytes(80)), "an .aedat file of events without the AEDAT header"),
    "x.npy": (lambda path: np.save(path, np.ones(3)), "a NumPy array (.npy)"),
    "x.npz": (lambda path: np.savez(path, a=np.ones(3)), "NumPy arrays (.npz)"),
    "x.zip": (archive("a.txt", "b.npy"), "a zip archive"),
    "cut.zip": (bytes_of(b"PK\x03\x04 and so on"), "a zip archive that is truncated or damaged"),
    "x.nir.gz": (lambda path: path.write_bytes(gzip.compress(b"abc")), "a gzip archive; unpack it first"),
    "page.nir": (bytes_of(b"<!DOCTYPE html><html>"), "an HTML page, probably of a download that failed"),
    "empty.nir": (bytes_of(b""), "an empty file"),
    "notes.nir": (bytes_of(b"notes"), "another type of file"),
    "lava.net": (hdf5("layer"), "a network of Lava (lava-dl's .net); its NIR export is another file"),
    "keras.h5": (hdf5("model_weights"), "a Keras model"),
    "events.h5": (hdf5("events"), "a recording of events"),
    "other.h5": (hdf5("b", "a"), "a, b"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_nir_is_named_for_what_it_is(tmp_path: Path, name: str) -> None:
    write, found = FILES[name]
    path = tmp_path / name
    write(path)
    expected = "a NIR graph (a group 'node')" if h5py.is_hdf5(path) else "an HDF5 file (NIR)"
    for reader in (neurocuda.read, neurocuda.load):
        with pytest.raises(FileError) as raised:
            reader(path)
        assert str(raised.value) == f"{path}: expected {expected}, found {found}"
