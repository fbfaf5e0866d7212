"""Round trips of NIR files: nothing is lost, a write is atomic, files of the nir package are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch
from graph_checks import assert_same, outputs, read, signal
from nir_files import write_raw
from paper import FOLDER, needs_paper
from raw_nodes import (
    FIELDS,
    IMAGE,
    NEURONS,
    SERIES,
    VECTOR,
    Raw,
    chain,
    everything,
    full,
    graph,
    node,
    ramp,
    single,
    terminal,
)

import neurocuda
from neurocuda import FileError


def per_channel(kind: str, channels: int) -> Raw:
    values = np.arange(1, channels + 1)
    return {"type": kind, **{name: (values / 64).astype("f4") for name in FIELDS[kind]}}


NOTES = {"dt": 1e-4, "tool": "ours, ß 層", "count": np.int64(3), "on": np.bool_(True), "deep": {"x": np.arange(3)}}
ROUND_TRIPS: dict[str, Raw] = {
    "everything": everything(),
    **{f"scalar {kind}": single(kind) for kind in FIELDS},
    **{f"per channel {kind}": chain({"n": per_channel(kind, 2)}, IMAGE) for kind in NEURONS},
    **{f"full {kind}": chain({"n": full(kind, SERIES)}, SERIES) for kind in (*NEURONS, "Scale", "Threshold", "Delay")},
    "signals without axes": chain({"n": node("LIF"), "s": node("Scale", scale=2.0)}, ()),
    "one element": chain({"n": node("LIF", tau=np.float64([0.25]))}, (1,)),
    "batch of matrices": chain({"n": node("Linear", weight=ramp(2, 4, 6))}, SERIES),
    "bias of one value": single("Affine", bias=np.float32(0.25)),
    "bias of one value, Conv2d": single("Conv2d", bias=np.float32([0.25])),
    "grouped": single("Conv2d", weight=ramp(4, 1, 3, 2), groups=2),
    "words for padding": chain({"a": node("Conv2d", weight=ramp(2, 2, 3, 2), bias=ramp(2), padding="same"),
                                "b": node("Conv2d", padding="valid")}, IMAGE),
    "pairs": single("Conv2d", stride=np.array([2, 1]), padding=np.array([1, 0]), dilation=np.array([1, 2])),
    "duplicate edges": {**(two := chain({"n": node("LI")})), "edges": [*two["edges"], ("in", "n"), ("n", "out")]},
    "cycle": {**(ring := chain({"n": node("LIF"), "w": node("Linear", weight=ramp(3, 3))})),
              "edges": [*ring["edges"], ("w", "n")]},
    "no edges": {**chain({"n": node("LIF")}), "edges": []},
    "several ends": graph(
        {n: terminal("Input", VECTOR) for n in "ab"} | {n: terminal("Output", VECTOR) for n in "yz"},
        [("a", "y"), ("b", "z"), ("b", "y")],
    ),
    "names": chain({name: node("LIF") for name in ("b.c", "層 ~", "..", "metadata", "edges", "type", "b:r", " ")}),
    "metadata": {**chain({"n": node("LIF", metadata={"who": "me", "v": np.float32([1, 2])})}), "metadata": NOTES},
    "empty metadata inside": {**chain({"n": node("LIF", metadata={"a": {}})}), "metadata": {"b": {"c": {}}}},
}  # fmt: skip


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_written_graph_is_read_back(name: str, tmp_path: Path) -> None:
    original = read(ROUND_TRIPS[name], tmp_path / "a.nir")
    neurocuda.write(original, tmp_path / "b.nir")
    again = neurocuda.read(tmp_path / "b.nir")
    assert_same(again, original)
    assert again.version == nir.version
    assert again.warnings == ()


@pytest.mark.parametrize("value", [[b"a", b"bc"], [[b"a"], [b"b"]]])
def test_metadata_of_several_strings_is_kept(value: list[Any], tmp_path: Path) -> None:
    write_raw(chain({"n": node("LIF")}), tmp_path / "a.nir")
    with h5py.File(tmp_path / "a.nir", "r+") as file:
        file["node"].create_group("metadata").create_dataset("tags", data=value, dtype=h5py.string_dtype())
    original = neurocuda.read(tmp_path / "a.nir")
    neurocuda.write(original, tmp_path / "b.nir")
    tags = np.asarray(neurocuda.read(tmp_path / "b.nir").metadata["tags"])
    assert tags.tolist() == np.char.decode(np.array(value)).tolist()
    assert tags.tolist() == np.asarray(original.metadata["tags"]).tolist()


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i4", "u1", ">f4", ">f8"])
def test_every_type_of_number_is_kept(dtype: str, tmp_path: Path) -> None:
    weight, tau = (np.arange(9).reshape(3, 3) + 1).astype(dtype), np.array([1, 2, 3], dtype)
    original = read(chain({"n": node("LIF", tau=tau), "w": node("Linear", weight=weight)}), tmp_path / "a.nir")
    neurocuda.write(original, tmp_path / "b.nir")
    again = neurocuda.read(tmp_path / "b.nir")
    assert_same(again, original)
    assert again.nodes["w"].array("weight").dtype == weight.dtype
    assert again.nodes["n"].array("tau").dtype == tau.dtype
    x = signal(original)
    native = chain({"n": node("LIF", tau=tau.astype("f8")), "w": node("Linear", weight=weight.astype("f8"))})
    assert torch.equal(outputs(again, x)["out"], outputs(read(native, tmp_path / "c.nir"), x)["out"])


def test_float64_bits_survive(tmp_path: Path) -> None:
    third = np.nextafter(1 / 3, 1)
    original = read(single("CubaLIF", tau_mem=np.float64(third), r=np.float64([-0.0, 5e-324, 1.0])), tmp_path / "a.nir")
    neurocuda.write(original, tmp_path / "b.nir")
    again = neurocuda.read(tmp_path / "b.nir").nodes["n"]
    assert again.array("tau_mem").item() == third
    assert again.array("r").tobytes() == np.float64([-0.0, 5e-324, 1.0]).tobytes()


def test_scalars_are_written_at_full_shape_for_strict_readers(tmp_path: Path) -> None:
    raw = chain({"n": node("CubaLIF", tau_mem=np.float32([0.25, 0.5])), "s": node("Scale", scale=2.0)}, SERIES)
    neurocuda.write(read(raw, tmp_path / "a.nir"), tmp_path / "b.nir")
    with h5py.File(tmp_path / "b.nir") as file:
        for field in FIELDS["CubaLIF"]:
            assert file[f"node/nodes/n/{field}"].shape == SERIES, field
        assert file["node/nodes/s/scale"].shape == SERIES
        assert (file["node/nodes/n/tau_mem"][()] == np.repeat([[0.25], [0.5]], 6, axis=1)).all()


STRICT: dict[str, Raw] = {
    "everything": everything(),
    **{kind: single(kind) for kind in FIELDS},
    "Conv2d": single("Conv2d", weight=ramp(4, 2, 3, 3)),  # the nir package assumes square kernels
    "invented ends": graph({"n": full("LIF", VECTOR)}, []),
}


@pytest.mark.parametrize("name", STRICT)
def test_the_nir_package_reads_what_we_write(name: str, tmp_path: Path) -> None:
    ours = read(STRICT[name], tmp_path / "a.nir")
    neurocuda.write(ours, tmp_path / "b.nir")
    theirs = nir.read(tmp_path / "b.nir")
    assert set(theirs.nodes) == set(ours.nodes)
    assert sorted(theirs.edges) == list(ours.edges)
    assert_same(neurocuda.from_nir(theirs), ours)


@pytest.mark.parametrize("name", ["everything", *FIELDS])
def test_files_of_the_nir_package_are_read(name: str, tmp_path: Path) -> None:
    ours = read(STRICT[name], tmp_path / "a.nir")
    neurocuda.write(ours, tmp_path / "b.nir")
    theirs = nir.read(tmp_path / "b.nir")
    nir.write(tmp_path / "c.nir", theirs)
    assert_same(neurocuda.read(tmp_path / "c.nir"), ours)
    assert_same(neurocuda.from_nir(theirs), ours)


def nested_twice() -> Raw:
    """Nested graphs with sums, a cycle and two Outputs; edges to inner nodes; inner Inputs and Outputs in sums."""
    inner = graph(
        {
            "input": terminal("Input", (7, 7)),
            "lif": node("LIF", tau=np.float32([2e-4, 4e-4, 8e-4]), v_threshold=0.5),
            "w": node("Linear", weight=ramp(3, 3)),
            "output": terminal("Output", (7,)),
        },
        [("input", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "output"), ("input", "output")],
    )
    middle = graph({"deep": inner, "li": node("LI", tau=3e-4)}, [("deep", "li"), ("li", "deep.input")])
    middle["nodes"]["i"], middle["nodes"]["o"] = terminal("Input", VECTOR), terminal("Output", VECTOR)
    middle["edges"] += [("i", "deep"), ("li", "o"), ("i", "o")]
    raw = chain({"net": middle, "after": node("LIF", tau=2e-4, v_threshold=0.25)})
    raw["edges"] += [("net.deep.w", "after"), ("in", "net.deep.lif"), ("net.li", "net")]
    return raw


def test_a_nested_graph_written_flat_runs_the_same(tmp_path: Path) -> None:
    nested = read(nested_twice(), tmp_path / "a.nir")
    neurocuda.write(nested, tmp_path / "b.nir")
    flat = neurocuda.read(tmp_path / "b.nir")
    assert flat.edges == nested.edges
    assert list(flat.nodes) == list(nested.nodes)
    changed = {n for n in flat.nodes if flat.nodes[n].type != nested.nodes[n].type}
    assert changed == {"net.i", "net.o", "net.deep.input", "net.deep.output"}
    assert {flat.nodes[name].type for name in changed} == {"Scale"}
    x = signal(nested, steps=40)
    found, expected = outputs(flat, x), outputs(nested, x)
    assert expected["out"].any()
    assert torch.equal(found["out"], expected["out"])
    neurocuda.write(flat, tmp_path / "c.nir")
    assert_same(neurocuda.read(tmp_path / "c.nir"), flat)


def failing_after(calls: int, patch: pytest.MonkeyPatch) -> None:
    real = h5py.Group.create_dataset
    left = calls

    def create(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    patch.setattr(h5py.Group, "create_dataset", create)


def refuse(*arguments: Any, **options: Any) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("calls", [0, 1, 2, 7, 20, "fsync", "replace", "chmod", "open"])
def test_a_failed_write_leaves_everything_as_it_was(calls: int | str, exists: bool, tmp_path: Path) -> None:
    original = read(everything(), tmp_path / "a.nir")
    target = tmp_path / "folder" / "old.nir"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"the old file")
    before = sorted(target.parent.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(calls, int):
            failing_after(calls, patch)
        else:
            patch.setattr(h5py if calls == "open" else os, "File" if calls == "open" else calls, refuse)
        with pytest.raises(FileError, match=r"old\.nir.*No space left on device"):
            neurocuda.write(original, target)
    assert sorted(target.parent.iterdir()) == before
    if exists:
        assert target.read_bytes() == b"the old file"
    neurocuda.write(original, target)
    assert_same(neurocuda.read(target), original)


def test_an_interrupted_write_leaves_everything_as_it_was(tmp_path: Path) -> None:
    original = read(everything(), tmp_path / "a.nir")
    content = (tmp_path / "a.nir").read_bytes()

    def interrupt(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h5py.Group, "create_dataset", interrupt)
        with pytest.raises(KeyboardInterrupt):
            neurocuda.write(original, tmp_path / "a.nir")
    assert [file.name for file in tmp_path.iterdir()] == ["a.nir"]
    assert (tmp_path / "a.nir").read_bytes() == content


@pytest.mark.parametrize("place", ["nowhere/b.nir", "a.nir/b.nir", "folder"])
def test_a_place_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    original = read(single("LIF"), tmp_path / "a.nir")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileError) as caught:
        neurocuda.write(original, tmp_path / place)
    assert str(tmp_path / place) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["", ".", "a/b", "nul\0", "\ud800"])
def test_names_that_hdf5_cannot_hold_are_refused(name: str, tmp_path: Path) -> None:
    in_memory = nir.NIRGraph(
        {
            "in": nir.Input({"input": np.array([3])}),
            name: nir.Threshold(np.ones(3)),
            "out": nir.Output({"output": np.array([3])}),
        },
        [("in", name), (name, "out")],
    )
    with pytest.raises(FileError) as caught:
        neurocuda.write(neurocuda.from_nir(in_memory), tmp_path / "b.nir")
    assert "b.nir" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, object(), {1: 2}, {"a/b": 1}, np.array([object()])])
def test_metadata_that_hdf5_cannot_hold_is_refused_by_name(value: Any, tmp_path: Path) -> None:
    in_memory = nir.NIRGraph.from_list(nir.Threshold(np.ones(3), metadata={"odd": value}))
    with pytest.raises(FileError, match="odd"):
        neurocuda.write(neurocuda.from_nir(in_memory), tmp_path / "b.nir")
    assert list(tmp_path.iterdir()) == []


def test_the_mode_of_a_file_is_kept(tmp_path: Path) -> None:
    original = read(single("LIF"), tmp_path / "a.nir")
    target = tmp_path / "b.nir"
    neurocuda.write(original, target)
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    for mode in (0o600, 0o664, 0o755):
        target.chmod(mode)
        neurocuda.write(original, target)
        assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    original = read(single("LIF"), tmp_path / "a.nir")
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real.nir", tmp_path / "link.nir"
    real.write_bytes(b"the old file")
    link.symlink_to(real)
    neurocuda.write(original, link)
    assert link.is_symlink()
    assert_same(neurocuda.read(real), original)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a.nir", "far", "link.nir", "real.nir"]


@pytest.mark.parametrize("make", [str, Path])
def test_a_path_may_be_relative_and_a_string(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    original = read(single("LIF"), Path("a.nir"))
    neurocuda.write(original, make("b.nir"))
    assert_same(neurocuda.read(make("b.nir")), original)


@pytest.mark.parametrize("kind", ["IF", "LIF", "CubaLIF"])
@pytest.mark.parametrize("missing", [("v_reset",), ("w_in",), ("v_reset", "w_in")])
def test_old_files_without_v_reset_or_w_in(kind: str, missing: tuple[str, ...], tmp_path: Path) -> None:
    changes = {name: None for name in missing if name in FIELDS[kind]}
    old = read(single(kind, **changes), tmp_path / "old.nir")
    assert_same(old, read(single(kind), tmp_path / "new.nir"))


@pytest.mark.parametrize("version", ["0.2", "1.0", ""])
def test_other_versions_are_read(version: str, tmp_path: Path) -> None:
    assert read(single("LIF"), tmp_path / "a.nir", version=version).version == version


def test_a_file_without_a_version_is_read(tmp_path: Path) -> None:
    expected = read(single("LIF"), tmp_path / "a.nir")
    with h5py.File(tmp_path / "a.nir", "r+") as file:
        del file["version"]
    found = neurocuda.read(tmp_path / "a.nir")
    assert found.version is None
    assert_same(found, expected)


FILES = sorted(path for path in FOLDER.rglob("*.nir") if "broken" not in path.name)


@needs_paper
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_published_files_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    original = neurocuda.read(path)
    neurocuda.write(original, tmp_path / "flat.nir")
    flat = neurocuda.read(tmp_path / "flat.nir")
    x = signal(original, steps=12)
    found, expected = outputs(flat, x), outputs(original, x)
    for name, value in expected.items():
        assert torch.equal(found[name], value)
