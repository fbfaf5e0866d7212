"""Fashion-MNIST from a folder of IDX files, and the augmented batches that a network is trained with."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_MEAN, _DEVIATION = 0.2860, 0.3530
_SHIFT = 2


def read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 28, 28], normalised, and labels [N] of "train" or "test"."""
    images, labels = (_read_idx(folder, name) for name in FILES[part])
    pixels = torch.from_numpy(images).unsqueeze(1).float() / 255
    return (pixels - _MEAN) / _DEVIATION, torch.from_numpy(labels).long()


def fingerprint(folder: Path) -> str:
    """What the training files hold, in a few letters."""
    digest = hashlib.sha256()
    for name in FILES["train"]:
        digest.update(_read_idx(folder, name).tobytes())
    return digest.hexdigest()


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """An IDX file of bytes, plain or compressed: 0, 0, 8, the number of axes, their sizes, the bytes."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            axes = content[3]
            shape = np.frombuffer(content, ">u4", axes, offset=4)
            return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
    raise SystemExit(
        f"{folder}: expected {name} or {name}.gz, found neither. Fashion-MNIST comes as the Debian package "
        f"dataset-fashion-mnist (apt-get install dataset-fashion-mnist; its files are in {FOLDER}), "
        "or from https://github.com/zalandoresearch/fashion-mnist; name the folder with --data"
    )


def augmented(images: Tensor, labels: Tensor, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of batches in random order, each image mirrored or not and shifted by up to 2 pixels."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    shifts = torch.randint(-_SHIFT, _SHIFT + 1, (len(images), 2), generator=generator)
    background = images.min()
    rows = torch.arange(images.shape[2])
    columns = torch.arange(images.shape[3])
    for chosen in torch.randperm(len(images), generator=generator).split(size):
        padded = torch.nn.functional.pad(images[chosen, 0], (_SHIFT,) * 4, value=background.item())
        y = rows + _SHIFT + shifts[chosen, :1]
        x = columns + _SHIFT + shifts[chosen, 1:]
        x = torch.where(mirrored[chosen, None], x.flip(1), x)
        which = torch.arange(len(chosen))[:, None, None]
        yield padded[which, y[:, :, None], x[:, None, :]].unsqueeze(1), labels[chosen]
