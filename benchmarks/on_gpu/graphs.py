"""A run of PyTorch in a CUDA graph, as a user would capture it by hand."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def graphed(run: Callable[[], T]) -> Callable[[], T]:
    """`run` captured at its first call and replayed at every one; its results are overwritten by the next."""
    captured: list[tuple[torch.cuda.CUDAGraph, T]] = []

    def replay() -> T:
        if not captured:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                results = run()
            captured.append((graph, results))
        graph, results = captured[0]
        graph.replay()
        return results

    return replay
