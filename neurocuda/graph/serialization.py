"""Reads and writes NIR files. Broken or hostile files raise `FileError`; a failed write leaves the old file intact."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np

from neurocuda.errors import FileError, Problem, raise_problems
from neurocuda.graph import Graph, Node, build, expand
from neurocuda.graph.fields import Value
from neurocuda.graph.file_types import file_type, hdf5_type
from neurocuda.graph.primitives import SIGNAL_PARAMETERS

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEEPEST = 200
# deflate, the strongest filter of HDF5, cannot shrink data by more than about 1030 to 1
_MOST_COMPRESSION = 1100
_UNCHECKED_BYTES = 2**20


def read(path: str | os.PathLike[str]) -> Graph:
    """Reads a NIR file, also where the type check of the nir package refuses it.

    Args:
        path: The HDF5 file.

    Returns:
        The graph: flat, with inferred shapes. Parameters keep the dtypes of the file.

    Raises:
        FileError: The file cannot be read, or is not NIR.
        GraphError: The graph has problems (`ShapeError` if they are of shapes); each names its node and field.

    Example:
        >>> import neurocuda
        >>> neurocuda.read("examples/digits/digits.nir").outputs
        ('output',)
    """
    graph, problems = check(path)
    raise_problems(problems, os.fspath(path))
    assert graph is not None
    return graph


def check(path: str | os.PathLike[str]) -> tuple[Graph | None, tuple[Problem, ...]]:
    """The graph of a NIR file, or None and all its problems. Raises `FileError` as `read`."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as start:
            hdf5 = start.read(len(_SIGNATURE)) == _SIGNATURE
    except OSError as error:
        found = {FileNotFoundError: "no such file", IsADirectoryError: "a folder"}.get(type(error), str(error.strerror))
        raise FileError(f"{name}: expected a NIR file, found {found}") from error
    if not hdf5:
        raise FileError(f"{name}: expected an HDF5 file (NIR), found {file_type(path)}")
    try:
        with h5py.File(path, "r") as file:
            raw, version = _read_root(file, name)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:  # h5py raises these for damaged files
        found = f"an HDF5 file that is truncated or damaged ({error})"
        raise FileError(f"{name}: expected an HDF5 file (NIR), found {found}") from error
    return build(raw, name, version)


def _read_root(file: h5py.File, name: str) -> tuple[Mapping[str, Any], str | None]:
    root = _read_group(file, name, "", 0, set())
    version = root.get("version")
    node = root.get("node")
    if not isinstance(node, Mapping):
        raise FileError(f"{name}: expected a NIR graph (a group 'node'), found {hdf5_type(set(root))}")
    if node.get("type") != "NIRGraph":
        raise FileError(f"{name}: expected a graph (type 'NIRGraph'), found a node of type {node.get('type')!r}")
    return node, version if isinstance(version, str) else None


def _read_group(group: h5py.Group, name: str, path: str, depth: int, seen: set[int]) -> dict[str, Any]:
    if depth > _DEEPEST:
        raise FileError(f"{name}: expected at most {_DEEPEST} groups inside each other, found more at {path!r}")
    content: dict[str, Any] = {}
    for key in group:
        here = f"{path}/{key}"
        link = group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise FileError(f"{name}: expected data at {here!r}, found a link elsewhere")
        item = group[key]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise FileError(f"{name}: expected data at {here!r}, found a link to data elsewhere in the file")
        seen.add(address)
        if isinstance(item, h5py.Group):
            content[key] = _read_group(item, name, here, depth + 1, seen)
        elif isinstance(item, h5py.Dataset):
            content[key] = _read_dataset(item, name, here)
        else:
            raise FileError(f"{name}: expected a group or a dataset at {here!r}, found {type(item).__name__}")
    return content


def _read_dataset(dataset: h5py.Dataset, name: str, path: str) -> Any:
    if dataset.external or dataset.is_virtual:
        raise FileError(f"{name}: expected data at {path!r}, found a reference to another file")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > _UNCHECKED_BYTES and dataset.nbytes > stored * _MOST_COMPRESSION:
        raise FileError(
            f"{name}: expected data at {path!r}, found {dataset.nbytes} bytes announced and {stored} stored"
        )
    value = dataset[()]
    return None if isinstance(value, h5py.Empty) else _plain(value)


def _plain(value: Any) -> Any:
    """HDF5 strings as str, all else as numpy has it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray) and value.dtype.kind in "OS":
        return np.vectorize(_plain, otypes=[object])(value) if value.size else value.astype(object)
    return value


def write(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes a graph as a NIR file that the nir package can read.

    The file is flat. Parameters have the full shape of their signal; the Input and Output nodes of nested graphs are
    written as `Scale` by one, which changes no value. An existing file is replaced only after everything was written.

    Args:
        graph: The graph.
        path: The file; its folder must exist.

    Raises:
        FileError: The file cannot be written; an existing one is unchanged.

    Example:
        >>> import neurocuda, tempfile
        >>> graph = neurocuda.read("examples/digits/digits.nir")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     neurocuda.write(graph, f"{folder}/copy.nir")
        ...     neurocuda.read(f"{folder}/copy.nir").edges == graph.edges
        True
    """
    with new_file(path, repr(graph.source)) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("version", data=nir.version, dtype=h5py.string_dtype())
        _write_fields(file.create_group("node"), _graph_fields(graph))


@contextmanager
def new_file(path: str | os.PathLike[str], content: str) -> Iterator[str]:
    """A context with the path of a temporary file, which replaces `path` if no error is raised.

    content: what is written, for the message. Raises `FileError`; an existing file is unchanged.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise FileError(f"{target}: expected a file to write, found {'a folder' if target.is_dir() else 'a device'}")
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise FileError(f"{target}: expected a folder that can be written, found {error.strerror or error}") from error
    try:
        os.close(handle)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, target.stat().st_mode if target.exists() else 0o666 & ~_umask())
        os.replace(temporary, target)
    except (OSError, TypeError, ValueError) as error:
        raise FileError(f"{target}: expected to write {content}, found {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _graph_fields(graph: Graph) -> dict[str, Any]:
    nodes = {name: dict(_node_fields(node)) for name, node in graph.nodes.items()}
    return {"type": "NIRGraph", "nodes": nodes, "edges": list(graph.edges), "metadata": dict(graph.metadata)}


def _node_fields(node: Node) -> Iterator[tuple[str, Any]]:
    yield "metadata", dict(node.metadata)
    if node.type == "Identity":
        yield "type", "Scale"
        yield "scale", np.ones(node.input_shape, np.float32)
        return
    yield "type", node.type
    yield from node.shape_fields.items()
    for name, value in node.parameters.items():
        yield name, expand(node, name) if name in SIGNAL_PARAMETERS else _stored(value)


def _stored(value: Value) -> Any:
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 else np.array(value, np.int64)
    return value


def _write_fields(group: h5py.Group, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        if not isinstance(key, str) or not key or key == "." or "/" in key or "\0" in key:
            raise ValueError(f"the name {key!r} in {group.name!r}; HDF5 needs names that are not empty, without '/'")
        if isinstance(value, Mapping):
            if value or key != "metadata":
                _write_fields(group.create_group(key), value)
            continue
        try:
            _write_value(group, key, value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{value!r} as {key!r} in {group.name!r}, which HDF5 cannot hold ({error})") from error


def _write_value(group: h5py.Group, key: str, value: Any) -> None:
    if value is None:
        raise TypeError("no value")
    if key == "edges" and isinstance(value, list):
        edges = np.array(value, dtype=object).reshape(-1, 2)
        group.create_dataset(key, data=edges, dtype=h5py.string_dtype())
    elif isinstance(value, str):
        group.create_dataset(key, data=value, dtype=h5py.string_dtype())
    elif isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "biuf":
        group.create_dataset(key, data=value, compression="gzip")
    else:
        group.create_dataset(key, data=value)
