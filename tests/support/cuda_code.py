"""Checks the machine code of the kernels of csrc/cuda: registers, spills, memory accesses, fused products and sums.

    python tests/support/cuda_code.py     compiles and checks all, writes csrc/cuda/kernels.csv: `make cuda-check`

It needs nvcc and nvdisasm (which Triton brings), but no GPU. Results are cached by the contents of the sources under
$XDG_CACHE_HOME/neurocuda.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
TABLE = CSRC / "cuda" / "kernels.csv"
ARCHITECTURES = (75, 80, 90, 100, 120)
OPTIONS = (  # those of setup.py and torch without -fmad=false: the sources use unfused intrinsics in every operation
    "-std=c++17",
    "-O3",
    "--expt-relaxed-constexpr",
    "-D__CUDA_NO_HALF_OPERATORS__",
    "-D__CUDA_NO_HALF_CONVERSIONS__",
    "-D__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-D__CUDA_NO_HALF2_OPERATORS__",
)


@dataclass(frozen=True)
class Kernel:
    """One kernel compiled for one architecture. Loads and stores are those of global memory."""

    kernel: str
    source: str
    architecture: int
    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int  # static; without the dynamic shared memory of a launch
    widest_load_bits: int
    widest_store_bits: int
    loads_before_store: int  # in program order
    ffma: int  # fused multiply-adds in the machine code
    divides: bool  # or computes a reciprocal or a root: these compile to fused multiply-adds
    fma_in_ptx: int  # fused multiply-adds in the PTX, where a division is one instruction
    loose_in_ptx: int  # products without a rounding modifier: ptxas may still fuse them with a sum
    ftz_in_ptx: int  # instructions that flush subnormal numbers to zero


def faults(kernel: Kernel) -> list[str]:
    """The faults that no kernel may have: spills, stack, fused multiply-adds, flushed subnormals."""
    found = []
    if kernel.spilled_bytes:
        found.append(f"{kernel.spilled_bytes} bytes of registers spilled")
    if kernel.stack_bytes:
        found.append(f"{kernel.stack_bytes} bytes of stack")
    if kernel.fma_in_ptx or kernel.loose_in_ptx or (kernel.ffma and not kernel.divides):
        found.append("a product and a sum in one rounding")
    if kernel.ftz_in_ptx:
        found.append("subnormal numbers flushed to zero")
    return [f"{kernel.kernel} for sm_{kernel.architecture}: {fault}" for fault in found]


def missing() -> str | None:
    """The reason why kernels cannot be compiled or disassembled on this machine, or None."""
    if shutil.which("nvcc") is None:
        return "nvcc is not on the PATH"
    if disassembler() is None:
        return "nvdisasm is not found: install Triton, which brings it"
    return None


def disassembler() -> Path | None:
    spec = importlib.util.find_spec("triton")
    for folder in spec.submodule_search_locations or [] if spec else []:
        path = Path(folder) / "backends" / "nvidia" / "bin" / "nvdisasm"
        if path.exists():
            return path
    found = shutil.which("nvdisasm")
    return Path(found) if found else None


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def kernels_of(source: Path, architecture: int) -> list[Kernel]:
    """The kernels of a .cu file."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "code.cubin"
        inspect = (f"-arch=sm_{architecture}", f"-I{CSRC}", "-Xptxas=-v", "--keep", f"--keep-dir={folder}")
        usage = resources(run("nvcc", "-cubin", *OPTIONS, *inspect, "-o", cubin, source))
        ptx = by_entry((Path(folder) / f"{source.stem}.ptx").read_text())
        tool = disassembler()
        assert tool is not None
        code = by_section(run(tool, "-c", cubin))
    names = readable(usage)
    path = str(source.relative_to(ROOT)) if source.is_relative_to(ROOT) else source.name
    return [
        Kernel(
            kernel=names[symbol], source=path, architecture=architecture, **of, **accesses(code[symbol]), **ptx[symbol]
        )
        for symbol, of in usage.items()
    ]


def resources(log: str) -> dict[str, dict[str, int]]:
    """Registers and local memory of each kernel, from the output of ptxas -v."""
    found = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        symbol = part[: part.index("'")]
        # The first properties are the kernel's; the others are those of functions that it calls.
        stack, *spills = map(int, re.findall(r"(\d+) bytes (?:stack frame|spill)", part)[:3])
        shared = re.search(r"(\d+) bytes smem", part)
        found[symbol] = {
            "registers": int(re.search(r"Used (\d+) registers", part)[1]),  # type: ignore[index]
            "spilled_bytes": sum(spills),
            "stack_bytes": stack,
            "shared_bytes": int(shared[1]) if shared else 0,
        }
    return found


def by_entry(ptx: str) -> dict[str, dict[str, int | bool]]:
    """The arithmetic of each kernel, from its PTX. Functions that are not inlined count for every kernel."""
    start, *parts = re.split(r"^(?=(?:\.\w+ )*\.(?:entry|func)\b)", ptx, flags=re.MULTILINE)
    entries = {}
    alone = start
    for part in parts:
        head = re.match(r"(?:\.\w+ )*\.entry (\w+)", part)
        if head is None:
            alone += part
        else:
            entries[head[1]] = part
    return {
        symbol: {
            "fma_in_ptx": len(re.findall(r"\bfma\.", part + alone)),
            "loose_in_ptx": len(re.findall(r"\bmul\.f32\b", part + alone)),
            "ftz_in_ptx": len(re.findall(r"\.ftz\b", part + alone)),
            "divides": re.search(r"\b(?:div|rcp|sqrt)\.[\w.]*f32", part + alone) is not None,
        }
        for symbol, part in entries.items()
    }


def by_section(disassembly: str) -> dict[str, list[str]]:
    """The instructions of each kernel, with their modifiers, in program order."""
    found = {}
    for part in re.split(r"^\s*\.section\s+\.text\.", disassembly, flags=re.MULTILINE)[1:]:
        symbol = part[: part.index(",")].strip('"')
        operations = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+[{]?\s*(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", part, re.MULTILINE)
        found[symbol] = operations
    return found


def accesses(operations: list[str]) -> dict[str, int]:
    """Widths and order of loads and stores of global memory, and the number of fused multiply-adds."""
    # LD and ST have generic addresses.
    loads = [each for each in operations if re.match(r"(?:LDG|LDGSTS|LD)(?:\.|$)", each)]
    stores = [each for each in operations if re.match(r"(?:STG|ST)(?:\.|$)", each)]
    first = operations.index(stores[0]) if stores else len(operations)
    return {
        "widest_load_bits": max(map(width, loads), default=0),
        "widest_store_bits": max(map(width, stores), default=0),
        "loads_before_store": sum(each in loads for each in operations[:first]),
        "ffma": sum(re.match(r"FFMA", each) is not None for each in operations),
    }


def width(operation: str) -> int:
    for modifier in operation.split("."):
        bits = re.fullmatch(r"[US]?(8|16|32|64|128|256)", modifier)
        if bits:
            return int(bits[1])
    return 32


def readable(symbols: Iterable[str]) -> dict[str, str]:
    """Demangled names of kernels as in the sources, with the names of enumerators, without parameters."""
    mangled = list(symbols)
    names = run("c++filt", *mangled).splitlines() if mangled else []
    return {symbol: short(name) for symbol, name in zip(mangled, names, strict=True)}


def short(name: str) -> str:
    name = name.replace("(anonymous namespace)::", "")
    for enumeration, values in enumerators().items():
        name = re.sub(
            rf"\((?:\w+::)*{enumeration}\)(\d+)",
            lambda found, values=values: values[int(found[1])],  # type: ignore[misc]
            name,
        )
    name = re.sub(r"\b(?:\w+::)+", "", name)
    name = re.sub(r"\((?:unsigned |signed )?(?:int|long|short|char)\)", "", name)
    name = name.replace("(bool)0", "false").replace("(bool)1", "true")
    name = re.sub(r"^(?:void|auto) ", "", name)
    return name[: end_of_name(name)].replace(" >", ">")


def end_of_name(name: str) -> int:
    """The index of the parameter list: the first parenthesis outside angle brackets."""
    depth = 0
    for place, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return place
    return len(name)


@cache
def enumerators() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(CSRC.rglob("*.h")) + sorted(CSRC.rglob("*.cuh")):
        for name, body in re.findall(r"enum class (\w+)[^{;]*\{([^}]*)\}", path.read_text()):
            body = re.sub(r"//.*", "", body)
            found[name] = [each.split("=")[0].strip().removeprefix("k") for each in body.split(",") if each.strip()]
    return found


def closure(source: Path) -> dict[Path, str]:
    """A source and the project's headers that it includes, directly or not."""
    found: dict[Path, str] = {}
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = path.read_text()
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', found[path], re.MULTILINE):
            waiting += [near for near in ((path.parent / name).resolve(), CSRC / name) if near.exists()]
    return found


@cache
def tools() -> str:
    tool = disassembler()
    assert tool is not None
    return run("nvcc", "--version") + run(tool, "--version") + Path(__file__).read_text()


def cached(source: Path, architecture: int) -> list[Kernel]:
    """`kernels_of`, cached by the contents of the sources, the tools and the architecture."""
    texts = "\0".join(f"{path.name}\0{text}" for path, text in sorted(closure(source).items()))
    key = hashlib.sha256(f"{tools()}\0{architecture}\0{texts}".encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurocuda" / "kernels"
    file = folder / f"{source.stem}-sm_{architecture}-{key[:24]}.json"
    if file.exists():
        return [Kernel(**row) for row in json.loads(file.read_text())]
    kernels = kernels_of(source, architecture)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as temporary:
        json.dump([asdict(kernel) for kernel in kernels], temporary)
    os.replace(temporary.name, file)
    return kernels


def sources() -> list[Path]:
    return sorted((CSRC / "cuda").glob("*.cu"))


def everything(architectures: Iterable[int] = ARCHITECTURES, jobs: int | None = None) -> list[Kernel]:
    """All kernels, sorted by source, name and architecture."""
    tasks = [(source, architecture) for source in sources() for architecture in architectures]
    with ThreadPoolExecutor(jobs or os.cpu_count()) as threads:
        found = [kernel for kernels in threads.map(lambda task: cached(*task), tasks) for kernel in kernels]
    return sorted(found, key=lambda kernel: (kernel.source, kernel.kernel, kernel.architecture))


def write(kernels: list[Kernel], path: Path = TABLE) -> None:
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, [field.name for field in fields(Kernel)], lineterminator="\n")
        rows.writeheader()
        for kernel in kernels:
            rows.writerow(asdict(kernel) | {"divides": "yes" if kernel.divides else "no"})


def read(path: Path = TABLE) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> int:
    reason = missing()
    if reason is not None:
        print(f"cuda-check: {reason}", file=sys.stderr)
        return 1
    kernels = everything()
    write(kernels)
    found = [fault for kernel in kernels for fault in faults(kernel)]
    for fault in found:
        print(fault)
    names = len({(kernel.source, kernel.kernel) for kernel in kernels})
    architectures = ", ".join(f"sm_{architecture}" for architecture in ARCHITECTURES)
    print(f"{names} kernels of {len(sources())} files, compiled for {architectures}: {len(found)} faults")
    print(f"written to {TABLE.relative_to(ROOT)}; no kernel ran on a GPU")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
