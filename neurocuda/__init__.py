"""NeuroCUDA runs spiking neural networks described in NIR.

A name of `_MODULE_OF` is imported from its module when it is first used (PEP 562). The imports at the top are cheap,
and two must not wait: `torch.export.load` needs the operators of `torch.ops.neurocuda`, which `ops.backends`
registers, and `torch.load(..., weights_only=True)` needs `State`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neurocuda.errors import (
    AlgebraicLoopError,
    ArgumentError,
    FileError,
    GraphError,
    NeuroCUDAError,
    NeuroCUDAWarning,
    ShapeError,
    UnsupportedModuleError,
)
from neurocuda.ops import NeuronCoefficients, Surrogate
from neurocuda.ops.backends import backends, use_backend
from neurocuda.runtime.state import RunResult, State
from neurocuda.version import __version__

if TYPE_CHECKING:  # the same names for type checkers and editors
    from neurocuda import nn
    from neurocuda.compiler.certificate import Certificate
    from neurocuda.compiler.exactness import certify
    from neurocuda.compiler.grids import InputGrid
    from neurocuda.compiler.schedule import Schedule
    from neurocuda.convert.calibrate import convert
    from neurocuda.convert.export import to_nir
    from neurocuda.convert.from_module import from_module
    from neurocuda.convert.report import Report
    from neurocuda.convert.snn import SNN
    from neurocuda.convert.training.finetune import finetune
    from neurocuda.discretization.settings import Discretization
    from neurocuda.graph import Graph, Node, from_nir
    from neurocuda.graph.serialization import read, write
    from neurocuda.quantization.quantize import quantize
    from neurocuda.runtime.loading import load
    from neurocuda.runtime.nir_executor import Executor

_MODULE_OF = {
    "SNN": "convert.snn",
    "Certificate": "compiler.certificate",
    "Discretization": "discretization.settings",
    "Executor": "runtime.nir_executor",
    "Graph": "graph",
    "InputGrid": "compiler.grids",
    "Node": "graph",
    "Report": "convert.report",
    "Schedule": "compiler.schedule",
    "certify": "compiler.exactness",
    "convert": "convert.calibrate",
    "finetune": "convert.training.finetune",
    "from_module": "convert.from_module",
    "from_nir": "graph",
    "load": "runtime.loading",
    "quantize": "quantization.quantize",
    "read": "graph.serialization",
    "to_nir": "convert.export",
    "write": "graph.serialization",
}
_SUBMODULES = ("compiler", "discretization", "graph", "nn", "quantization")

__all__ = [
    "SNN",
    "AlgebraicLoopError",
    "ArgumentError",
    "Certificate",
    "Discretization",
    "Executor",
    "FileError",
    "Graph",
    "GraphError",
    "InputGrid",
    "NeuroCUDAError",
    "NeuroCUDAWarning",
    "NeuronCoefficients",
    "Node",
    "Report",
    "RunResult",
    "Schedule",
    "ShapeError",
    "State",
    "Surrogate",
    "UnsupportedModuleError",
    "__version__",
    "backends",
    "certify",
    "convert",
    "finetune",
    "from_module",
    "from_nir",
    "load",
    "nn",
    "quantize",
    "read",
    "to_nir",
    "use_backend",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"neurocuda.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'neurocuda' has no attribute {name!r}")
    value = getattr(import_module(f"neurocuda.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# The first import of a module of the package `convert` would put the package in the place of the function `convert`.
import_module("neurocuda.convert")
del globals()["convert"]
