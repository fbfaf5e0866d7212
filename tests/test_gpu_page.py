"""What the page for GPU machines names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "gpu.md").read_text()


def test_tests_and_targets_are_there() -> None:
    files = set(re.findall(r"tests/\w+\.py", PAGE))
    assert len(files) > 4
    for file in files:
        text = (ROOT / file).read_text()
        assert "def test_" in text, file
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)$", PAGE, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_chosen_tests_are_there() -> None:
    (chosen,) = re.findall(r'-k "([^"]+)" (tests/\w+\.py)', PAGE)
    text = (ROOT / chosen[1]).read_text()
    for part in chosen[0].split(" or "):
        assert re.search(rf"def test_\w*{part}", text), part


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def test_it_says_that_nothing_was_run() -> None:
    assert "Nothing on this page has been run" in PAGE
    assert "has not been run on a GPU" in (ROOT / "benchmarks" / "README.md").read_text()
