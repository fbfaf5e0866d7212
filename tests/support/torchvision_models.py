"""torchvision's models, for tests: random weights, and BatchNorms that do something. Skips where there are none."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: list[Any] = []


def models() -> ModuleType:
    """The module torchvision.models, where need be without torchvision's compiled operators, which no model needs."""
    try:
        import torchvision.models as found
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:  # built for another torch than this one: its operators are not there
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in _OPERATORS:
            _library[0].define(name + _SIGNATURE)
        import torchvision.models as found
    return found


def model(name: str, seed: int = 0, **options: Any) -> nn.Module:
    """A model of torchvision in train mode, its weights, running statistics and affine parameters drawn."""
    torch.manual_seed(seed)
    network: nn.Module = getattr(models(), name)(weights=None, **options)
    return with_statistics(network)


def with_statistics(network: nn.Module) -> nn.Module:
    """The same network with running statistics and affine parameters of BatchNorms drawn, as if it were trained."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    module.weight.uniform_(-0.2, 1.5)
                    module.bias.normal_(0, 0.2)
    return network
