"""Builds all against the CUDA build of torch, imports it, and asks torch what it finds: `make cuda-build`.

No GPU is needed, and nothing runs on one. Gigabytes of torch, and what was compiled, are kept outside the clone, under
$XDG_CACHE_HOME/neurocuda: a second build compiles only what has changed.
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
    """A virtual environment with that torch; made anew where what must be in it has changed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = [each for each in project["dependencies"] if not each.startswith("torch")]
    wanted = [f"torch=={TORCH}", *TOOLS, *others]
    folder = FOLDER / "environment"
    made = folder / ".made-of"
    if not made.exists() or made.read_text() != "\n".join(wanted):
        start = time.monotonic()
        venv.create(folder, clear=True, with_pip=True)
        pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, *wanted], check=True)
        made.write_text("\n".join(wanted))
        print(f"cuda-build: torch {TORCH} installed into {folder} in {time.monotonic() - start:.0f} s", flush=True)
    return folder / "bin"


def brought_up_to_date(copy: Path) -> None:
    """Make a copy of the project; a file that is the same stays untouched, and so what was compiled of it serves."""
    wanted = [ROOT / "setup.py", ROOT / "pyproject.toml"]
    for name in ("neurocuda", "csrc", "tests"):
        wanted += [path for path in (ROOT / name).rglob("*") if path.is_file()]
    skip = {".so", ".pyc", ".csv"}
    files = {path.relative_to(ROOT): path for path in wanted if path.suffix not in skip}
    for old in [path for name in ("neurocuda", "csrc", "tests") for path in (copy / name).rglob("*")]:
        if old.is_file() and old.relative_to(copy) not in files:
            old.unlink()
    for place, path in files.items():
        to = copy / place
        if not to.exists() or not filecmp.cmp(path, to, shallow=False):
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


def objects(copy: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (copy / "build").rglob("*.o")}


def built(copy: Path, programs: Path) -> None:
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
        sys.exit(f"cuda-build: the build failed; all of it: {log}")
    after = objects(copy)
    compiled = sum(before.get(path) != stamp for path, stamp in after.items())
    took = time.monotonic() - start
    print(
        f"cuda-build: built for {ARCHITECTURES!r} and torch {TORCH} in {took:.0f} s; "
        f"{compiled} of {len(after)} objects were compiled, the others as they were",
        flush=True,
    )


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time
        programs, copy = environment(), FOLDER / "build"
        copy.mkdir(exist_ok=True)
        brought_up_to_date(copy)
        built(copy, programs)
        command = [programs / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *CHECKS]
        changed = {"NEUROCUDA_EXPECTED": "cuda", "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=copy, env=os.environ | changed).returncode


if __name__ == "__main__":
    sys.exit(main())
