"""`neurocuda convert`: converts a trained model, with calibration data, to a NIR file."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from neurocuda.cli.console import messages, show, show_warnings
from neurocuda.cli.npy import check_target, load_arrays
from neurocuda.errors import ArgumentError, NeuroCUDAWarning

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A file of torch.export.save or torch.jit.save, or MODULE:FUNCTION that returns a model."
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="X",
        help="An .npy file [N, *shape], an .npz file with x and perhaps labels y, or MODULE:FUNCTION: a loader.",
    ),
]
Output = Annotated[str, typer.Option("--output", "-o", metavar="NIR", help="The NIR file to write.")]
Timesteps = Annotated[int, typer.Option("--timesteps", metavar="T", help="Steps over which the output is averaged.")]
Delay = Annotated[int, typer.Option("--readout-delay", metavar="T", help="Steps before the first of these.")]
Count = Annotated[int, typer.Option("--samples", metavar="N", help="Number of calibration samples.")]
Percentile = Annotated[
    float | None,
    typer.Option("--percentile", metavar="P", help="Percentile of activations for thresholds. Default: calibrated."),
]
Dt = Annotated[float, typer.Option("--dt", metavar="S", help="Length of a step in seconds.")]
Bits = Annotated[
    int | None,
    typer.Option(
        "--weight-bits", metavar="N", help="Bits of the weights, 2 to 8, whose sums are exact. Default: float32."
    ),
]
Reset = Annotated[
    str, typer.Option("--reset", metavar="loop|if", help="Subgraph that is written for soft-reset neurons.")
]
Dense = Annotated[bool, typer.Option("--dense-groups", help="Write grouped convolutions as dense ones.")]
Plot = Annotated[str | None, typer.Option("--plot", metavar="PNG", help="Plot accuracy over the steps.")]


def convert(
    model: Model,
    data: Data,
    output: Output,
    timesteps: Timesteps = 32,
    readout_delay: Delay = 8,
    samples: Count = 400,
    percentile: Percentile = None,
    dt: Dt = 1e-4,
    weight_bits: Bits = None,
    reset: Reset = "loop",
    dense_groups: Dense = False,
    plot: Plot = None,
) -> None:
    """Convert a trained PyTorch model to a spiking network in NIR.

    Prints the agreement with the model by the number of steps; with --weight-bits also the grid that inputs have
    to be rounded to.
    """
    from neurocuda.convert.calibrate import PERCENTILES
    from neurocuda.convert.calibrate import convert as convert_model
    from neurocuda.convert.calibration_data import take
    from neurocuda.convert.export import RESETS, to_nir

    with messages():
        if reset not in RESETS:
            raise ArgumentError(f"--reset: expected one of {', '.join(RESETS)}, found {reset!r}")
        check_target(output)
        calibration = _data(data)
        first = take(calibration, 1).batches[0] if isinstance(calibration, Tensor | tuple) else None
        network = _model(model, first)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NeuroCUDAWarning)
            snn = convert_model(
                network,
                calibration,
                timesteps=timesteps,
                readout_delay=readout_delay,
                samples=samples,
                percentile=PERCENTILES if percentile is None else percentile,
                dt=dt,
                weight_bits=weight_bits,
            )
            to_nir(snn, output, reset=reset, dense_groups=dense_groups)
        show_warnings([str(w.message) for w in caught if issubclass(w.category, NeuroCUDAWarning)], err=True)
        show(str(snn.report))
        if snn.input_grid is not None:
            show(f"\nweights of {weight_bits} bits; the file expects inputs that are {snn.input_grid}")
        if plot is not None and snn.report is not None:
            snn.report.plot(plot)
        show(f"\nwritten to {output}" + (f", {plot}" if plot is not None else ""))


def _model(name: str, example: Tensor | None) -> nn.Module:
    from neurocuda.convert.tracing.model_files import read_model

    if ":" in name and not os.path.exists(name):
        model = _call(name, "MODEL")
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"MODEL: expected {name} to return a torch.nn.Module, found a {type(model).__name__}")
        return model
    if example is None:
        raise ArgumentError("--data: expected an .npy or .npz file with a model from a file, found MODULE:FUNCTION")
    return read_model(name, torch.cat([example, example]))


def _data(name: str) -> Any:
    if ":" in name and not os.path.exists(name):
        return _call(name, "--data")
    arrays = load_arrays(name)
    if isinstance(arrays, np.ndarray):
        return _samples(arrays, name)
    if "x" not in arrays:
        raise ArgumentError(f"--data, {name}: expected an array 'x' and perhaps labels 'y', found {', '.join(arrays)}")
    x = _samples(arrays["x"], name)
    return (x, torch.from_numpy(arrays["y"].astype(np.int64))) if "y" in arrays else x


def _samples(array: np.ndarray, name: str) -> Tensor:
    if array.dtype.kind not in "biuf" or array.ndim < 2:
        raise ArgumentError(
            f"--data, {name}: expected real numbers [N, *shape], found {array.dtype} of shape {array.shape}"
        )
    return torch.from_numpy(array.astype(np.float32))


def _call(name: str, argument: str) -> Any:
    """Calls the function MODULE:FUNCTION and returns its result. The current folder is searched for modules too."""
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(f"{argument}: expected MODULE:FUNCTION, found {name!r} ({error})") from error
    if not callable(function):
        raise ArgumentError(f"{argument}: expected {name!r} to be a function, found a {type(function).__name__}")
    return function()
