"""Builds the extension against a CUDA build of torch, imports it and tests its registrations: `make cuda-build`.

No GPU is needed. The environment with torch (gigabytes) and the objects are cached outside the clone, under
$XDG_CACHE_HOME/neurocuda: a second build compiles only changed files.
"""

from __future__ import annotations

import fcntl
import filecmp
import os
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

TORCH = os.environ.get("CUDA_TORCH", "2.14.1")
ARCHITECTURES = os.environ.get("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurocuda" / f"cuda-{TORCH}"
TOOLS = ("setuptools", "wheel", "ninja", "pybind11", "pytest", "hypothesis")
CHECKS = ("tests/ops/test_registrations.py", "tests/ops/test_opcheck.py")


def environment() -> Path:
    """The programs of a virtual environment with that torch; created again if its requirements have changed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = [each for each in project["dependencies"] if not each.startswith("torch")]
    requirements = [f"torch=={TORCH}", *TOOLS, *others]
    folder = FOLDER / "environment"
    installed = folder / ".made-of"
    if not installed.exists() or installed.read_text() != "\n".join(requirements):
        start = time.monotonic()
        venv.create(folder, clear=True, with_pip=True)
        pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, *requirements], check=True)
        installed.write_text("\n".join(requirements))
        print(f"cuda-build: torch {TORCH} installed into {folder} in {time.monotonic() - start:.0f} s", flush=True)
    return folder / "bin"


def update_copy(copy: Path) -> None:
    """Updates a copy of the project. Equal files are not touched, so that ninja does not compile them again."""
    sources = [ROOT / "setup.py", ROOT / "pyproject.toml"]
    for name in ("neurocuda", "csrc", "tests"):
        sources += [path for path in (ROOT / name).rglob("*") if path.is_file()]
    skip = {".so", ".pyc", ".csv"}
    files = {path.relative_to(ROOT): path for path in sources if path.suffix not in skip}
    for old in [path for name in ("neurocuda", "csrc", "tests") for path in (copy / name).rglob("*")]:
        if old.is_file() and old.relative_to(copy) not in files:
            old.unlink()
    for relative, path in files.items():
        to = copy / relative
        if not to.exists() or not filecmp.cmp(path, to, shallow=False):
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


def objects(copy: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (copy / "build").rglob("*.o")}


def build(copy: Path, programs: Path) -> None:
    before, start = objects(copy), time.monotonic()
    changed = {"NEUROCUDA_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": ARCHITECTURES, "MAX_JOBS": str(os.cpu_count())}
    changed["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    command = [programs / "python", "setup.py", "--quiet", "build_ext", "--inplace"]
    log = copy / "build.log"
    print(f"cuda-build: building in {copy}", flush=True)
    with log.open("w") as output:
        done = subprocess.run(command, cwd=copy, env=os.environ | changed, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode:
        print(log.read_text()[-8000:], file=sys.stderr)
        sys.exit(f"cuda-build: the build failed; its output: {log}")
    after = objects(copy)
    compiled = sum(before.get(path) != stamp for path, stamp in after.items())
    took = time.monotonic() - start
    print(
        f"cuda-build: built for {ARCHITECTURES!r} and torch {TORCH} in {took:.0f} s; "
        f"{compiled} of {len(after)} objects were compiled",
        flush=True,
    )


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time
        programs, copy = environment(), FOLDER / "build"
        copy.mkdir(exist_ok=True)
        update_copy(copy)
        build(copy, programs)
        command = [programs / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *CHECKS]
        changed = {"NEUROCUDA_EXPECTED": "cuda", "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=copy, env=os.environ | changed).returncode


if __name__ == "__main__":
    sys.exit(main())
