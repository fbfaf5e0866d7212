"""Reads models from files of `torch.export` and TorchScript as modules for the tracer."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from neurocuda.errors import FileError, UnsupportedModuleError

_MARKS = frozenset({"archive_format", "serialized_exported_program.json"})
_CODE = "constants.pkl"
"""Names in archives of torch.export and of TorchScript that other archives of torch do not have."""


def read_model(path: str | os.PathLike[str], example: Tensor) -> nn.Module:
    """The model in a file of `torch.export.save` or `torch.jit.save`, in terms of torch's functions.

    example: samples [B, *shape], on which TorchScript is traced. Neither kind of file runs code of its own.
    Raises `FileError` for another file, `UnsupportedModuleError` for operators without a meaning in a spiking network.
    """
    if not Path(path).is_file():
        raise FileError(f"{path}: expected a model, found {'a folder' if Path(path).is_dir() else 'no such file'}")
    expected = f"{path}: expected a file of torch.export.save or torch.jit.save"
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise FileError(f"{expected}, found {error}") from error
    if not names & {*_MARKS, _CODE}:
        raise FileError(f"{expected}, found another archive (weights alone, or a pickled module, are no model)")
    try:
        program = _program(path, None if names & _MARKS else example)
    except Exception as error:  # torch raises many types of errors
        raise FileError(f"{expected}, found one that cannot be read ({type(error).__name__}: {error})") from error
    return _functions(program)


def _program(path: str | os.PathLike[str], example: Tensor | None) -> fx.GraphModule:
    """The program in a file of `torch.export`, or with an example of TorchScript."""
    if example is None:
        program = torch.export.load(os.fspath(path))
    else:
        from torch._export.converter import TS2EPConverter

        script = torch.jit.load(os.fspath(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        program = TS2EPConverter(script, (example,)).convert()
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    return module


def _functions(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph with torch's functions in place of the operators behind them."""
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)  # it checks the sizes of the example
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            name = node.target._schema.name.removeprefix("aten::").removesuffix("_")
            if name not in _FUNCTIONS and name not in _REORDERED:
                raise UnsupportedModuleError(
                    f"operator {node.name!r}, {node.target}: it has no meaning in a spiking network; instead: "
                    f"{', '.join(sorted({*_FUNCTIONS, *_REORDERED}))}"
                )
            with module.graph.inserting_before(node):
                if name in _REORDERED:
                    new = _REORDERED[name](module.graph, *node.args, **node.kwargs)
                else:
                    new = module.graph.call_function(_FUNCTIONS[name], node.args, node.kwargs)
            node.replace_all_uses_with(new)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    return fx.GraphModule(module, module.graph)  # of the plain class, which has train() and eval()


def _same(graph: fx.Graph, x: fx.Node, *rest: Any, **named: Any) -> fx.Node:
    return x


def _batch_norm(graph: fx.Graph, x: fx.Node, *rest: Any) -> fx.Node:
    weight, bias, mean, var, _, rate, eps, *_ = rest
    return graph.call_function(functional.batch_norm, (x, mean, var, weight, bias, False, rate, eps))


def _convolution(graph: fx.Graph, x: fx.Node, *rest: Any) -> fx.Node:
    w, b, stride, padding, dilation, transposed, _, groups = rest
    if transposed:
        raise UnsupportedModuleError(f"operator {x.name!r}, a transposed convolution: it is not known; instead: others")
    apply = functional.conv1d if len(stride) == 1 else functional.conv2d
    return graph.call_function(apply, (x, w, b, stride, padding, dilation, groups))


_POOLS = ("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d")
_LAYERS = ("conv1d", "conv2d", "linear", "relu", "relu6", "hardtanh", "adaptive_max_pool2d", *_POOLS)
_OPERATIONS = ("clamp", "clamp_min", "add", "sub", "mul", "div", "cat", "mean", "flatten", "reshape", "unsqueeze")
_IDENTITIES = ("dropout", "feature_dropout", "contiguous", "detach", "clone", "alias")

_FUNCTIONS: Mapping[str, Any] = {
    **{name: getattr(functional, name) for name in _LAYERS},
    **{name: getattr(torch, name) for name in (*_OPERATIONS, "squeeze")},
    "view": torch.reshape,
}

_REORDERED: Mapping[str, Callable[..., fx.Node]] = {
    "convolution": _convolution,
    "batch_norm": _batch_norm,
    **dict.fromkeys(_IDENTITIES, _same),
}
"""Operators whose arguments come in another order than those of torch's function, or that return their input."""
