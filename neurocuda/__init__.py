"""NeuroCUDA runs spiking neural networks described in NIR."""

from neurocuda import nn
from neurocuda.compiler.certificate import Certificate
from neurocuda.compiler.exactness import certify
from neurocuda.compiler.grids import InputGrid
from neurocuda.compiler.schedule import Schedule
from neurocuda.convert.calibrate import convert
from neurocuda.convert.export import to_nir
from neurocuda.convert.report import Report
from neurocuda.convert.snn import SNN
from neurocuda.convert.training.finetune import finetune
from neurocuda.discretization.settings import Discretization
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
from neurocuda.graph import Graph, Node, from_nir
from neurocuda.graph.serialization import read, write
from neurocuda.ops import NeuronCoefficients, Surrogate
from neurocuda.ops.backends import backends, use_backend
from neurocuda.quantization.quantize import quantize
from neurocuda.runtime.loading import load
from neurocuda.runtime.nir_executor import Executor, RunResult
from neurocuda.runtime.state import State
from neurocuda.version import __version__

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
    "from_nir",
    "load",
    "nn",
    "quantize",
    "read",
    "to_nir",
    "use_backend",
    "write",
]
