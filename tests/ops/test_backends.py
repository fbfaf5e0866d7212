"""The choice of a backend, and the package without the native library."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT

from neurocuda.errors import ArgumentError, NeuroCUDAWarning
from neurocuda.ops import backends, native, reference

CPU = torch.device("cpu")
built = pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there")
only_default = pytest.mark.skipif("NEUROCUDA_BACKEND" in os.environ, reason="NEUROCUDA_BACKEND is set")

RUN = """
import warnings
warnings.simplefilter("always")
{before}
import torch
from neurocuda.ops import backends
x = torch.ones(2, 3)
print(backends.backend_for(x.device), backends.operators(x.device).branch_sum([x, x]).sum().item())
print(backends.backends()["cpu"])
"""


def python(before: str = "", code: str = RUN, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run in a fresh process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NEUROCUDA_")}
    return subprocess.run(
        [sys.executable, "-c", code.replace("{before}", before)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=inherited | environment,
    )


def test_the_reference_is_always_available() -> None:
    found = backends.backends()
    assert list(found) == ["reference", "cpu", "cuda", "triton"]
    assert found["reference"] == "available"
    with backends.use_backend("reference"):
        assert backends.backend_for(CPU) == "reference"
        assert backends.operators(CPU) is reference


@built
@only_default
def test_the_fastest_available_backend_is_chosen() -> None:
    assert backends.backend_for(CPU) == "cpu"
    assert backends.operators(CPU) is native
    assert backends.backend_for(torch.device("meta")) == "reference"


@built
@only_default
def test_a_request_ends_with_its_context() -> None:
    seen = []
    with backends.use_backend("reference"):
        with backends.use_backend("cpu"):
            assert backends.backend_for(CPU) == "cpu"
        assert backends.backend_for(CPU) == "reference"
        thread = threading.Thread(target=lambda: seen.append(backends.backend_for(CPU)))
        thread.start()
        thread.join()
    assert backends.backend_for(CPU) == "cpu"
    assert seen == ["cpu"], "a request applies to its own thread"
    with pytest.raises(RuntimeError), backends.use_backend("reference"):
        raise RuntimeError
    assert backends.backend_for(CPU) == "cpu"


@built
@only_default
def test_a_compiled_function_follows_the_request() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        backend = backends.backend_for(x.device)
        return backends.operators(x.device).branch_sum([x, x, x]) + (1 if backend == "cpu" else 0)

    compile_it = torch.compile(run, fullgraph=True, backend="eager")
    x = torch.ones(2, 3)
    assert compile_it(x).mean() == 4
    with backends.use_backend("reference"):
        assert compile_it(x).mean() == 3
    assert compile_it(x).mean() == 4


def test_unknown_names_are_refused() -> None:
    message = "use_backend: expected one of reference, cpu, cuda, triton, found 'gpu'"
    with pytest.raises(ArgumentError, match=message), backends.use_backend("gpu"):
        pass


def test_the_environment_requests_a_backend() -> None:
    assert python(NEUROCUDA_BACKEND="reference").stdout.startswith("reference 12.0\n")
    unknown = python(NEUROCUDA_BACKEND="fast")
    assert (
        "ArgumentError: NEUROCUDA_BACKEND: expected one of reference, cpu, cuda, triton, found 'fast'" in unknown.stderr
    )


@built
def test_the_environment_requests_the_native_operators() -> None:
    assert python(NEUROCUDA_BACKEND="cpu").stdout.startswith("cpu 12.0\navailable\n")


ABSENT = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "neurocuda._C" else find(name, *rest)
"""


def test_the_reference_runs_without_the_native_library() -> None:
    result = python(ABSENT)
    assert result.stderr == ""
    assert result.stdout.startswith("reference 12.0\nnot built")
    refused = python(ABSENT, NEUROCUDA_BACKEND="cpu")
    assert "ArgumentError: NEUROCUDA_BACKEND: the backend 'cpu' is not available: not built" in refused.stderr


OTHER = """
import torch
torch.__version__ = "2.6.0+other"
"""


@built
def test_a_library_for_another_torch_is_not_loaded_with_one_warning() -> None:
    result = python(OTHER)
    warned = [line for line in result.stderr.splitlines() if "Warning" in line]
    assert len(warned) == 1, result.stderr
    assert "NeuroCUDAWarning" in warned[0]
    assert torch.__version__ in warned[0]
    assert "2.6.0+other" in warned[0]
    assert result.stdout.startswith("reference 12.0\nbuilt for torch " + torch.__version__)
    assert python(OTHER, NEUROCUDA_BACKEND="reference").stderr == "", "nobody asked for it"


@built
def test_a_mismatch_is_found_before_the_library_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr(backends, "_ENVIRONMENT", None)
    monkeypatch.setattr(backends.importlib, "import_module", refuse)
    monkeypatch.setattr(torch, "__version__", "1.2.3")
    with pytest.warns(NeuroCUDAWarning, match=r"1\.2\.3") as caught:
        reason = backends._load()
    assert len(caught) == 1
    assert reason.startswith(f"built for torch {compiled_for()}, while torch 1.2.3 runs")


@built
def test_a_library_that_fails_to_load_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("undefined symbol")

    monkeypatch.setattr(backends, "_ENVIRONMENT", None)
    monkeypatch.setattr(backends.importlib, "import_module", fail)
    with pytest.warns(NeuroCUDAWarning, match="undefined symbol"):
        assert backends._load() == "cannot be loaded: undefined symbol"
    monkeypatch.setattr(backends, "_ENVIRONMENT", "reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends._load()


@built
def test_the_library_says_what_it_was_built_for() -> None:
    assert compiled_for() == torch.__version__


def compiled_for() -> str:
    from neurocuda import _C

    version: str = _C.torch_version
    return version


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project without build outputs: an installation writes into its source folder."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("neurocuda", "csrc", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


@pytest.mark.slow
def test_an_installation_that_builds_nothing_runs_on_the_reference(source: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    environment = os.environ | {"NEUROCUDA_BUILD": "none", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([*pip, "--target", str(tmp_path), str(source)], env=environment, check=True, capture_output=True)
    assert (tmp_path / "neurocuda" / "py.typed").exists()
    assert not list(tmp_path.rglob("*.so"))
    shutil.copytree(source / "tests", tmp_path / "tests")
    shutil.copy(source / "pyproject.toml", tmp_path)
    result = python(cwd=tmp_path)
    assert (result.stderr, result.stdout.split("\n")[0]) == ("", "reference 12.0"), result
    assert "not built" in result.stdout
    tests = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/runtime/test_state.py",
            "tests/runtime/test_neurons.py",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"NEUROCUDA_BACKEND": "reference"},
    )
    assert tests.returncode == 0, tests.stdout[-3000:]


@built
def test_a_library_built_for_another_torch_gives_one_warning(source: Path, tmp_path: Path) -> None:
    """With the version string in the library replaced by another of equal length."""
    ours = torch.__version__
    other = ours.translate(str.maketrans("0123456789", "9012345678"))
    from neurocuda import _C

    package = shutil.copytree(source / "neurocuda", tmp_path / "neurocuda")
    library = Path(_C.__file__).read_bytes()
    assert library.count(f"torch {ours}\0".encode()) == 1
    changed = library.replace(f"torch {ours}\0".encode(), f"torch {other}\0".encode())
    (package / Path(_C.__file__).name).write_bytes(changed)
    result = python(cwd=tmp_path)
    assert result.stdout.startswith(f"reference 12.0\nbuilt for torch {other}, while torch {ours} runs")
    assert result.stderr.count("Warning") == result.stderr.count(other) == result.stderr.count(ours) == 1, result.stderr


def setup(choice: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NEUROCUDA_")}
    return subprocess.run(
        [sys.executable, "setup.py", "--version"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=inherited | {"NEUROCUDA_BUILD": choice} | environment,
    )


def test_impossible_builds_are_refused_or_skipped() -> None:
    assert setup("none").returncode == 0
    unknown = setup("fast")
    assert unknown.returncode != 0
    assert "NEUROCUDA_BUILD: expected one of auto, cpu, cuda, emulated, none, found 'fast'" in unknown.stderr
    without = setup("cpu", CXX="no-such-compiler")
    assert without.returncode != 0
    assert "NEUROCUDA_BUILD=cpu: the C++ compiler 'no-such-compiler' is not found" in without.stderr
    automatic = setup("auto", CXX="no-such-compiler")
    assert automatic.returncode == 0
    assert "the compiled operators are not built: the C++ compiler 'no-such-compiler'" in automatic.stderr


TRITON = """
import importlib.util, sys
{before}
import torch
from neurocuda.ops import backends
assert "neurocuda.ops.triton" not in sys.modules, "nobody asked for it"
assert "torch._dynamo" not in sys.modules, "it takes long to import"
print(backends.backends()["triton"])
print(backends.backend_for(torch.device("cpu")), backends.backend_for(torch.device("cuda")))
"""
no_driver = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
triton_there = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def without_triton() -> str:
    return ABSENT.replace("neurocuda._C", "triton")


@pytest.mark.slow
@no_driver
@triton_there
def test_triton_needs_a_driver_or_its_interpreter() -> None:
    found = python(code=TRITON).stdout.split("\n")
    assert found[0].startswith("no driver of a GPU is active")
    assert found[1].endswith(" reference")
    refused = python(NEUROCUDA_BACKEND="triton").stderr
    assert "ArgumentError: NEUROCUDA_BACKEND: the backend 'triton' is not available: no driver" in refused
    interpreted = python(code=TRITON, TRITON_INTERPRET="1").stdout.split("\n")
    assert interpreted[0] == "available"
    assert not interpreted[1].startswith("triton"), "CPU tensors only on request"
    requested = python(NEUROCUDA_BACKEND="triton", TRITON_INTERPRET="1")
    assert requested.stdout.startswith("triton 12.0\n"), requested


def test_triton_may_be_absent() -> None:
    assert python(without_triton(), code=TRITON).stdout.startswith("not installed (pip install triton)\n")
    refused = python(without_triton(), NEUROCUDA_BACKEND="triton").stderr
    assert "the backend 'triton' is not available: not installed" in refused


@triton_there
def test_with_a_driver_tensors_of_gpus_go_to_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mocked driver: no kernel is launched."""
    from triton.backends import backends as targets

    monkeypatch.setattr(targets["nvidia"].driver, "is_active", staticmethod(lambda: True))
    monkeypatch.setattr(backends, "_triton_status", None)
    monkeypatch.setattr(backends, "_INTERPRETED", False)
    assert backends.backends()["triton"] == "available"
    assert backends.backend_for(torch.device("cuda", 1)) == "triton"
    assert backends.operators(torch.device("cuda")).__name__ == "neurocuda.ops.triton"
    with backends.use_backend("triton"):
        assert backends.backend_for(CPU) != "triton", "kernels for a GPU do not run on the CPU"


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Mocks CUDA kernels and GPUs of some compute capabilities: no kernel is launched."""

    def pretend(built: str, *capabilities: tuple[int, int]) -> None:
        from neurocuda import _C

        monkeypatch.setattr(_C, "cuda_built", built)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
        for name, value in (("_cuda_status", None), ("_unsupported", frozenset()), ("_triton_status", "no driver")):
            monkeypatch.setattr(backends, name, value)

    return pretend


@built
def test_tensors_of_gpus_go_to_kernels_that_were_built_for_them(pretended: Callable[..., None]) -> None:
    pretended("8.0;9.0+PTX, CUDA 13.0", (9, 0), (7, 5))
    assert backends.backends()["cuda"] == "available"
    assert backends.backend_for(torch.device("cuda", 0)) == "cuda"
    assert backends.operators(torch.device("cuda", 0)) is native
    assert backends.backend_for(torch.device("cuda", 1)) == "reference"
    with backends.use_backend("cuda"):
        assert backends.backend_for(torch.device("cuda", 0)) == "cuda"
        assert backends.backend_for(CPU) == "cpu", "the kernels for a GPU do not run on the CPU"
    with backends.use_backend("reference"):
        assert backends.backend_for(torch.device("cuda", 0)) == "reference"


@built
def test_the_status_says_why_there_are_no_gpu_kernels(pretended: Callable[..., None]) -> None:
    pretended("", (9, 0))
    assert backends.backends()["cuda"].startswith("not built (NEUROCUDA_BUILD=cuda builds it")
    refused = "the backend 'cuda' is not available: not built"
    with pytest.raises(ArgumentError, match=refused), backends.use_backend("cuda"):
        pass
    assert backends.backend_for(torch.device("cuda", 0)) == "reference"
    pretended("8.0;9.0, CUDA 13.0", (7, 5), (12, 0))
    reason = "built for compute capability 8.0;9.0, CUDA 13.0; the GPUs here have 12.0, 7.5"
    assert backends.backends()["cuda"] == reason


@no_driver
@built
def test_the_status_says_that_there_is_no_gpu(pretended: Callable[..., None]) -> None:
    pretended("9.0, CUDA 13.0")
    assert backends.backends()["cuda"].startswith("no GPU can be used: ")
    assert "\n" not in backends.backends()["cuda"]


@pytest.mark.parametrize(
    ("architectures", "fit", "unfit"),
    [
        ("8.0", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0)]),
        ("8.6", [(8, 6), (8, 9)], [(8, 0), (9, 0)]),
        ("8.0;9.0+PTX", [(8, 9), (9, 0), (10, 0), (12, 0)], [(7, 5)]),
        ("9.0a", [(9, 0)], [(10, 0), (8, 0)]),
        ("7.5+PTX", [(7, 5), (8, 0), (12, 1)], [(7, 0)]),
        ("10.0;12.0", [(10, 0), (10, 3), (12, 0)], [(11, 0), (9, 0)]),
    ],
)
def test_which_gpus_kernels_run_on(architectures: str, fit: list[Any], unfit: list[Any]) -> None:
    assert all(backends.runs_on(f"{architectures}, CUDA 13.0", capability) for capability in fit)
    assert not any(backends.runs_on(f"{architectures}, CUDA 13.0", capability) for capability in unfit)


@built
def test_the_status_names_emulated_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from neurocuda import _C

    monkeypatch.setattr(_C, "kernels", "emulated")
    monkeypatch.setattr(backends, "_CPU", backends._load())
    assert backends.backends()["cpu"] == "emulated CUDA kernels, for tests"
    assert backends.backend_for(CPU) == "cpu"
