"""NeuroCUDA runs spiking neural networks described in NIR."""

from neurocuda import nn
from neurocuda.certificate import Certificate
from neurocuda.convert.calibrate import convert
from neurocuda.convert.export import to_nir
from neurocuda.convert.finetune import finetune
from neurocuda.convert.report import Report
from neurocuda.convert.snn import SNN
from neurocuda.discretization import Discretization
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
from neurocuda.exactness import certify
from neurocuda.graph import Graph, Node, from_nir
from neurocuda.grids import InputGrid
from neurocuda.io import read, write
from neurocuda.loading import load
from neurocuda.nir_executor import Executor, RunResult
from neurocuda.ops import NeuronCoefficients, Surrogate
from neurocuda.ops.backends import backends, use_backend
from neurocuda.quantization import quantize
from neurocuda.schedule import Schedule
from neurocuda.state import State

__version__ = "0.1.0"

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
