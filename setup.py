"""The compiled operators, `neurocuda._C`. Everything else about the package stands in pyproject.toml.

The environment variable NEUROCUDA_BUILD says what is built:

    auto  (default) what this machine can build; never fails: the reference operators serve without it
    cpu   the CPU kernels, or an error
    cuda  the CUDA kernels too, or an error
    emulated  the source of the CUDA kernels, compiled as C++ and run on the CPU: slow, for tests (`make emulate`)
    none  nothing

CUDA kernels need a CUDA build of torch and a CUDA toolkit of its major version: that of CUDA_HOME, or of the nvcc on
the PATH. Whether a GPU is visible does not matter. TORCH_CUDA_ARCH_LIST names the architectures, "8.0;9.0+PTX" where
nothing else is asked for.

NEUROCUDA_SANITIZE=1 builds with AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`,
`make emulate-sanitize`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

CHOICES = ("auto", "cpu", "cuda", "emulated", "none")
SOURCES = Path("csrc")
UNITY = {"ops": ("ops/*.cpp",), "runtime": ("runtime/*.cpp", "bindings.cpp")}
"""Unity builds: files that are compiled as one, as the headers of torch take longer to parse than these to compile."""
ARCHITECTURES = "8.0;9.0+PTX"


def obstacle() -> str | None:
    """Why the CPU kernels cannot be built here."""
    try:
        from torch.utils import cpp_extension
    except ImportError as error:
        return f"torch cannot be imported ({error}); install it first, then this with --no-build-isolation"
    compiler = cpp_extension.get_cxx_compiler()
    if shutil.which(compiler.split()[0]) is None:
        return f"the C++ compiler {compiler!r} is not found; name one with CXX"
    if shutil.which("ninja") is None and not cpp_extension.is_ninja_available():
        return "ninja is not found; pip install ninja"
    return None


def toolkit() -> Path | None:
    """Where the CUDA toolkit lies. The nvcc on the PATH says so itself, as it may be a script that calls another."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return Path(named)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return Path("/usr/local/cuda") if Path("/usr/local/cuda/bin/nvcc").exists() else None
    question = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
    told = subprocess.run(question, capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", told.stderr, re.MULTILINE)
    return Path(top[1] if top else Path(nvcc).parent.parent).resolve()


def cuda_obstacle(home: Path | None) -> str | None:
    """Why the CUDA kernels cannot be built here."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    if home is None:
        return "no CUDA toolkit is found: put nvcc on the PATH, or name the toolkit with CUDA_HOME"
    if not (home / "bin" / "nvcc").exists():
        return f"there is no nvcc in the CUDA toolkit {home}"
    told = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True)
    release = re.search(r"release (\d+)\.(\d+)", told.stdout)
    if release is None:
        return f"{home / 'bin' / 'nvcc'} does not tell its version"
    if release[1] != torch.version.cuda.split(".")[0]:
        return f"the CUDA toolkit {home} is {release[1]}.{release[2]}, but torch is built for CUDA {torch.version.cuda}"
    return None


def extension(kernels: str, may_fail: bool) -> dict[str, Any]:
    """The arguments of `setup` that build `neurocuda._C` with the kernels "cpu", "cuda" or "emulated"."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def run(self) -> None:
            inplace, cuda = self.inplace, self.extensions[:1] == [module] and kernels == "cuda"
            try:
                super().run()
            except Exception as error:
                if not may_fail:
                    raise
                print(f"neurocuda: the compiled operators are not built: {error}", file=sys.stderr)
                self.extensions = []  # and so none is copied or installed
                if cuda:
                    print("neurocuda: once more, without CUDA", file=sys.stderr)
                    self.distribution.ext_modules = [described("cpu")]
                    again = Build(self.distribution)
                    again.inplace = inplace  # false by now
                    again.ensure_finalized()
                    again.run()
                    self.extensions = again.extensions

    module = described(kernels)
    return {"ext_modules": [module], "cmdclass": {"build_ext": Build.with_options(use_ninja=True)}}


def described(kernels: str) -> Any:
    """How `neurocuda._C` is compiled."""
    import torch
    from torch.utils.cpp_extension import CppExtension, CUDAExtension, get_cxx_compiler

    # torch brings its own OpenMP runtime: compile for it, and link no other.
    openmp = ["-fopenmp"] if "OpenMP" in torch.__config__.parallel_info() and sys.platform == "linux" else []
    sanitize = (
        ["-fsanitize=address,undefined", "-fno-sanitize=vptr"] if os.environ.get("NEUROCUDA_SANITIZE") == "1" else []
    )
    level = "-O1" if sanitize or kernels == "emulated" else "-O3"  # tests gain less than compiling more takes
    optimize = [level, *(["-g1", "-fno-omit-frame-pointer", *sanitize] if sanitize else ["-g0"])]
    sources = compiled_files()
    macros: list[tuple[str, str | None]] = [("NEUROCUDA_TORCH_VERSION", f'"{torch.__version__}"')]
    if kernels == "emulated":
        sources += [including(f"{kernel.stem}.cuda", [kernel]) for kernel in sorted(SOURCES.rglob("*.cu"))]
        macros.append(("NEUROCUDA_EMULATED", None))
    if kernels == "cuda":
        sources = sorted(str(path) for path in SOURCES.rglob("*.cu")) + sources  # first: they take the longest
        macros.append(("NEUROCUDA_WITH_CUDA", None))
        architectures = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
        macros.append(("NEUROCUDA_CUDA_BUILT", f'"{architectures}, CUDA {torch.version.cuda}"'))
    host = [  # and the standard that the headers of this torch ask for, which torch adds
        *optimize,
        "-ffp-contract=off",  # each operation is rounded by itself
        "-fno-math-errno",
        "-fno-trapping-math",
        "-falign-functions=64",  # a kernel is as fast wherever it is linked
        "-fvisibility=hidden",
        "-Wall",
        "-Wno-c++20-extensions",  # the headers of torch use some
        *(["-Wno-unknown-pragmas"] if kernels == "emulated" else []),  # those to unroll are of nvcc
        *openmp,
    ]
    device = [
        "-std=c++17",
        "-O3",
        "-fmad=false",  # the sources say so too, in every operation
        "-Xcompiler=-ffp-contract=off,-fvisibility=hidden,-Wall",
        f"-ccbin={get_cxx_compiler().split()[-1]}",  # without a ccache before it
    ]
    return (CUDAExtension if kernels == "cuda" else CppExtension)(
        "neurocuda._C",
        sources,
        include_dirs=[str(SOURCES.resolve())],
        define_macros=macros,
        extra_compile_args={"cxx": host, "nvcc": device},
        extra_link_args=sanitize or (["-Wl,-s"] if sys.platform == "linux" else []),
    )


def compiled_files() -> list[str]:
    """The C++ sources: first those of unity builds, which take the longest, then all others."""
    members = {name: [p for part in parts for p in sorted(SOURCES.glob(part))] for name, parts in UNITY.items()}
    others = {*SOURCES.rglob("*.cpp")}.difference(*members.values())
    return [*(including(name, files) for name, files in members.items()), *sorted(map(str, others))]


def including(name: str, files: list[Path]) -> str:
    """A C++ source that holds nothing but some files."""
    source = Path("build", "unity", f"{name}.cpp")
    source.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f'#include "{file.relative_to(SOURCES).as_posix()}"\n' for file in files)
    if not source.exists() or source.read_text() != text:
        source.write_text(text)
    return str(source)


def arguments() -> dict[str, Any]:
    choice = os.environ.get("NEUROCUDA_BUILD", "auto").lower()
    if choice not in CHOICES:
        sys.exit(f"NEUROCUDA_BUILD: expected one of {', '.join(CHOICES)}, found {choice!r}")
    if choice == "none":
        return {}
    may_fail = choice == "auto"
    home = toolkit() if choice in ("auto", "cuda") else None
    if home is not None:
        os.environ["CUDA_HOME"] = str(home)  # before torch looks for it
    reason = obstacle()
    if reason is None and choice in ("auto", "cuda"):
        reason = cuda_obstacle(home)
        if reason is None:
            return extension("cuda", may_fail)
        if may_fail:
            print(f"neurocuda: the CUDA kernels are not built: {reason}", file=sys.stderr)
            return extension("cpu", may_fail)
    elif reason is None:
        return extension(choice, may_fail)
    if not may_fail:
        sys.exit(f"NEUROCUDA_BUILD={choice}: {reason}")
    print(f"neurocuda: the compiled operators are not built: {reason}", file=sys.stderr)
    return {}


setup(**arguments())
