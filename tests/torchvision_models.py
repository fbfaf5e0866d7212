"""torchvision's models with random weights; only their layouts are of use here.

torchvision's compiled part needs the very build of torch that it was made for. Its models do not need that part, but
its import declares the shapes of two operators of it, which must be there.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

_DECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_LIBRARIES: list[torch.library.Library] = []  # an operator lives as long as its library


def models() -> ModuleType:
    """`torchvision.models`; the test is skipped where torchvision is not installed."""
    try:
        import torchvision.models
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for schema in _DECLARED:
            library.define(schema)
        _LIBRARIES.append(library)
        import torchvision.models
    except ImportError as error:
        pytest.skip(f"torchvision is not installed ({error})")
    return torchvision.models
