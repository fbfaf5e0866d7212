"""The compiled operators, `neurocuda._C`. Everything else about the package stands in pyproject.toml.

The environment variable NEUROCUDA_BUILD says what is built:

    auto  (default) what this machine can build; never fails: the reference operators serve without it
    cpu   the CPU kernels, or an error
    cuda  not possible yet: an error
    emulated  the source of the CUDA kernels, compiled as C++ and run on the CPU: slow, for tests (`make emulate`)
    none  nothing

NEUROCUDA_SANITIZE=1 builds with AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`,
`make emulate-sanitize`.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

CHOICES = ("auto", "cpu", "cuda", "emulated", "none")
SOURCES = Path("csrc")


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


def extension(may_fail: bool, emulated: bool) -> dict[str, Any]:
    """The arguments of `setup` that build `neurocuda._C`."""
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    class Build(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                if not may_fail:
                    raise
                print(f"neurocuda: the compiled operators are not built: {error}", file=sys.stderr)
                self.extensions = []  # and so none is copied or installed

    # torch brings its own OpenMP runtime: compile for it, and link no other.
    openmp = ["-fopenmp"] if "OpenMP" in torch.__config__.parallel_info() and sys.platform == "linux" else []
    sanitize = (
        ["-fsanitize=address,undefined", "-fno-sanitize=vptr"] if os.environ.get("NEUROCUDA_SANITIZE") == "1" else []
    )
    optimize = ["-O1", "-g1", "-fno-omit-frame-pointer", *sanitize] if sanitize else ["-O3", "-g0"]
    sources = sorted(str(path) for path in SOURCES.rglob("*.cpp"))
    macros: list[tuple[str, str | None]] = [("NEUROCUDA_TORCH_VERSION", f'"{torch.__version__}"')]
    if emulated:
        sources += as_cpp(sorted(SOURCES.rglob("*.cu")))
        macros.append(("NEUROCUDA_EMULATED", None))
    module = CppExtension(
        "neurocuda._C",
        sources,
        include_dirs=[str(SOURCES.resolve())],
        define_macros=macros,
        extra_compile_args=[
            "-std=c++17",
            *optimize,
            "-ffp-contract=off",  # each operation is rounded by itself
            "-fno-math-errno",
            "-fno-trapping-math",
            "-fvisibility=hidden",
            "-Wall",
            "-Wno-c++20-extensions",  # the headers of torch use some
            *(["-Wno-unknown-pragmas"] if emulated else []),  # those to unroll are of nvcc
            *openmp,
        ],
        extra_link_args=sanitize or (["-Wl,-s"] if sys.platform == "linux" else []),
    )
    return {"ext_modules": [module], "cmdclass": {"build_ext": Build.with_options(use_ninja=True)}}


def as_cpp(kernels: list[Path]) -> list[str]:
    """Files that hold nothing but a kernel's source, under a name that a C++ compiler takes for its own."""
    folder = Path("build", "emulated")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for kernel in kernels:
        source = folder / f"{kernel.stem}.cuda.cpp"
        text = f'#include "{kernel.relative_to(SOURCES).as_posix()}"\n'
        if not source.exists() or source.read_text() != text:
            source.write_text(text)
        found.append(str(source))
    return found


def arguments() -> dict[str, Any]:
    choice = os.environ.get("NEUROCUDA_BUILD", "auto").lower()
    if choice not in CHOICES:
        sys.exit(f"NEUROCUDA_BUILD: expected one of {', '.join(CHOICES)}, found {choice!r}")
    if choice == "cuda":
        sys.exit("NEUROCUDA_BUILD=cuda: there are no CUDA kernels yet; expected auto, cpu or none")
    if choice == "none":
        return {}
    reason = obstacle()
    if reason is None:
        return extension(may_fail=choice == "auto", emulated=choice == "emulated")
    if choice != "auto":
        sys.exit(f"NEUROCUDA_BUILD={choice}: {reason}")
    print(f"neurocuda: the compiled operators are not built: {reason}", file=sys.stderr)
    return {}


setup(**arguments())
