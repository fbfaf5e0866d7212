"""A torch model and the network traced from it, compared on random frames."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurocuda import Graph
from neurocuda.convert.rectified import evaluate_all
from neurocuda.convert.trace import trace

# Rounding of float64: sums of some thousand terms over up to a hundred layers, relative to the largest result.
EXACT = 1e-11
# The same for float32, whose unit is 2^29 times that of float64.
ROUNDED = 1e-4


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with statistics and factors of its normalisations that are none of 0 and 1, and all of its biases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                if module.running_mean is not None and module.running_var is not None:
                    module.running_mean.normal_(0, 0.3, generator=generator)
                    module.running_var.uniform_(0.5, 2, generator=generator)
                if module.affine:
                    module.weight.uniform_(0.6, 1.4, generator=generator)
                    module.bias.normal_(0, 0.3, generator=generator)
    return model


def frames(*shape: int, seed: int = 1) -> Tensor:
    """Frames of the standard normal distribution, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flat(name: str, results: Any) -> dict[str, Tensor]:
    """The results of a model by the names of their Outputs."""
    if isinstance(results, Mapping):
        pairs = [(str(key), value) for key, value in results.items()]
    elif isinstance(results, Sequence):
        pairs = [(str(number), value) for number, value in enumerate(results)]
    else:
        return {name: results}
    return {own: tensor for key, value in pairs for own, tensor in flat(f"{name}.{key}", value).items()}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def check(model: nn.Module, x: Tensor) -> Graph:
    """Trace the model, and compare the network with it in float64 and in float32; the model must stay as it is."""
    before, modes = state(model), [module.training for module in model.modules()]
    graph = trace(model, x.to(next(model.parameters(), x).dtype))
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modes == [module.training for module in model.modules()]
    own = copy.deepcopy(model).eval()
    for dtype, tolerance in ((torch.float32, ROUNDED), (torch.float64, EXACT)):
        with torch.no_grad():
            expected = flat("output", own.to(dtype)(x.to(dtype)))
        found, _ = evaluate_all(graph, x, dtype=dtype)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name].dtype == dtype
            assert found[name].shape == value.shape, name
            scale = max(1.0, float(value.abs().max()))
            assert float((found[name] - value).abs().max()) <= tolerance * scale, (name, dtype)
    return graph


def kinds(graph: Graph) -> dict[str, int]:
    """How many nodes of each type there are, inputs and outputs left out."""
    counts: dict[str, int] = {}
    for node in graph.nodes.values():
        if node.type not in ("Input", "Output"):
            counts[node.type] = counts.get(node.type, 0) + 1
    return counts
