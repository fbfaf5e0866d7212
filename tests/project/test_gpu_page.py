"""What the page for GPU machines names is there."""

import re

from places import ROOT

from benchmarks.on_gpu import measurements
from benchmarks.on_gpu.measurements import Measurement

PAGE = (ROOT / "docs" / "gpu.md").read_text()


def test_tests_and_targets_are_there() -> None:
    files = set(re.findall(r"tests/[\w/]+\.py", PAGE))
    assert len(files) > 4
    for file in files:
        text = (ROOT / file).read_text()
        assert "def test_" in text, file
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)$", PAGE, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_chosen_tests_are_there() -> None:
    (chosen,) = re.findall(r'-k "([^"]+)" (tests/[\w/]+\.py)', PAGE)
    text = (ROOT / chosen[1]).read_text()
    for part in chosen[0].split(" or "):
        assert re.search(rf"def test_\w*{part}", text), part


def test_the_table_of_networks_is_that_of_the_measurements() -> None:
    """Every figure, from the JSON; and where others are faster, it says so."""
    measured, machine = measurements.read(ROOT / "benchmarks" / "results" / "gpu-nvidia-h100-80gb-hbm3.json")
    page = (ROOT / "benchmarks" / "README.md").read_text()
    assert machine["gpu"] == "NVIDIA H100 80GB HBM3"
    by_case: dict[str, list[Measurement]] = {}
    for m in measured:
        if m.group == "network" and m.median_ms is not None:
            by_case.setdefault(m.case, []).append(m)
    assert len(by_case) == 7
    for case, found in by_case.items():
        times = {m.candidate: m.median_ms or 0 for m in found}
        ours = times["neurocuda, CUDA graph"]
        forms = [times.get(f"neurocuda, CUDA graph, {form}") for form in ("frozen", "frozen, output alone")]
        peer, plain = (
            min((times[m.candidate], m.candidate) for m in found if m.kind == kind) for kind in ("peer", "torch")
        )
        own = " | ".join("" if time is None else f"{time:.2f}" for time in (ours, *forms))
        ratios = f"{peer[0] / ours:.2f} | {plain[0] / ours:.2f}"
        row = f"| {case} | {own} | {peer[0]:.2f} {peer[1]} | {ratios} |"
        assert row in page, row
        layers = times.get("floor: the layers alone")
        assert layers is None or re.search(rf"{re.escape(row)} {layers:.2f}\b", page), (case, layers)
