"""The machine, software and commit of a measurement, for the files of results."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

from benchmarks.frameworks import versions

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "asimd")


def describe(threads: int) -> dict[str, str]:
    """Named facts about the machine, the software and the moment."""
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    return {
        "threads": str(threads),
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_at_start": load,
    }


def describe_gpu(device: torch.device) -> dict[str, str]:
    """The same for a GPU, with its driver; `torch.cuda` must be initialized."""
    found = torch.cuda.get_device_properties(device)
    settings = torch.backends.cudnn
    return {
        "gpu": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": str(found.multi_processor_count),
        "memory_gib": f"{found.total_memory / 2**30:.1f}",
        "driver": _nvidia("driver_version", device),
        "clocks": _nvidia("clocks.max.sm,clocks.max.mem", device),
        "cuda": str(torch.version.cuda),
        "cudnn": f"{settings.version()}, TF32 {'on' if settings.allow_tf32 else 'off'}",
        **describe(torch.get_num_threads()),
    }


def _nvidia(query: str, device: torch.device) -> str:
    """The answer of nvidia-smi for the device; empty if it fails."""
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    which = f"GPU-{uuid}" if uuid else str(device.index)
    command = ["nvidia-smi", f"--id={which}", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu() -> str:
    """Model and relevant instruction sets of the processor."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    name = fields.get("model name") or platform.processor() or platform.machine()
    family = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return f"{name}{family}, {' '.join(flag for flag in INSTRUCTION_SETS if flag in flags)}".rstrip(", ")


def _commit() -> str:
    """The commit of this checkout, with a plus where files differ from it; empty outside a checkout."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
