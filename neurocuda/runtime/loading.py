"""`load`: a network from a file or a graph."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection

import nir

from neurocuda.compiler.exactness import InputGrids
from neurocuda.discretization.diagnostics import doubts
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, NeuroCUDAWarning
from neurocuda.graph import Graph, from_nir
from neurocuda.graph.serialization import read
from neurocuda.ops import Surrogate
from neurocuda.runtime.nir_executor import Executor


def load(
    source: str | os.PathLike[str] | Graph | nir.NIRGraph,
    discretization: Discretization | None = None,
    *,
    chunk: int | None = None,
    surrogate: Surrogate | None = None,
    learn: str | Collection[str] = (),
    input_grid: InputGrids | None = None,
    ordered: bool = False,
    frozen: bool = False,
) -> Executor:
    """A network from a NIR file, a `Graph` or a `nir.NIRGraph`.

    `chunk` is the number of steps that run layer by layer at a time: more is faster up to the cache, and takes
    more memory; None: as many as keep the largest signal within 2 MiB on a CPU, 64 MiB on a GPU, at least 32.
    `learn` names neuron parameters ("tau", "v_threshold", ...) to be trained. `input_grid` is what the inputs are
    likely to be, whole numbers 0 .. 255 without: while they are, layers that are proved exact may run as integers,
    to the same bits (`Executor.certificate`, `Executor.schedule`).

    `ordered=True` sums every layer in the defined order, however large, from its spikes where they are few: the same
    bits on every backend, in every chunk and batch, without a proof. That is also faster than the library where few
    neurons fire, and slower where many do (docs/exactness.md).

    `frozen=True` makes constants of all values of the graph, for networks that are run, and neither trained nor edited:
    there are no parameters that calls would look at, and layers hold their weights only as they compute with them. That
    takes less memory, and less time, above all where steps are few.

    Raises `FileError`, `GraphError` (`ShapeError`, `AlgebraicLoopError`) or `ArgumentError`; warns with
    `NeuroCUDAWarning` of what is probably not meant.
    """
    if isinstance(source, Graph):
        graph = source
    elif isinstance(source, nir.NIRGraph):
        graph = from_nir(source)
    elif isinstance(source, str | os.PathLike):
        graph = read(source)
    else:
        raise ArgumentError(f"source: expected a path, a Graph or a nir.NIRGraph, found {type(source).__name__}")
    net = Executor(
        graph,
        discretization,
        chunk=chunk,
        surrogate=surrogate,
        learn=learn,
        input_grid=input_grid,
        ordered=ordered,
        frozen=frozen,
    )
    for line in [*graph.warnings, *doubts(graph, net.discretization)]:
        warnings.warn(f"{graph.source}: {line}", NeuroCUDAWarning, stacklevel=2)
    return net
