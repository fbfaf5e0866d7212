"""Files that are not HDF5, damaged or hostile raise a specific error, quickly, and read no other file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from malformed_graphs import lif_chain, nested_times
from nir_files import write_raw
from raw_nodes import single

import neurocuda
from neurocuda import FileError, GraphError, NeuroCUDAError

Change = Callable[[Path], object]


def edited(change: Callable[[h5py.File], object]) -> Change:
    """A valid file, changed through HDF5."""

    def make(path: Path) -> None:
        write_raw(lif_chain(), path)
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def instead(place: str, create: Callable[[h5py.File, str], object]) -> Change:
    """A valid file with another object at `place`."""

    def change(file: h5py.File) -> None:
        del file[place]
        create(file, place)

    return edited(change)


def cut(fraction: float) -> Change:
    """A valid file, truncated."""

    def make(path: Path) -> None:
        write_raw(single("Linear", weight=np.random.default_rng(0).random((40, 3))), path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * fraction)])

    return make


def damaged_chunk(path: Path) -> None:
    """A compressed weight with overwritten compressed bytes."""
    write_raw(lif_chain(), path)
    with h5py.File(path, "r+") as file:
        group = file["node/nodes/n"]
        del group["tau"]
        packed = group.create_dataset("tau", data=np.random.default_rng(0).random(500), compression="gzip")
        place, size = (chunk := packed.id.get_chunk_info(0)).byte_offset, chunk.size
    with open(path, "r+b") as raw:
        raw.seek(place)
        raw.write(b"\0" * size)


def linked(levels: int) -> Change:
    """Nested groups, each linked twice from its parent: 2^levels paths in a file of some kB."""

    def change(file: h5py.File) -> None:
        group = file["node"].create_group("metadata")
        for _ in range(levels):
            inner = group.create_group("a")
            group["b"] = inner
            group = inner

    return edited(change)


def chained(levels: int) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        group = file["node"]
        for _ in range(levels):
            group = group.create_group("g")

    return change


def elsewhere(file: h5py.File, place: str) -> None:
    """A dataset that is stored in another file, which exists."""
    other = Path(file.filename).with_name("other.bin")
    other.write_bytes(np.ones(3).tobytes())
    file.create_dataset(place, (3,), "f8", external=[(str(other), 0, 24)])


def virtual(file: h5py.File, place: str) -> None:
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as source:
        source["x"] = np.ones(3)
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "x", (3,))
    file.create_virtual_dataset(place, layout)


def external(file: h5py.File, place: str) -> None:
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as source:
        source["x"] = np.ones(3)
    file[place] = h5py.ExternalLink(str(other), "x")


def soft(file: h5py.File, place: str) -> None:
    file[place] = h5py.SoftLink("/node/nodes/n/r")


def dangling(file: h5py.File, place: str) -> None:
    file[place] = h5py.SoftLink("/nowhere")


def itself(file: h5py.File) -> None:
    file["node/nodes/n/metadata"] = file["node/nodes"]


def bomb(file: h5py.File, place: str) -> None:
    """A dataset of 100 GB without stored data."""
    file.create_dataset(place, (12_500_000_000,), "f8", chunks=(1_000_000,))


def contiguous_bomb(file: h5py.File, place: str) -> None:
    file.create_dataset(place, (12_500, 1_000_000), "f8")


def compound(file: h5py.File, place: str) -> None:
    file.create_dataset(place, data=np.zeros(3, [("mantissa", "f4"), ("exponent", "i4")]))


def reference(file: h5py.File, place: str) -> None:
    file.create_dataset(place, data=file["node"].ref, dtype=h5py.ref_dtype)


def ragged(file: h5py.File, place: str) -> None:
    rows = file.create_dataset(place, (2,), h5py.vlen_dtype(np.float32))
    rows[0], rows[1] = [1.0], [1.0, 2.0]


def words(*names: object) -> Callable[[h5py.File, str], object]:
    """A dataset of strings with the shape of `names`."""
    return lambda file, place: file.create_dataset(place, data=np.array(names, dtype=object), dtype=h5py.string_dtype())


def value(data: object) -> Callable[[h5py.File, str], object]:
    return lambda file, place: file.create_dataset(place, data=data)


TAU, EDGES = "node/nodes/n/tau", "node/edges"

# change of the file, error class, words of the message
CASES: dict[str, tuple[Change, type[NeuroCUDAError], str]] = {
    "missing": (lambda path: None, FileError, "no such file"),
    "folder": (lambda path: path.mkdir(), FileError, "a folder"),
    "empty": (lambda path: path.write_bytes(b""), FileError, "an HDF5 file|an empty file"),
    "text": (lambda path: path.write_text("{'nodes': {}}" * 100), FileError, "an HDF5 file|another type of file"),
    "pickle": (lambda path: path.write_bytes(b"\x80\x04K\x01." * 9), FileError, "HDF5|a Python pickle"),
    "cut in the signature": (cut(0.0003), FileError, "an HDF5 file|another type of file"),
    "cut in the first block": (cut(0.005), FileError, "an HDF5 file|truncated or damaged"),
    "cut early": (cut(0.1), FileError, "truncated or damaged"),
    "cut in the middle": (cut(0.5), FileError, "truncated or damaged"),
    "cut late": (cut(0.9), FileError, "truncated or damaged"),
    "last byte missing": (cut(0.9999), FileError, "truncated or damaged"),
    "compressed bytes overwritten": (damaged_chunk, FileError, "truncated or damaged"),
    "no graph": (edited(lambda file: file.__delitem__("node")), FileError, "a group 'node'|version"),
    "nothing": (lambda path: h5py.File(path, "w").close(), FileError, "a group 'node'|an empty file"),
    "graph a dataset": (instead("node", value(3)), FileError, "a group 'node'|node"),
    "graph a LIF": (instead("node/type", words("LIF")), FileError, "'NIRGraph'|LIF"),
    "graph of no type": (edited(lambda file: file.__delitem__("node/type")), FileError, "'NIRGraph'|None"),
    "graph of a type in numbers": (instead("node/type", value(7)), FileError, "'NIRGraph'|7"),
    "group in itself": (edited(itself), FileError, "a link to data elsewhere in the file"),
    "groups too deep": (edited(chained(250)), FileError, "at most 200 groups inside each other|/node/g/g"),
    "graphs too deep": (lambda path: write_raw(nested_times(120), path), FileError, "at most 200 groups|/nodes/net"),
    "soft link": (instead(TAU, soft), FileError, "'/node/nodes/n/tau'|a link elsewhere"),
    "dangling link": (instead("node/nodes/n", dangling), FileError, "'/node/nodes/n'|a link elsewhere"),
    "external link": (instead("node/nodes/n/r", external), FileError, "'/node/nodes/n/r'|a link elsewhere"),
    "external storage": (instead(TAU, elsewhere), FileError, "'/node/nodes/n/tau'|a reference to another file"),
    "virtual": (instead("node/nodes/n/r", virtual), FileError, "'/node/nodes/n/r'|a reference to another file"),
    "bomb": (instead(TAU, bomb), FileError, "'/node/nodes/n/tau'|100000000000 bytes announced|0 stored"),
    "contiguous bomb": (instead("node/nodes/n/r", contiguous_bomb), FileError, "'/node/nodes/n/r'|100000000000 bytes"),
    "a type": (
        instead(TAU, lambda file, place: file.__setitem__(place, np.dtype("f4"))),
        FileError,
        "'/node/nodes/n/tau'|a group or a dataset|Datatype",
    ),
    "edges of one axis": (instead(EDGES, words("in", "n", "n", "after")), GraphError, "'edges'|pairs of names|in"),
    "edges of two letters": (instead(EDGES, words("in", "no")), GraphError, "'edges'|pairs of names"),
    "edges of three": (instead(EDGES, words(["in", "n", "out"])), GraphError, "'edges'|pairs of names"),
    "edges of numbers": (instead(EDGES, value(np.ones((2, 2)))), GraphError, "'edges'|pairs of names|[1.0, 1.0]"),
    "edges of numbers in a row": (instead(EDGES, value(np.ones(4))), GraphError, "'edges'|pairs of names"),
    "edges a number": (instead(EDGES, value(5)), GraphError, "'edges'|pairs of names|5"),
    "edges a word": (instead(EDGES, value("in -> n")), GraphError, "'edges'|pairs of names|'in -> n'"),
    "edges a group": (instead(EDGES, lambda file, place: file.create_group(place)), GraphError, "'edges'|pairs"),
    "edges without a value": (instead(EDGES, value(h5py.Empty("f4"))), GraphError, "'edges'|pairs of names|none"),
    "compound": (instead(TAU, compound), GraphError, "'n'|'tau'|real numbers"),
    "reference": (instead("node/nodes/n/r", reference), GraphError, "'n'|'r'|real numbers"),
    "ragged": (instead("node/nodes/n/v_leak", ragged), GraphError, "'n'|'v_leak'|real numbers"),
    "without a value": (instead(TAU, value(h5py.Empty("f4"))), GraphError, "'n'|'tau'|none"),
}


def refusal(make: Change, path: Path) -> NeuroCUDAError:
    make(path)
    with pytest.raises(NeuroCUDAError) as caught:
        neurocuda.read(path)
    return caught.value


@pytest.mark.parametrize("name", CASES)
def test_each_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, kind, expected = CASES[name]
    path = tmp_path / "bad file.nir"
    error = refusal(make, path)
    assert type(error) is kind, repr(error)
    for word in [str(path), "expected", "found", *expected.split("|")]:
        assert word in str(error), f"{word!r} is not in: {error}"
    if isinstance(error, GraphError):
        assert len(error.problems) == 1, "\n".join(map(str, error.problems))


def test_no_two_files_have_the_same_message(tmp_path: Path) -> None:
    alike = {"text", "pickle", "empty", "cut in the signature"}  # not HDF5, for the same reason
    told: dict[str, str] = {}
    for number, (name, (make, _, _)) in enumerate(CASES.items()):
        path = tmp_path / str(number)
        body = str(refusal(make, path)).replace(str(path), "")
        assert body not in told or {name, told[body]} <= alike, f"{name!r} and {told[body]!r}: {body}"
        told[body] = name


def test_links_that_multiply_are_not_followed_for_ever(tmp_path: Path) -> None:
    """20 levels are a million paths. An error or a graph is right, if it comes at once."""
    path = tmp_path / "links.nir"
    linked(20)(path)
    opened = 0
    real = h5py.Group.__getitem__

    def counted(group: h5py.Group, key: object) -> object:
        nonlocal opened
        opened += 1
        if opened > 20_000:
            raise AssertionError(f"{opened} objects were read from a file of {path.stat().st_size} bytes")
        return real(group, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h5py.Group, "__getitem__", counted)
        with contextlib.suppress(FileError):
            neurocuda.read(path)


@pytest.fixture
def unreadable(tmp_path: Path) -> Path:
    path = tmp_path / "secret.nir"
    write_raw(lif_chain(), path)
    path.chmod(0)
    return path


def test_a_file_that_may_not_be_read_is_refused(unreadable: Path) -> None:
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(FileError, match=r"secret\.nir"):
            neurocuda.read(unreadable)
    finally:
        if root:
            os.seteuid(0)


def overwritten(old: bytes, new: bytes) -> Change:
    """A file with some bytes changed, at any place."""

    def make(path: Path) -> None:
        write_raw(lif_chain(), path)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return make


def headless(name: str) -> Change:
    """A file with the header of one object overwritten."""

    def make(path: Path) -> None:
        write_raw(lif_chain(), path)
        with h5py.File(path, "r") as file:
            place = h5py.h5o.get_info(file[name].id).addr
        with open(path, "r+b") as raw:
            raw.seek(place)
            raw.write(b"\xff" * 4)

    return make


def other_precision(path: Path) -> None:
    """A float type with a precision that numpy does not support: 63 bits."""
    write_raw(lif_chain(), path)
    with h5py.File(path, "r+") as file:
        kind = h5py.h5t.IEEE_F64LE.copy()
        kind.set_fields(63, 48, 15, 0, 48)
        group = file["node/nodes/n"]
        del group["tau"]
        h5py.h5d.create(group.id, b"tau", kind, h5py.h5s.create(h5py.h5s.SCALAR))


# Only damage that the HDF5 library survives: other bytes make it hang or crash.
DAMAGES: dict[str, Change] = {
    "tree of a group": overwritten(b"TREE", b"TRUE"),
    "members of a group": overwritten(b"SNOD", b"SNAD"),
    "names of a group": overwritten(b"HEAP", b"HELP"),
    "strings": overwritten(b"GCOL", b"GOAL"),
    "name that is no text": overwritten(b"after", b"aft\xffr"),
    "header of a group": headless("node/nodes/n"),
    "header of a dataset": headless("node/nodes/n/tau"),
    "number of a strange precision": other_precision,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_inside_a_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.nir"
    assert str(path) in str(refusal(DAMAGES[name], path))
