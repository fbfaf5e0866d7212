"""What setup.py chooses to build, and why not. Nothing is compiled here; the CUDA build of torch is pretended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

PROBE = """
import contextlib, io, json, os, runpy, setuptools, sys, torch
torch.cuda._is_compiled = lambda: torch.version.cuda is not None
torch.cuda.is_available = lambda: False
made = {}
setuptools.setup = lambda **arguments: made.update(arguments)
inherited = dict(os.environ)
for cuda, environment in json.loads(sys.argv[1]):
    torch.version.cuda = cuda
    os.environ.clear()
    os.environ.update(inherited, **environment)
    sys.modules.pop("torch.utils.cpp_extension", None)  # it looks for CUDA where it is imported
    made.clear()
    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            runpy.run_path("setup.py")
        except SystemExit as error:
            told.write(str(error))
    module = made["ext_modules"][0] if made else None
    print(json.dumps({"told": told.getvalue()} | (module and {
        "kinds": sorted({os.path.splitext(source)[1] for source in module.sources}),
        "macros": [name for name, _ in module.define_macros],
        "libraries": module.libraries,
        "device": module.extra_compile_args["nvcc"],
        "architectures": os.environ.get("TORCH_CUDA_ARCH_LIST"),
        "home": os.environ.get("CUDA_HOME"),
    } or {})))
"""
NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {release}, V{release}.88" ;;
  --dryrun) echo "#$ _HERE_={home}/bin" >&2; echo "#$ TOP={home}/bin/.." >&2 ;;
  *) exit 1 ;;
esac
"""


def toolkit(folder: Path, release: str = "13.0") -> Path:
    """A folder with an nvcc that tells its version and its place, and compiles nothing."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(NVCC.format(release=release, home=folder))
    nvcc.chmod(0o755)
    return folder


def asked(*cases: tuple[str | None, dict[str, str]], after: str = "") -> list[Any]:
    """What setup.py makes of a version of CUDA that torch is built for, and an environment; in a process of its own."""
    unset = ("NEUROCUDA_", "CUDA_", "TORCH_CUDA_")
    done = subprocess.run(
        [sys.executable, "-c", PROBE + after, json.dumps(cases)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(unset)},
    )
    assert done.returncode == 0, done.stderr
    return [*map(json.loads, done.stdout.splitlines()), done.stderr]


def case(choice: str, cuda: str | None, home: Path, **environment: str) -> tuple[str | None, dict[str, str]]:
    return cuda, {"NEUROCUDA_BUILD": choice, "CUDA_HOME": str(home)} | environment


@pytest.mark.parametrize("choice", ["cuda", "auto"])
def test_a_toolkit_and_a_cuda_build_of_torch_make_cuda_kernels(choice: str, tmp_path: Path) -> None:
    home = toolkit(tmp_path / "toolkit")
    made, other, _ = asked(
        case(choice, "13.0", home, CUDA_VISIBLE_DEVICES=""), case(choice, "13.0", home, TORCH_CUDA_ARCH_LIST="7.5")
    )
    assert "NEUROCUDA_WITH_CUDA" in made["macros"], made["told"]
    assert {"c10_cuda", "cudart"} <= set(made["libraries"])
    assert made["kinds"] == [".cpp", ".cu"]
    assert made["architectures"] == "8.0;9.0+PTX"
    assert "-fmad=false" in made["device"]
    assert not [flag for flag in made["device"] if "fast" in flag or "ftz" in flag], "subnormals and roundings are kept"
    assert other["architectures"] == "7.5"


def test_the_nvcc_on_the_path_says_where_it_lies(tmp_path: Path) -> None:
    home = toolkit(tmp_path / "toolkit")
    script = tmp_path / "elsewhere" / "nvcc"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    made, _ = asked(("13.0", {"NEUROCUDA_BUILD": "cuda", "PATH": path}))
    assert made["home"] == str(home.resolve()), made["told"]


def test_what_cuda_kernels_want_is_named_and_auto_does_without(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    old = toolkit(tmp_path / "old", release="12.4")
    wrong = (
        (None, old, "is not a CUDA build"),
        ("13.0", empty, f"there is no nvcc in the CUDA toolkit {empty}"),
        ("13.0", old, f"the CUDA toolkit {old} is 12.4, but torch is built for CUDA 13.0"),
    )
    cases = [case(choice, cuda, home) for cuda, home, _ in wrong for choice in ("cuda", "auto", "cpu")]
    found = iter(asked(*cases))
    for _, _, reason in wrong:
        refused, fallen_back, cpu = next(found), next(found), next(found)
        assert "macros" not in refused
        assert refused["told"].startswith("NEUROCUDA_BUILD=cuda: ")
        assert refused["told"].endswith(reason)
        assert "neurocuda: the CUDA kernels are not built: " in fallen_back["told"]
        assert reason in fallen_back["told"]
        assert cpu["told"] == ""
        for made in (fallen_back, cpu):
            assert "NEUROCUDA_WITH_CUDA" not in made["macros"]
            assert made["kinds"] == [".cpp"]


TOOLKIT = """
names = runpy.run_path("setup.py")
print(json.dumps(names["cuda_obstacle"](None)))
"""


def test_without_any_toolkit() -> None:
    reason, _ = asked(after="torch.version.cuda = '13.0'; os.environ['NEUROCUDA_BUILD'] = 'none'" + TOOLKIT)
    assert reason == "no CUDA toolkit is found: put nvcc on the PATH, or name the toolkit with CUDA_HOME"


BUILD = """
from setuptools.dist import Distribution
tried = []
def run(self):
    tried.append((self.inplace, self.compiler, "c10_cuda" in self.extensions[0].libraries))
    self.inplace, self.compiler = 0, "in use"  # as a build leaves them that failed
    if len(tried) <= FAILURES:
        raise RuntimeError("it does not compile")
sys.modules["torch.utils.cpp_extension"].BuildExtension.run = run
command = made["cmdclass"]["build_ext"](Distribution(dict(made, name="neurocuda")))
command.inplace = 1
command.ensure_finalized()
try:
    command.run()
except RuntimeError as error:
    tried.append(str(error))
print(json.dumps([tried, len(command.extensions)]))
"""


@pytest.mark.parametrize(("choice", "failures"), [("auto", 1), ("auto", 2), ("cuda", 1)])
def test_where_cuda_kernels_do_not_compile_auto_builds_the_others(choice: str, failures: int, tmp_path: Path) -> None:
    home = toolkit(tmp_path / "toolkit")
    _, (tried, extensions), told = asked(case(choice, "13.0", home), after=BUILD.replace("FAILURES", str(failures)))
    if choice == "cuda":
        assert tried == [[1, None, True], "it does not compile"]
        return
    assert tried == [[1, None, True], [1, None, False]]
    assert extensions == (1 if failures == 1 else 0)
    assert "the compiled operators are not built: it does not compile" in told
