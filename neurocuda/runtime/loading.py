"""`load`: a network from a file or a graph."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from typing import Literal

import nir

from neurocuda.compiler.exactness import InputGrids
from neurocuda.discretization.metadata import resolve
from neurocuda.discretization.plausibility import doubts, likely_discretization
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, NeuroCUDAWarning
from neurocuda.graph import Graph, from_nir
from neurocuda.graph.serialization import read
from neurocuda.ops import Surrogate
from neurocuda.runtime.nir_executor import Executor


def load(
    source: str | os.PathLike[str] | Graph | nir.NIRGraph,
    discretization: Discretization | Literal["auto"] | None = None,
    *,
    dt: float | None = None,
    chunk: int | None = None,
    surrogate: Surrogate | None = None,
    learn: str | Collection[str] = (),
    input_grid: InputGrids | None = None,
    ordered: bool = False,
    frozen: bool = False,
) -> Executor:
    """Loads a network.

    Args:
        source: A NIR file, a `Graph` or a `nir.NIRGraph`.
        discretization: What a time step means. "auto": that of the likely exporter of the file, with the changes that
            the warnings of a load without it request. Default: that of the file, else `Discretization()`.
        dt: Length of a time step in seconds, instead of that of the discretization.
        chunk: Time steps that run layer by layer at a time. A longer chunk takes more memory, and is faster while its
            signals fit the cache. Default: as many steps as keep the largest signal within 2 MiB on a CPU, 64 MiB on a
            GPU, and at least 32.
        surrogate: The derivative of a spike. Default: `Surrogate()`.
        learn: Neuron parameters to train ("tau", "v_threshold", ...).
        input_grid: The grid of the inputs, one for all or by name. Default: the integers 0 .. 255. While the inputs are
            on it, layers that are proved exact may run in integers, to the same bits.
        ordered: Sums every layer in the defined order, from its spikes where they are few: the same bits on every
            backend, in every chunk and batch, without a proof. Faster than the vendor library where few neurons fire,
            slower where many do (docs/exactness.md).
        frozen: Makes constants of all parameters, for networks that are neither trained nor edited: less memory, and
            less time, above all for few steps.

    Returns:
        The network, on the CPU; `.to("cuda")` moves it.

    Raises:
        FileError: The file cannot be read, or is not NIR.
        GraphError: The graph has problems; each names its node and field.
        AlgebraicLoopError: A cycle has no state.
        ArgumentError: Another argument does not fit.

    Warns with `NeuroCUDAWarning` where the file or the settings are probably not what was meant.

    Example:
        >>> import neurocuda
        >>> neurocuda.load("examples/digits/digits.nir", frozen=True).graph.outputs
        ('output',)
    """
    if isinstance(source, Graph):
        graph = source
    elif isinstance(source, nir.NIRGraph):
        graph = from_nir(source)
    elif isinstance(source, str | os.PathLike):
        graph = read(source)
    else:
        raise ArgumentError(f"source: expected a path, a Graph or a nir.NIRGraph, found {type(source).__name__}")
    origin = "auto" if discretization == "auto" else "given"
    if isinstance(discretization, str):
        if origin != "auto":
            found = f"{discretization!r} (str)"
            raise ArgumentError(f"discretization: expected a Discretization, 'auto' or None, found {found}")
        discretization = likely_discretization(graph)
    resolved = resolve(graph, discretization, origin, dt=dt)
    net = Executor(
        graph,
        resolved.discretization,
        chunk=chunk,
        surrogate=surrogate,
        learn=learn,
        input_grid=input_grid,
        ordered=ordered,
        frozen=frozen,
    )
    net.discretization_origin = resolved.origin
    for line in [*graph.warnings, *doubts(graph, net.discretization)]:
        warnings.warn(f"{graph.source}: {line}", NeuroCUDAWarning, stacklevel=2)
    return net
